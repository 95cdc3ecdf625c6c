"""The application with every command registered, in the order of ``uapfast --help``."""

from __future__ import annotations

from uapfast.cli import owner, queries, report, screen, suspect
from uapfast.cli.base import app

__all__ = ["app", "owner", "queries", "report", "screen", "suspect"]
