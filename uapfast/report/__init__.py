"""The report: verdicts of many suspects against one reference as one HTML file that opens offline."""

from __future__ import annotations

from uapfast.report.collect import collect
from uapfast.report.data import Answer, Report, StripItem, SuspectRow, summarise_detection
from uapfast.report.page import render, write_report

__all__ = [
    "Answer",
    "Report",
    "StripItem",
    "SuspectRow",
    "collect",
    "render",
    "summarise_detection",
    "write_report",
]
