"""Stamps of results: of which state of a suspect's file, and with which time limit, a stored row holds."""

from __future__ import annotations

RETRY = "again"  # stamp of a result that a resumed run tries once more
LATE = " took more than "


def late(stamp: str, seconds: float) -> str:
    """Stamp of a suspect that took more than ``seconds``: a run that gives it more time tries once more."""
    return f"{stamp}{LATE}{seconds!r}"


def holds(found: str, stamp: str, seconds: float) -> bool:
    """Whether a result stamped ``found`` holds for a file of that stamp, in a run that gives ``seconds``."""
    own, _, limit = found.partition(LATE)
    return own == stamp and (not limit or float(limit) >= seconds)


__all__ = ["RETRY", "holds", "late"]
