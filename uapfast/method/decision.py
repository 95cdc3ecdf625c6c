"""From scores to a decision: two sides, each exact under its own exchangeability, and both at once.

* Candidate side: the victim and its m twins come from one recipe with different seeds. For a
  suspect made without the victim they are exchangeable, so the victim ranks first with probability
  at most 1/(m+1), whatever the suspect is.
* Suspect side: an innocent suspect is exchangeable with the n innocents of the pool, so its
  statistic ranks first among theirs with probability at most 1/(n+1) (conformal p-value).
* Joint: under both at once every pair of an honest model and a candidate might as well have been the
  suspect and the victim, so theirs ranks first of all with probability at most 1/((n+1)(m+1)).

Each rank ends at a floor. Below it the sides extrapolate for normal scores (:mod:`uapfast.method.spread`) and
the joint rank by a heavy tail, to a tenth of its floor at most; no p-value is smaller. A conviction needs all
three; docs/verdicts.md says what holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import special, stats

from uapfast.arrays import Float64Array
from uapfast.method import spread
from uapfast.types import Decision

UNCLEAR = 0.05  # at or below this p-value a suspect is not called independent
NO_TWINS = (
    "the pool has no twins of the victim: only the rank among its {n} innocents counts, which is never "
    "below {floor:.2g} ({needed} innocents could convict). Only twins, best eight or more, separate a copy "
    "from answers that merely lie on the victim's side"
)
JITTER = 1e-3  # a decision must survive a change of any similarity by this much
BEYOND = 10.0  # times below the floor of the exact rank that a p-value is at the least
TAIL = (
    4.0  # power by which chances fall beyond all that was seen, as Student's t with 4 degrees of freedom does
)


@dataclass(frozen=True)
class Side:
    """One null's answer.

    Attributes:
        p: p-value, one-sided; below ``floor`` an extrapolation.
        exact: rank p-value.
        floor: smallest value that ``exact`` can take.
        z: the value in prediction standard deviations of the others.
    """

    p: float
    exact: float
    floor: float
    z: float


def compare(value: float, others: Float64Array) -> Side:
    """How unusual ``value`` is as one more draw beside ``others`` (larger is more unusual).

    The p-value is that of a Student t prediction interval, ``(value - mean) / (s * sqrt(1 + 1/n))``
    with n - 1 degrees of freedom; with fewer than two others, or no spread, it is the rank's.
    """
    n = len(others)
    exact, floor = _rank(value, others)
    spread = float(np.std(others, ddof=1)) if n >= 2 else 0.0
    if n < 2 or spread <= 1e-12:
        return Side(exact, exact, floor, 0.0)
    z = (value - float(np.mean(others))) / (spread * float(np.sqrt(1.0 + 1.0 / n)))
    # stdtr(f, -z) is t.sf(z, f) without its argument checks, which cost twenty times as much
    return Side(float(special.stdtr(n - 1, -z)), exact, floor, z)


def _rank(value: float, others: Float64Array) -> tuple[float, float]:
    """Rank p-value of one more draw, and the smallest that it can be."""
    return (1.0 + float(np.sum(others >= value))) / (len(others) + 1.0), 1.0 / (len(others) + 1.0)


def among_twins(value: float, twins: Float64Array, usual: float, innocents: int) -> Side:
    """Candidate side: the score with the victim beside those with its twins ``[m]``.

    Args:
        value: the suspect's score with the victim.
        twins: its scores with the twins.
        usual: spread of the twins' scores that is usual for innocents, moderated with theirs.
        innocents: n, which know the usual spread.
    """
    m = len(twins)
    exact, floor = _rank(value, twins)
    width = float(spread.widened(float(twins.var(ddof=1)), usual**2, m))
    if width <= 0:
        return Side(exact, exact, floor, 0.0)
    z = (value - float(twins.mean())) / width
    return Side(spread.chance(z, m, innocents), exact, floor, z)


def among_innocents(z: float, innocents: Float64Array, twins: int) -> Side:
    """Suspect side: a suspect's z with the victim beside the innocents' ``[n]``, all over ``twins`` twins.

    Where all are nearer to the victim than to its twins, or differ more in that than twins explain, so may
    the suspect. The side's ``z`` counts standard deviations of the innocents.
    """
    n = len(innocents)
    exact, floor = _rank(z, innocents)
    own = float(np.std(innocents, ddof=1)) if n >= 2 else 0.0
    if n < 2 or own <= 1e-12:
        return Side(exact, exact, floor, 0.0)
    apart = (z - float(np.mean(innocents))) / float(np.sqrt(1.0 + 1.0 / n))
    return Side(spread.chance(apart / max(own, 1.0), twins, n), exact, floor, apart / own)


def among_pairs(z: float, pairs: Float64Array) -> Side:
    """Both at once: the suspect's z with the victim beside those of every other pair ``[(n+1)(m+1)-1]``.

    Beyond the largest of them chances are taken to fall as a power of z, to a tenth of the floor at most.
    """
    exact, floor = _rank(z, pairs)
    if exact > floor or z <= 0:
        return Side(exact, exact, floor, z)
    p = floor * (max(float(pairs.max()), 0.0) / z) ** TAIL
    return Side(max(p, floor / BEYOND), exact, floor, z)


def critical(others: Float64Array, alpha: float) -> float:
    """The value at which :func:`compare` gives ``p == alpha``."""
    n = len(others)
    spread = float(np.std(others, ddof=1)) * float(np.sqrt(1.0 + 1.0 / n))
    return float(np.mean(others)) + spread * upper_t(alpha, n - 1)


def needed_z(alpha: float, twins: int, innocents: Float64Array, pairs: Float64Array) -> float:
    """The z above which :func:`among_twins` and the other two all give ``p <= alpha``; infinite if none does.

    Args:
        alpha: level.
        twins: m.
        innocents: ``[n]`` their z with the victim.
        pairs: z of all innocents with all candidates.
    """
    n, own = len(innocents), float(np.std(innocents, ddof=1))
    floor = 1.0 / ((n + 1) * (twins + 1))
    if floor / BEYOND > alpha:
        return float("inf")
    z = spread.height(min(alpha, 0.5), twins, n)
    shifted = float(innocents.mean()) + max(own, 1.0) * float(np.sqrt(1.0 + 1.0 / n)) * z
    highest = np.sort(pairs, axis=None)[::-1]
    allowed = int(alpha / floor + 1e-9)  # ranks that are small enough
    beyond = float(highest[max(allowed, 1) - 1] if allowed <= highest.size else -np.inf)
    if not allowed:
        beyond = max(beyond, 0.0) * (floor / alpha) ** (1.0 / TAIL)
    return max(z, shifted, beyond)


def upper_t(p: float, freedom: float) -> float:
    """Where the upper tail of Student's t is ``p``; ``t.isf`` without its argument checks."""
    return -float(special.stdtrit(freedom, p))


