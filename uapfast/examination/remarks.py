"""What every verdict says besides its decision: the reference's settings, and how the suspect was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from uapfast._version import versions
from uapfast.examination.levels import level_remarks
from uapfast.examination.logged import log_remarks, logged_points
from uapfast.models.answers import Answers
from uapfast.models.forms import WHOLE, Form
from uapfast.reference import Reference


def remarks(
    reference: Reference,
    notes: Sequence[str],
    first: Answers | None,
    order: Tensor | None,
    form: Form,
    alpha: float,
) -> list[str]:
    """Sentences that are said whatever the decision.

    Args:
        reference: which the suspect stands before.
        notes: what was noticed while it was asked.
        first: its first answers, if any.
        order: int64 ``[K]`` class order that was given, if any.
        form: how it shows its answers.
        alpha: level of the verdict.
    """
    said = list(notes)
    if first is not None and first.note:
        said.append(f"its answers were read as {first.note}")
    if first is not None and order is not None:
        left = "; classes without a place in it were left out" if first.classes > len(order) else ""
        said.append(f"its classes were read in the given class order{left}")
    if form != WHOLE:
        said.append(f"it shows {form}: the innocents' answers were reduced to that form as well")
    said += level_remarks(alpha)
    said += log_remarks(reference.settings, len(reference.plan.points))
    return said + [f"the reference warns: {warning}" for warning in reference.warnings]


def told(reference: Reference) -> dict[str, Any]:
    """What a verdict says of the reference's settings; JSON types."""
    return {
        "encoder": reference.encoder,
        "ray": list(reference.plan.scale),
        "twins": len(reference.candidates) - 1,
        "twins_made": reference.settings.get("twins", {}).get("kind", "full"),
        "innocents": len(reference.innocents),
        "suspect_side_exact": reference.inexact is None,
        "victim_selected": reference.settings.get("twins", {}).get("selected"),
        "logged_points": logged_points(reference.settings),
        "versions": versions(),
    }


__all__ = ["remarks", "told"]
