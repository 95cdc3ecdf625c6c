"""Which level was used, which one was committed to, and what the default is: said in one way everywhere."""

from __future__ import annotations

from typing import Any

from uapfast.config import ALPHA


def levels_said(used: float, committed: float | None, unseen: bool = False) -> str:
    """For whoever reads a verdict.

    Args:
        used: level of the verdict.
        committed: that was committed to; None where none is known.
        unseen: there is a commitment, and it was not seen.
    """
    if unseen:
        return f"level {used:g} was used, the commitment to one was not seen, the default is {ALPHA:g}"
    fixed = "none was committed to" if committed is None else f"{committed:g} was committed to"
    return f"level {used:g} was used, {fixed}, the default is {ALPHA:g}"


def committed_level(told: Any) -> float | None:
    """The level in what a verdict or a statement says of its commitment; None where it says none."""
    try:
        found = float(told["level"])
    except (KeyError, TypeError, ValueError):
        return None
    return found if 0 < found < 1 else None


def compared(used: float) -> str:
    """A level beside the default."""
    if used == ALPHA:
        return "which is the default"
    return f"{'looser' if used > ALPHA else 'stricter'} than the default {ALPHA:g}"


def level_remarks(used: float) -> list[str]:
    """What a verdict says of its level; nothing where it is the default."""
    if used == ALPHA:
        return []
    return [f"it was judged at level {used:g}, {compared(used)}"]


def moved_remark(asked: float, used: float) -> str:
    """What a verdict says that was given at another level than its answers were asked for."""
    how = "raised" if used > asked else "lowered"
    when = f"the level was {how} after the answers had come"
    return f"{when}: they were requested at {asked:g}, and judged at {used:g}"


__all__ = ["committed_level", "compared", "level_remarks", "levels_said", "moved_remark"]