def view_level_p(suspect: Float64Array, innocents: Float64Array) -> float | None:
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
        typical: spread of the twins' scores that is usual for innocents.
        pairs: ``[(n+1)(m+1)-1]`` the same statistic of every other pair of a model and a candidate; or None.
    """

    similarity: float
    views: Float64Array
    innocent_views: Float64Array
    candidates: Float64Array | None
    statistic: float
    innocents: Float64Array
    typical: float = 0.0
    pairs: Float64Array | None = None


@dataclass(frozen=True)
class Sides:
    """What a decision rests on; ``candidate`` and ``joint`` are None without twins."""

    candidate: Side | None
    suspect: Side
    joint: Side | None
    z: float
    rank: int | None

    @property
    def floor(self) -> float:
        """Of the finest exact rank."""
        return self.suspect.floor if self.joint is None else self.joint.floor

    @property
    def bounded(self) -> Sides:
        """The same with no p-value below a tenth of the floor."""
        least = self.floor / BEYOND
        moved = [s and replace(s, p=max(s.p, least)) for s in (self.candidate, self.suspect, self.joint)]
        assert moved[1] is not None
        return replace(self, candidate=moved[0], suspect=moved[1], joint=moved[2])

    @property
    def p(self) -> float:
        """The largest of all."""
        return max(s.p for s in (self.candidate, self.suspect, self.joint) if s is not None)


@dataclass(frozen=True)
class Outcome:
    """Decision with what it rests on (``candidate`` and ``joint`` are None without twins).

    ``bound`` says that ``p`` is the smallest value that this pool allows: the p-value is at most that.
    """

    decision: Decision
    p: float
    candidate: Side | None
    suspect: Side
    joint: Side | None
    bound: bool
    z: float
    rank: int | None
    reasons: tuple[str, ...]


def _sides(a: Assessment, shift: float) -> Sides:
    """All sides after adding ``shift`` to the suspect's score with the victim."""
    if a.candidates is None:
        side = compare(a.statistic + shift, a.innocents)
        return Sides(None, side, None, side.z, None).bounded
    own, twins = float(a.candidates[0]) + shift, a.candidates[1:]
    candidate = among_twins(own, twins, a.typical, len(a.innocents))
    suspect = among_innocents(candidate.z, a.innocents, len(twins))
    joint = None if a.pairs is None else among_pairs(candidate.z, a.pairs)
    return Sides(candidate, suspect, joint, candidate.z, 1 + int(np.sum(twins >= own))).bounded


