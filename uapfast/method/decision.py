"""From scores to a decision: two nulls, each exact under its own exchangeability.

* Candidate side: the victim and its m twins come from one recipe with different seeds. For a
  suspect made without the victim they are exchangeable, so the victim ranks first with probability
  at most 1/(m+1), whatever the suspect is.
* Suspect side: an innocent suspect is exchangeable with the n innocents of the pool, so its
  statistic ranks first among theirs with probability at most 1/(n+1) (conformal p-value).

Both ranks end at a floor. Below it a Student t prediction interval extrapolates, under the
assumption that scores are normal. A conviction needs both sides; docs/verdicts.md says what holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from uapfast.types import Decision

Array = NDArray[np.float64]

UNCLEAR = 0.05  # at or below this p-value a suspect is not called independent
NO_TWINS = (
    "the pool has no twins of the victim: only the rank among its {n} innocents counts, which is never "
    "below {floor:.2g} ({needed} innocents could convict). Eight twins or more tell a copy from answers that "
    "merely lie on the victim's side"
)
JITTER = 1e-3  # a decision must survive a change of any similarity by this much


@dataclass(frozen=True)
class Side:
    """One null's answer.

    Attributes:
        p: Student t prediction p-value, one-sided.
        exact: rank p-value.
        floor: smallest value that ``exact`` can take.
        z: the value in prediction standard deviations of the others.
    """

    p: float
    exact: float
    floor: float
    z: float


def compare(value: float, others: Array, freedom: float | None = None, typical: float = 0.0) -> Side:
    """How unusual ``value`` is as one more draw beside ``others`` (larger is more unusual).

    The p-value is that of a Student t prediction interval, ``(value - mean) / (s * sqrt(1 + 1/n))``
    with n - 1 degrees of freedom (or ``freedom``); with fewer than two others, or no
    spread, it is the rank's.

    With ``typical`` given, the spread s of the others is moderated upwards with it, to at least
    ``sqrt((s^2 + typical^2) / 2)``: a spread that a few twins happen to show small is the commonest
    way to a false accusation (after Smyth 2004, who moderates both ways).
    """
    n = len(others)
    exact = (1.0 + float(np.sum(others >= value))) / (n + 1.0)
    floor = 1.0 / (n + 1.0)
    spread = float(np.std(others, ddof=1)) if n >= 2 else 0.0
    spread = max(spread, float(np.sqrt((spread**2 + typical**2) / 2.0)))
    if n < 2 or spread <= 1e-12:
        return Side(exact, exact, floor, 0.0)
    z = (value - float(np.mean(others))) / (spread * float(np.sqrt(1.0 + 1.0 / n)))
    # stdtr(f, -z) is t.sf(z, f) without its argument checks, which cost twenty times as much
    return Side(float(special.stdtr(freedom or n - 1, -z)), exact, floor, z)


def joint_freedom(twins: int, innocents: int) -> float:
    """Degrees of freedom of the suspect side where its statistic was made with ``twins`` twins.

    The statistic has a standard deviation estimated from the twins in its denominator, and the
    prediction interval one estimated from the innocents. Relative variances of the two add
    (Satterthwaite): 1/f = 1/(twins - 1) + 1/(innocents - 1).
    """
    return 1.0 / (1.0 / (twins - 1) + 1.0 / (innocents - 1))


def critical(others: Array, alpha: float, freedom: float | None = None) -> float:
    """The value at which :func:`compare` gives ``p == alpha``."""
    n = len(others)
    spread = float(np.std(others, ddof=1)) * float(np.sqrt(1.0 + 1.0 / n))
    return float(np.mean(others)) + spread * upper_t(alpha, freedom or n - 1)


def upper_t(p: float, freedom: float) -> float:
    """Where the upper tail of Student's t is ``p``; ``t.isf`` without its argument checks."""
    return -float(special.stdtrit(freedom, p))


def view_level_p(suspect: Array, innocents: Array) -> float | None:
    """The paper's test as far as it is known: Welch t-test over views, one-sided.

    Args:
        suspect: ``[V]`` similarities of the suspect's views with the victim's.
        innocents: ``[n,V]`` the same for homologous models.

    Views of one suspect share the suspect, so this p-value shrinks with the number of views for any
    innocent offset. It is reported for comparison with the literature and never decides.
    """
    if suspect.size < 2 or innocents.size < 2:
        return None
    rest = innocents.ravel()
    p = stats.ttest_ind_from_stats(
        *(suspect.mean(), suspect.std(ddof=1), suspect.size),
        *(rest.mean(), rest.std(ddof=1), rest.size),
        equal_var=False,
        alternative="greater",
    ).pvalue
    return float(p) if np.isfinite(p) else None


