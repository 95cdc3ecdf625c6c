"""One suspect before one reference; ``verify`` and ``screen`` share it."""

from uapfast.examination.design import Design
from uapfast.examination.examination import Examination
from uapfast.examination.preprocessing import (
    Reading,
    Statistics,
    asked_as_victim,
    normalises_itself,
    preprocessing_note,
)
from uapfast.examination.remarks import told

__all__ = [
    "Design",
    "Examination",
    "Reading",
    "Statistics",
    "asked_as_victim",
    "normalises_itself",
    "preprocessing_note",
    "told",
]