def _call(sides: Sides, alpha: float) -> Decision:
    p, rank, suspect = sides.p, sides.rank, sides.suspect
    # without twins nothing tells a copy from any answers that happen to lie on the victim's side: then only
    # the rank among very many innocents convicts, never an extrapolation
    decides = suspect.exact if sides.candidate is None else p
    if decides <= alpha and rank in (None, 1):
        return "piracy"
    first = suspect.exact <= suspect.floor and rank in (None, 1)  # then no pool of this size says more
    return "inconclusive" if first or p <= max(alpha, UNCLEAR) else "independent"


def decide(a: Assessment, alpha: float) -> Outcome:
    """Convict only if both sides, and the joint rank, reject at ``alpha`` and no candidate is closer.

    ``independent`` means p above ``UNCLEAR`` and not first on both sides: nothing points to the victim.
    In between, or where a change of the score by ``JITTER`` would change the decision, the outcome is
    ``inconclusive``.
    """
    sides = _sides(a, 0.0)
    decision, p = _call(sides, alpha), sides.p
    twins = 0 if a.candidates is None else len(a.candidates) - 1
    reasons = [_explain(decision, p, alpha, twins, len(a.innocents), sides.floor)]
    if decision != "inconclusive":  # a higher score never makes a decision milder
        shift = -JITTER if decision == "piracy" else JITTER
        if _call(_sides(a, shift), alpha) != decision:
            decision = "inconclusive"
            reasons = [f"the decision would change if the similarity moved by {JITTER:g}"]
    if sides.candidate is None:
        floor = sides.suspect.floor
        reasons.append(NO_TWINS.format(n=len(a.innocents), floor=floor, needed=round(1 / alpha) - 1))
    elif sides.rank != 1:
        close = (sides.rank or 1) - 1
        reasons.append(f"{close} of the victim's {twins} twins are as close to the suspect as the victim is")
    reasons += _limits(sides, alpha, twins, len(a.innocents))
    bound = p <= sides.floor / BEYOND
    return Outcome(
        decision, p, sides.candidate, sides.suspect, sides.joint, bound, sides.z, sides.rank, tuple(reasons)
    )


def _limits(sides: Sides, alpha: float, twins: int, innocents: int) -> list[str]:
    """What the size of the pool makes of a small p."""
    p, floor, least = sides.p, sides.floor, sides.floor / BEYOND
    if p >= floor:
        return []
    pool = f"{twins} twins and {innocents} innocents" if twins else f"{innocents} innocents"
    found = [
        f"p below {floor:.3g}, the exact floor of {pool}, is an extrapolation: it assumes that scores are "
        "normal, or nearly so"
    ]
    if p <= least:
        found.append(f"p is at most {least:.3g}: a pool of this size says nothing finer")
    if twins and least > alpha:
        pairs = int(np.ceil(1.0 / (BEYOND * alpha)))
        found.append(
            f"it convicts nobody at {alpha:g}: (twins + 1) x (innocents + 1) must be {pairs} or more"
        )
    return found


def _explain(decision: Decision, p: float, alpha: float, twins: int, innocents: int, floor: float) -> str:
    exact = f"exact down to {floor:.3g}"
    beside = f"{twins} twins, {innocents} innocents, {exact}" if twins else f"{innocents} innocents, {exact}"
    if decision == "inconclusive" and p <= alpha:
        return f"p {p:.3g} <= {alpha:g} ({beside}), but by extrapolation alone: not enough to convict"
    if decision == "piracy":
        closer = (
            f"closer to this victim than to its {twins} twins, and than" if twins else "closer to it than"
        )
        return f"p {p:.3g} <= {alpha:g} ({exact}): {closer} {innocents} honest models are"
    if decision == "independent":
        return f"p {p:.3g} ({beside}): nothing points to the victim, which is no exoneration"
    if p > max(alpha, UNCLEAR):
        closer = "closer than to any twin and than any innocent" if twins else "closer than any innocent"
        return f"p {p:.3g} ({beside}), but {closer}: the pool is too small to tell"
    between = f"p {p:.3g} lies between {alpha:g} and {UNCLEAR:g} ({beside})"
    return f"{between}: not enough to convict, too close to clear"
