"""``verify``: a suspect's answers to a verdict."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import Any

import numpy as np
from torch import Tensor

from uapfast._version import versions
from uapfast.config import ALPHA, check
from uapfast.errors import SuspectError
from uapfast.method.decision import Outcome, decide, view_level_p
from uapfast.reference import Reference, as_reference
from uapfast.types import Verdict
from uapfast.verbs.encode import ask_suspect, reduced_features

log = logging.getLogger(__name__)


def verify(
    reference: Reference | str | os.PathLike[str],
    suspect: Any,
    *,
    alpha: float = ALPHA,
    output: str = "auto",
    device: str = "cpu",
) -> Verdict:
    """Decide whether a suspect descends from the reference's victim.

    Args:
        reference: from :func:`uapfast.generate` or :func:`uapfast.load`, or its file.
        suspect: as :func:`uapfast.encode`.
        alpha: level of a conviction on each side, in (0, 0.5); see docs/verdicts.md for what it bounds.
        output: what the suspect answers with, or ``auto``.
        device: where an ``nn.Module`` is run.

    Returns:
        The verdict. Unusable answers (NaN, wrong class count) give ``invalid``, not an exception.

    Raises:
        InputError: ``alpha`` out of range, or a suspect that is not something that answers.
    """
    good = isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and 0 < alpha < 0.5
    check(good, "verify", "alpha", "a level in (0, 0.5)", repr(alpha))
    reference = as_reference(reference, "verify")
    try:
        answers, kind, sha256 = ask_suspect(reference, suspect, output, device)
    except SuspectError as exc:
        log.info("verify: invalid, %s", exc)
        return invalid(reference, str(exc), alpha=alpha)
    scorer = reference.scorer(kind == "labels")
    assessment = scorer.assess(reduced_features(reference, answers, kind))
    outcome = decide(assessment, alpha)
    log.info("verify: %s, p %.3g, reference %.12s", outcome.decision, outcome.p, reference.sha256)
    reasons = list(outcome.reasons)
    if kind == "labels":
        reasons.append("the suspect answers with labels only: the pool was reduced to labels as well")
    return _verdict(
        reference,
        outcome,
        alpha,
        tuple(reasons),
        p_view=view_level_p(assessment.views, assessment.innocent_views),
        similarity=assessment.similarity,
        output=kind,
        suspect_sha256=sha256 or _answers_hash(answers),
    )


def _verdict(
    reference: Reference, outcome: Outcome, alpha: float, reasons: tuple[str, ...], **given: Any
) -> Verdict:
    candidate = outcome.candidate
    return Verdict(
        decision=outcome.decision,
        p_value=outcome.p,
        p_candidate=candidate.p if candidate else None,
        p_candidate_floor=candidate.floor if candidate else None,
        p_candidate_exact=candidate.exact if candidate else None,
        p_suspect=outcome.suspect.p,
        p_suspect_floor=outcome.suspect.floor,
        p_suspect_exact=outcome.suspect.exact,
        z=outcome.z,
        rank=outcome.rank,
        views_used=reference.plan.views,
        queries_used=reference.plan.queries,
        alpha=alpha,
        reasons=reasons,
        reference_sha256=reference.sha256,
        settings=_settings(reference),
        **given,
    )


def _settings(reference: Reference) -> dict[str, Any]:
    return {
        "encoder": reference.encoder,
        "ray": list(reference.plan.scale),
        "twins": len(reference.candidates) - 1,
        "innocents": len(reference.innocents),
        "versions": versions(),
    }


def invalid(
    reference: Reference, reason: str, *, alpha: float = ALPHA, suspect_sha256: str | None = None
) -> Verdict:
    """The verdict of a suspect whose weights or answers cannot be used: never an acquittal."""
    return Verdict(
        decision="invalid",
        p_value=None,
        p_candidate=None,
        p_candidate_floor=None,
        p_candidate_exact=None,
        p_suspect=None,
        p_suspect_floor=None,
        p_suspect_exact=None,
        p_view=None,
        similarity=None,
        z=None,
        rank=None,
        views_used=0,
        queries_used=0,
        alpha=alpha,
        reasons=(reason,),
        output=None,
        reference_sha256=reference.sha256,
        suspect_sha256=suspect_sha256,
        settings=_settings(reference),
    )


def _answers_hash(answers: Tensor) -> str:
    """SHA-256 of the answers, rounded so that a device's last bits do not change it."""
    rounded = np.round(answers.numpy().astype(np.float64), 4) + 0.0
    return hashlib.sha256(rounded.tobytes()).hexdigest()
