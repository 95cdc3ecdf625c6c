"""One suspect before one reference; ``verify`` and ``screen`` share it."""

from uapfast.examination.design import Design
from uapfast.examination.examination import Examination
from uapfast.examination.preprocessing import (
    Reading,
    as_the_victim,
    asked_as_victim,
    preprocessing_note,
    reading_of,
)
from uapfast.examination.remarks import told

__all__ = [
    "Design",
    "Examination",
    "Reading",
    "as_the_victim",
    "asked_as_victim",
    "preprocessing_note",
    "reading_of",
    "told",
]
