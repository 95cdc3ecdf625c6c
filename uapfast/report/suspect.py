"""What the page of one suspect shows, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from uapfast.examination.calibration import convicts_nobody, surrogates_above
from uapfast.examination.error_rates import rates_for
from uapfast.method import decision, spread
from uapfast.method.decision import Assessment
from uapfast.method.lineage import LineageScorer
from uapfast.models.forms import LABELS, WHOLE
from uapfast.reference import Reference
from uapfast.report.alternatives import Alternative, alternatives
from uapfast.report.evidence import Evidence
from uapfast.types import Verdict


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a suspect stands: z of everybody, on the views and in the form of answers that were used.

    Attributes:
        innocents: of the pool's honest models with the victim.
        pairs: of the same models with each twin in the victim's place; empty without twins.
        own_twins: of the suspect with each twin in the victim's place; empty where only the verdict is there.
        own: of the suspect with the victim; None where its answers allow no comparison.
        threshold: z from which a suspect is convicted, all else as it is; infinite if none is.
    """

    innocents: tuple[float, ...]
    pairs: tuple[float, ...]
    own_twins: tuple[float, ...]
    own: float | None
    threshold: float


@dataclass(frozen=True, slots=True)
class ScreenContext:
    """The screen that a suspect was found in.

    Attributes:
        suspects: rows of the reference.
        p_holm: p corrected for the whole list, which naming one party rests on; None where it is not told.
        q_value: orders the list; None where it is not told.
    """

    suspects: int
    p_holm: float | None = None
    q_value: float | None = None


@dataclass(frozen=True, slots=True)
class SuspectReport:
    """Everything on the page.

    Attributes:
        name: of the suspect.
        victim: what the victim's reference is called.
        verdict: of this suspect.
        standing: where it stands; None where nothing was comparable.
        alternatives: what else would explain the answers, and what speaks to it.
        rates: rows of :func:`uapfast.examination.error_rates.rates_for`.
        queries: that the whole examination would ask.
        twins: of the pool.
        innocents: of the pool.
        power: share of the pool's own known copies that would be convicted; None if it has none.
        among: the screen that it was part of, or None.
        evidence: files beside the page, and how to check them.
        spent: what asking cost besides, name to text.
    """

    name: str
    victim: str
    verdict: Verdict
    standing: Standing | None
    alternatives: tuple[Alternative, ...]
    rates: tuple[Mapping[str, Any], ...]
    queries: int
    twins: int
    innocents: int
    power: float | None
    among: ScreenContext | None
    evidence: Evidence
    spent: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in np.ravel(values))


def standing_of(reference: Reference, verdict: Verdict, assessed: Assessment | None) -> Standing | None:
    """Where a suspect stands.

    Args:
        reference: that it was held against.
        verdict: what came of it.
        assessed: what the verdict rests on; None to take the pool as it is without the suspect.

    Returns:
        None where the verdict has no z.
    """
    if verdict.z is None:
        return None
    twins = len(reference.candidates) - 1
    if assessed is not None and assessed.pairs is not None:
        n = len(assessed.innocents)
        every = assessed.pairs[: n * (twins + 1)].reshape(n, twins + 1)
        own_twins = assessed.pairs[n * (twins + 1) :]
    else:
        form = LABELS if verdict.output == "labels" else WHOLE
        part = None if verdict.views_used >= reference.plan.views else verdict.views_used
        scorer = reference.statistic.scorer(form, part)
        if not (isinstance(scorer, LineageScorer) and scorer.has_twins):
            z = _floats(reference.statistic.pool_scores().innocent_z)
            return Standing(z, (), (), verdict.z, float("inf"))
        every, own_twins = spread.standings(scorer.innocent_scores()[0]), np.zeros(0)
    nobody = convicts_nobody(reference, verdict.alpha) is not None
    threshold = float("inf") if nobody else decision.needed_z(verdict.alpha, twins, every[:, 0], every)
    return Standing(_floats(every[:, 0]), _floats(every[:, 1:]), _floats(own_twins), verdict.z, threshold)


def collect_suspect(
    reference: Reference,
    verdict: Verdict,
    *,
    name: str,
    victim: str,
    assessed: Assessment | None = None,
    among: ScreenContext | None = None,
    evidence: Evidence | None = None,
    spent: Mapping[str, str] | None = None,
) -> SuspectReport:
    """The page's data for one suspect.

    Args:
        reference: that it was held against.
        verdict: of :func:`uapfast.verify`, of a record, or of a row of a screening table.
        name: of the suspect.
        victim: what the reference is called.
        assessed: what ``verify`` told ``seen``; without it the suspect is not drawn with the twins.
        among: the screen that it was part of.
        evidence: the files beside the page; none by default.
        spent: what asking cost besides queries, name to text.
    """
    evidence = evidence or Evidence()
    twins = len(reference.candidates) - 1
    labels = verdict.output == "labels"
    return SuspectReport(
        name=name,
        victim=victim,
        verdict=verdict,
        standing=standing_of(reference, verdict, assessed),
        alternatives=alternatives(reference, verdict, evidence.commitment),
        rates=tuple(rates_for(verdict.alpha, twins, labels=labels)),
        queries=reference.plan.queries,
        twins=twins,
        innocents=len(reference.innocents),
        power=surrogates_above(reference, verdict.alpha),
        among=among,
        evidence=evidence,
        spent=spent or {},
    )


__all__ = ["ScreenContext", "Standing", "SuspectReport", "collect_suspect", "standing_of"]
