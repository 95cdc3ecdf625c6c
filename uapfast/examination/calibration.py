"""What a reference can convict, told from the scores of its own pool."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from uapfast.examination.logged import mostly_logged
from uapfast.method import decision
from uapfast.method.sequential import too_few
from uapfast.reference import FORMAT, Reference

LEVELS = (0.01, 0.001, 0.0001)
NO_UAP = "none: every query is a clean point (generate --show-uap makes the victim's all the same)"


def convicts_nobody(reference: Reference, alpha: float) -> str | None:
    """Why nobody is convicted by a reference at a level, whatever is answered; None where somebody may be.

    One sentence with its subject, which ``info``, ``generate`` and ``commit`` say.
    """
    twins = len(reference.candidates) - 1 if reference.statistic.scorer().has_twins else 0
    innocents, views = len(reference.innocents), reference.plan.views
    pairs, needed = (twins + 1) * (innocents + 1), ceil(1.0 / (decision.BEYOND * alpha) - 1e-9)
    why = next(iter(reference.limits), None) or too_few(views)
    why = why or mostly_logged(reference.statistic.pool.logged, views)
    if why is None and twins and 1.0 / (decision.BEYOND * pairs) > alpha:
        why = (
            f"{twins} twins and {innocents} honest models make {pairs} pairs, that is (twins + 1) x (honest "
            f"models + 1), and it takes {needed}"
        )
    if why is None and not twins and 1.0 / (innocents + 1) > alpha:
        why = f"without twins it takes {round(1 / alpha) - 1} honest models, and it has {innocents}"
    return None if why is None else f"This reference convicts nobody at {alpha:g}: {why}"


def threshold_z(reference: Reference, alpha: float) -> float:
    """The z from which a suspect is convicted, the pool's innocents unchanged; infinite if none is."""
    if convicts_nobody(reference, alpha) is not None:
        return float("inf")
    found = reference.statistic.pool_scores()
    if not reference.statistic.scorer().has_twins:
        return decision.upper_t(alpha, len(found.innocent_statistic) - 1)
    twins = len(reference.candidates) - 1
    return decision.needed_z(alpha, twins, found.innocent_statistic, found.innocent_pairs)


def surrogates_above(reference: Reference, alpha: float) -> float | None:
    """Share of the pool's own surrogates above :func:`threshold_z`; None without surrogates."""
    z = reference.statistic.pool_scores().surrogate_z
    return float((z > threshold_z(reference, alpha)).mean()) if len(z) else None


def reference_summary(reference: Reference) -> dict[str, Any]:
    """What ``uapfast info`` shows; JSON types."""
    relations = [record.relation for record in reference.records]
    return {
        "format": FORMAT,
        "sha256": reference.sha256,
        "encoder": reference.encoder,
        "classes": reference.classes,
        "input": list(reference.shape),
        "views": reference.plan.views,
        "points_per_view": reference.plan.per_view,
        "ray": list(reference.plan.scale),
        "queries": reference.plan.queries,
        "wire_safe": reference.plan.wire_safe,
        "pool": {relation: relations.count(relation) for relation in ("twin", "piracy", "homologous")},
        "innocents": len(reference.innocents),
        "conviction": {
            f"{alpha:g}": {
                "threshold_z": z if np.isfinite(z := threshold_z(reference, alpha)) else None,
                "pool_surrogates_above": surrogates_above(reference, alpha),
                "convicts_nobody": convicts_nobody(reference, alpha),
            }
            for alpha in LEVELS
        },
        **reference.settings,
        **({} if len(reference.uaps) else {"uap": NO_UAP}),
    }


__all__ = ["convicts_nobody", "reference_summary", "surrogates_above", "threshold_z"]
