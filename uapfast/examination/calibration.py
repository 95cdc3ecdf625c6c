"""What a reference can convict, told from the scores of its own pool."""

from __future__ import annotations

from typing import Any

import numpy as np

from uapfast.method import decision
from uapfast.reference import FORMAT, Reference

LEVELS = (0.01, 0.001, 0.0001)
NO_UAP = "none: every query is a clean point (generate --show-uap makes the victim's all the same)"


def threshold_z(reference: Reference, alpha: float) -> float:
    """The z from which a suspect is convicted, the pool's innocents unchanged; infinite if none is."""
    found = reference.statistic.pool_scores()
    if not reference.statistic.scorer().has_twins:
        return decision.upper_t(alpha, len(found.innocent_statistic) - 1)
    twins = len(reference.candidates) - 1
    return decision.needed(alpha, twins, found.innocent_statistic, found.innocent_pairs)


def surrogates_above(reference: Reference, alpha: float) -> float | None:
    """Share of the pool's own surrogates above :func:`threshold_z`; None without surrogates."""
    z = reference.statistic.pool_scores().surrogate_z
    return float((z > threshold_z(reference, alpha)).mean()) if len(z) else None


def summary(reference: Reference) -> dict[str, Any]:
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
            }
            for alpha in LEVELS
        },
        **reference.settings,
        **({} if len(reference.uaps) else {"uap": NO_UAP}),
    }


__all__ = ["summary", "surrogates_above", "threshold_z"]
