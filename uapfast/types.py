"""Results that cross the public API. A leaf: imports only ``errors``; torch only for type checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Decision = Literal["piracy", "independent", "inconclusive", "invalid", "unavailable"]
Relation = Literal["modification", "extraction", "unclear"]
Progress = Callable[[int, int, str], None]  # called as ``progress(done, total, what)``
HOW_MADE = "how it was made: "  # begins the reason that says why a verdict has its relation
EXIT_CODES: dict[Decision, int] = {
    "independent": 0,
    "piracy": 1,
    "inconclusive": 3,
    "invalid": 4,
    "unavailable": 5,
}


@dataclass(frozen=True, slots=True, eq=False)
class UniversalPerturbation:
    """A UAP, or a batch of UAPs (one per model or seed), with its cost. Equal to itself only.

    Attributes:
        v: float32 ``[C,H,W]``, or ``[P,C,H,W]`` for several models; input units 0..1.
        eps: radius of the ball that holds ``v``.
        norm: ``linf`` or ``l2``.
        method: ``deepfool``, ``margin`` or ``contrastive``.
        fooling_rate: share of held-out points whose label changes under ``v``; one per model.
        random_sign_rate: the same for random-sign perturbations of the same norm; one per model.
        size: norm of ``v`` reached (in ``norm``); one per model.
        passes: passes over the images; one per model.
        forwards: samples sent forward, over all models.
        backwards: samples sent backward, over all models.
        seed: the seed of its random numbers.
    """

    v: torch.Tensor
    eps: float
    norm: str
    method: str
    fooling_rate: float | tuple[float, ...]
    random_sign_rate: float | tuple[float, ...]
    size: float | tuple[float, ...]
    passes: int | tuple[int, ...]
    forwards: int
    backwards: int
    seed: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the answers of one suspect say about its descent; docs/verdicts.md explains every field.

    Attributes:
        decision: ``piracy``, ``independent``, ``inconclusive``, ``invalid``, or ``unavailable`` (the suspect
            did not answer, or the budget was spent before enough was asked).
        p_value: the largest of ``p_candidate``, ``p_suspect`` and ``p_joint``. Never below a tenth of
            ``p_joint_floor`` (without twins: of ``p_suspect_floor``). None if the answers allow no
            comparison; the other p-values are None then, too.
        p_is_bound: whether ``p_value`` is that smallest value. p is then at most ``p_value``.
        p_candidate: p-value of the candidate side: the score with the victim beside the scores with its
            twins, assuming normal scores. Without twins all fields of the candidate side and of the joint
            rank are None.
        p_candidate_floor: smallest p-value of the candidate side without that assumption, 1/(m+1) for m
            twins.
        p_suspect: p-value of the suspect side: the suspect beside the innocents, assuming normal scores.
        p_suspect_floor: smallest p-value of the suspect side without that assumption, 1/(n+1) for n
            innocents.
        p_candidate_exact: rank p-value of the candidate side, at or above its floor.
        p_suspect_exact: rank p-value of the suspect side, at or above its floor.
        p_joint: p-value of both sides at once: the pair of suspect and victim among all pairs of an honest
            model and a candidate. Below its floor it is extrapolated with a heavy tail.
        p_joint_floor: smallest rank p-value of twins and innocents together, 1/((n+1)(m+1)).
        p_joint_exact: rank p-value of both sides at once, at or above its floor.
        p_view: the paper's view-level t-test, for comparison with the literature; NOT a false-accusation
            rate.
        similarity: mean cosine of the suspect's view embeddings with the victim's, -1..1.
        z: score with the victim minus the mean score with the twins, divided by a moderated spread (without
            twins: by the innocents' spread).
        z_pool: the suspect side's statistic, in standard deviations of the innocents.
        rank: place of the victim among the candidates, 1 is the closest.
        agreement: share of the queries, 0..1, to which the suspect gives the label that most of the pool's
            models give.
        agreement_least: the smallest such share among the pool's own models. A share far below it means that
            the suspect was queried wrongly, or changed much: it is ``invalid`` unless its score convicts.
        views_used: number of views that were scored.
        queries_used: number of answers asked of the suspect.
        alpha: significance level of the decision.
        reasons: plain sentences, most important first.
        output: what the suspect answered with: ``logits``, ``probabilities`` or ``labels``.
        reference_sha256: SHA-256 of the reference's content.
        suspect_sha256: SHA-256 of the suspect's weights, or of its answers as given (to 4 digits) if its
            weights are not known.
        settings: all other settings, versions included; JSON types.
        relation: how a convicted suspect was made, as far as its answers show it: ``modification`` of the
            victim's weights, ``extraction`` (training on its answers), or ``unclear``. None for every other
            decision. It is weaker than the decision (docs/verdicts.md, section 10). The column ``relation``
            of a pool's manifest is something else: a model's part in the pool.
    """

    decision: Decision
    p_value: float | None
    p_is_bound: bool | None
    p_candidate: float | None
    p_candidate_floor: float | None
    p_candidate_exact: float | None
    p_suspect: float | None
    p_suspect_floor: float | None
    p_suspect_exact: float | None
    p_joint: float | None
    p_joint_floor: float | None
    p_joint_exact: float | None
    p_view: float | None
    similarity: float | None
    z: float | None
    z_pool: float | None
    rank: int | None
    agreement: float | None
    agreement_least: float | None
    views_used: int
    queries_used: int
    alpha: float
    reasons: tuple[str, ...]
    output: str | None
    reference_sha256: str
    suspect_sha256: str | None
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    relation: Relation | None = None

    @property
    def exit_code(self) -> int:
        """Of ``uapfast verify``: 0 independent, 1 piracy, 3 inconclusive, 4 invalid, 5 unavailable."""
        return EXIT_CODES[self.decision]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        out["reasons"] = list(self.reasons)
        return out

    def to_json(self, **kwargs: Any) -> str:
        """One JSON object, without NaN or Infinity; ``kwargs`` are passed to :func:`json.dumps`."""
        return json.dumps(self.to_dict(), allow_nan=False, **kwargs)

    def __repr__(self) -> str:
        """The decision first, then its numbers."""

        def show(value: float | None) -> str:
            return "-" if value is None else f"{value:.3g}"

        twins, innocents = (self.settings.get(name, "?") for name in ("twins", "innocents"))
        floor = self.p_suspect_floor if self.p_joint_floor is None else self.p_joint_floor
        return (
            f"Verdict({self.decision}, p_value={'<= ' if self.p_is_bound else ''}{show(self.p_value)} "
            f"against {twins} twins and {innocents} innocents (exact down to {show(floor)}) "
            f"[candidate {show(self.p_candidate)}, suspect {show(self.p_suspect)}], "
            f"similarity={show(self.similarity)}, z={show(self.z)}, rank={self.rank}, "
            f"views={self.views_used}, queries={self.queries_used}, alpha={self.alpha:g})"
        )