@dataclass(frozen=True)
class Assessment:
    """What an encoder says of one suspect, before any decision.

    Attributes:
        similarity: mean cosine over views with the victim.
        views: ``[V]`` cosines with the victim.
        innocent_views: ``[n,V]`` the same for the pool's calibration innocents.
        candidates: ``[m+1]`` scores of the suspect with each candidate, the victim's first; or None.
        statistic: the suspect side's statistic of the suspect.
        innocents: ``[n]`` the same statistic of the innocents, each treated as the suspect is.
        typical: spread of the twins' scores that is usual for innocents (:func:`compare`).
    """

    similarity: float
    views: Array
    innocent_views: Array
    candidates: Array | None
    statistic: float
    innocents: Array
    typical: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Decision with the two sides that it rests on (``candidate`` is None without twins)."""

    decision: Decision
    p: float
    candidate: Side | None
    suspect: Side
    z: float
    rank: int | None
    reasons: tuple[str, ...]


def _sides(a: Assessment, shift: float) -> tuple[Side | None, Side, float, int | None]:
    """Both sides after adding ``shift`` to the suspect's score with the victim."""
    if a.candidates is None:
        side = compare(a.statistic + shift, a.innocents)
        return None, side, side.z, None
    own, twins = float(a.candidates[0]) + shift, a.candidates[1:]
    candidate = compare(own, twins, typical=a.typical)
    suspect = compare(candidate.z, a.innocents, joint_freedom(len(twins), len(a.innocents)))
    return candidate, suspect, candidate.z, 1 + int(np.sum(twins >= own))


def _call(candidate: Side | None, suspect: Side, rank: int | None, alpha: float) -> tuple[Decision, float]:
    p = suspect.p if candidate is None else max(candidate.p, suspect.p)
    # without twins nothing tells a copy from any answers that happen to lie on the victim's side: then only
    # the rank among very many innocents convicts, never an extrapolation
    decides = suspect.exact if candidate is None else p
    if decides <= alpha and rank in (None, 1):
        return "piracy", p
    first = suspect.exact <= suspect.floor and rank in (None, 1)  # then no pool of this size says more
    return ("inconclusive" if first or p <= max(alpha, UNCLEAR) else "independent"), p


def decide(a: Assessment, alpha: float) -> Outcome:
    """Convict only if both sides reject at ``alpha`` and no candidate is closer than the victim.

    ``independent`` means p above ``UNCLEAR`` and not first on both sides: nothing points to the victim.
    In between, or where a change of the score by ``JITTER`` would change the decision, the outcome is
    ``inconclusive``.
    """
    candidate, suspect, z, rank = _sides(a, 0.0)
    decision, p = _call(candidate, suspect, rank, alpha)
    reasons = [_explain(decision, p, alpha)]
    for shift in (-JITTER, JITTER):
        side_c, side_s, _, moved_rank = _sides(a, shift)
        if decision != "inconclusive" and _call(side_c, side_s, moved_rank, alpha)[0] != decision:
            decision = "inconclusive"
            reasons = [f"the decision would change if the similarity moved by {JITTER:g}"]
    if candidate is None:
        reasons.append(NO_TWINS.format(n=len(a.innocents), floor=suspect.floor, needed=round(1 / alpha) - 1))
    elif rank != 1:
        reasons.append(
            f"{(rank or 1) - 1} of the victim's {len(a.candidates) - 1 if a.candidates is not None else 0}"
            " twins are as close to the suspect as the victim is"
        )
    floors = [s.floor for s in (candidate, suspect) if s is not None]
    if p < max(floors):
        reasons.append(
            f"p below {max(floors):.3g}, the exact floor of this pool, is a Student t extrapolation: "
            "it assumes normal scores"
        )
    return Outcome(decision, p, candidate, suspect, z, rank, tuple(reasons))


def _explain(decision: Decision, p: float, alpha: float) -> str:
    if decision == "inconclusive" and p <= alpha:
        return f"p {p:.3g} <= {alpha:g}, but by extrapolation alone: not enough to convict"
    if decision == "piracy":
        return f"p {p:.3g} <= {alpha:g}: closer to the victim than chance explains, on every side tested"
    if decision == "independent":
        return f"p {p:.3g}: nothing points to the victim"
    if p > max(alpha, UNCLEAR):
        return f"p {p:.3g}, but closer than to any twin and than any innocent: the pool is too small to tell"
    return f"p {p:.3g} lies between {alpha:g} and {UNCLEAR:g}: not enough to convict, too close to clear"
