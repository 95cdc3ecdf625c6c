"""The command line. ``main`` is the console script ``uapfast``."""

from __future__ import annotations

from uapfast.cli.run import main

__all__ = ["main"]
