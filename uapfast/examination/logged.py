"""What a verdict says where queries came from the owner's log of a suspect's account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def logged_points(settings: Mapping[str, Any]) -> int:
    """How many query points of a reference are logged images."""
    return int((settings.get("log") or {}).get("asked", 0))


def log_remarks(settings: Mapping[str, Any], points: int) -> list[str]:
    """Sentences for a verdict, none where no logged image was asked.

    Args:
        settings: of the reference.
        points: query points in all.
    """
    asked = logged_points(settings)
    if not asked:
        return []
    return [
        f"{asked} of the {points} query points come from the owner's query log "
        f"({settings['log']['images']} images, SHA-256 {settings['log']['sha256'][:12]}...); the owner "
        "states that the victim's answers did not influence which images these are; otherwise p_candidate "
        "and p_joint are invalid"
    ]


def mostly_logged(logged: int, views: int) -> str | None:
    """Why the first ``views`` views, ``logged`` of which a log fills, convict nobody; None if they may.

    The account knows these images, and no innocent was trained on them: the owner's are to weigh as much.
    """
    own = views - logged
    if own >= logged:
        return None
    return (
        f"{min(logged, views)} of the {views} views that were asked are of the query log: with more views of "
        "the log than of the owner's images nobody is convicted"
    )


__all__ = ["log_remarks", "logged_points", "mostly_logged"]
