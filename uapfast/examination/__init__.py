"""One suspect before one reference; ``verify`` and ``screen`` share it."""

from uapfast.examination.design import Design
from uapfast.examination.examination import Examination
from uapfast.examination.preprocessing import asked_as_victim, preprocessing_note
from uapfast.examination.remarks import told

__all__ = ["Design", "Examination", "asked_as_victim", "preprocessing_note", "told"]
