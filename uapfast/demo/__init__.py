"""The whole method on scikit-learn's digits, by the public API alone: ``uapfast demo``."""

from __future__ import annotations

from uapfast.demo.steps import FULL, TINY, Scale, run_demo

__all__ = ["FULL", "TINY", "Scale", "run_demo"]
