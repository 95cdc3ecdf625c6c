"""One suspect before one reference; ``verify`` and ``screen`` share it."""

from uapfast.examination.design import Design
from uapfast.examination.examination import Examination, preprocessing_note, told

__all__ = ["Design", "Examination", "preprocessing_note", "told"]
