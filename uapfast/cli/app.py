"""The application with every command registered."""

from __future__ import annotations

from uapfast.cli import evidence, inspect, owner, planning, queries, report, screen, suspect
from uapfast.cli.base import app

__all__ = ["app", "evidence", "inspect", "owner", "planning", "queries", "report", "screen", "suspect"]
