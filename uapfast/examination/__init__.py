"""One suspect before one reference; ``verify`` and ``screen`` share it."""

from uapfast.examination.design import Design
from uapfast.examination.examination import Examination, told
from uapfast.examination.preprocessing import asked_as_victim, preprocessing_note

__all__ = ["Design", "Examination", "asked_as_victim", "preprocessing_note", "told"]
