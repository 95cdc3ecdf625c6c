"""The report: verdicts of many suspects against one reference as one HTML file that opens offline."""

from __future__ import annotations

from uapfast.report.collect import collect
from uapfast.report.data import Answer, Report, Row, StripItem, summarise
from uapfast.report.page import render, write_report

__all__ = ["Answer", "Report", "Row", "StripItem", "collect", "render", "summarise", "write_report"]
