"""Stopping early: most suspects are innocent, and look it after a few views.

A suspect is looked at after some of the views, a fixed number of times. A look never convicts: it lets a
suspect go that the views left could hardly convict. What all views say lies about what those seen say, as
nearly as it does for the pool's innocents (each scored as a suspect is, by the first k views and by all),
and the most favourable end of that prediction must fall short of a conviction. Whoever a look would
convict, and whoever is first on both sides at one, is asked all views. So a conviction always rests on all
views at the full level, as that of ``verify`` does, and stopping can cost a detection, never an
accusation. Where a budget or a reference allows fewer than ``LEAST_CONVICTING`` views, they convict nobody.
Of suspects that the full budget would only just convict, at most a share ``MISSED`` leave so, over all
looks; of those well above, none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from uapfast.arrays import Float64Array
from uapfast.errors import InputError
from uapfast.method.decision import Outcome, critical, decide, needed_z, upper_t
from uapfast.method.lineage import LineageScorer
from uapfast.method.lru_cache import LruCache
from uapfast.method.spread import least_spread, standings
from uapfast.method.standing import assessment, typical_spread

LOOKS = (1, 2, 5, 10)  # and all
MISSED = 0.05
LEAST_CONVICTING = 5  # views: fewer convict nobody, whatever budget or reference allows no more
LEVELS_KEPT = 4  # for which it is known what a conviction takes
LEAST_UNCLEAR = 5  # views before a suspect leaves as inconclusive: one in twenty innocents looks so at first


@dataclass(frozen=True)
class Stop:
    """Where the looking ended.

    Attributes:
        outcome: the decision on the views looked at; a conviction saw all of them.
        views: looked at.
        similarity: mean cosine with the victim over them.
    """

    outcome: Outcome
    views: int
    similarity: float


@dataclass(frozen=True)
class Looks:
    """Numbers of views after which a suspect is looked at; the last is all of them.

    Raises:
        InputError: the numbers do not rise.
    """

    views: tuple[int, ...]

    def __post_init__(self) -> None:
        rising = len(self.views) > 0 and self.views[0] > 0 and all(a < b for a, b in pairwise(self.views))
        if not rising:
            raise InputError("looks", "views", "rising counts from 1 on", repr(self.views))

    @classmethod
    def single(cls, total: int) -> Looks:
        """One look, after all views."""
        return cls((total,))

    @classmethod
    def default(cls, total: int) -> Looks:
        """``LOOKS`` below ``total``, and ``total``."""
        return cls((*(k for k in LOOKS if k < total), total))


@dataclass(frozen=True)
class Background:
    """What a pool's innocents do over the full budget.

    Attributes:
        typical: usual spread of an innocent's twin scores (0 without twins).
        statistics: ``[n,C]`` of the innocents with every candidate in the victim's place; without twins
            ``[n]``, their scores.
        twins: whether the candidate side can be tested.
        errors: views k -> by how much (root mean square, innocents) the first k views miss what all views say
            of the score that decides; where it is not known, a suspect's own views have to show it.
    """

    typical: float
    statistics: Float64Array
    twins: bool
    errors: Mapping[int, float] = field(default_factory=dict)
    _needed: LruCache[float, float] = field(
        default_factory=lambda: LruCache(LEVELS_KEPT), init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, scorer: LineageScorer, looks: Sequence[int] = LOOKS) -> Background:
        """From a pool; costs a scoring of each of its innocents for every look, so make it once."""
        scores, _ = scorer.innocent_scores()
        twins, total = scorer.roster.has_twins, scorer.pool.shape[1]
        errors = {}
        for k in looks:
            if k < total:
                missed = _deciding(scorer.innocent_scores(k)[0], twins) - _deciding(scores, twins)
                errors[k] = float(np.sqrt(np.square(missed).mean()))
        if not twins:
            return cls(0.0, scores[:, 0], twins, errors)
        return cls(typical_spread(scores), standings(scores), twins, errors)

    def needed(self, alpha: float) -> float:
        """The score (with twins, above their mean) that a conviction by all views takes, at the least."""
        return self._needed.get(alpha, lambda: self._least(alpha))

    def _least(self, alpha: float) -> float:
        if not self.twins:
            return critical(self.statistics, alpha)
        twins = self.statistics.shape[1] - 1
        z = needed_z(alpha, twins, self.statistics[:, 0], self.statistics)
        return z * least_spread(twins) * self.typical


class Stopper:
    """One suspect's looks. Not thread-safe; make one a suspect.

    Args:
        looks: when.
        background: the pool's.
        alpha: level of a conviction.
    """

    def __init__(self, looks: Looks, background: Background, alpha: float) -> None:
        self.looks, self.background, self.alpha = looks, background, alpha
        self._next = 0
        self._all = False  # whether all views are asked, whatever later looks say

    def look(self, own: Float64Array, rest: Float64Array) -> Stop | None:
        """Look once more.

        Args:
            own: ``[k,C]`` cosines of the suspect in the first k views, k as ``looks`` has it next.
            rest: ``[n,k,C]`` of the innocents.

        Returns:
            None to go on; the last look always stops.

        Raises:
            InputError: another number of views than is due.
        """
        due = self.looks.views[self._next]
        if len(own) != due or rest.shape[1] != due:
            raise InputError("look", "own", f"of {due} views", f"{len(own)} and {rest.shape[1]}")
        found = assessment(own, rest, twins=self.background.twins)
        outcome = decide(found, self.alpha)
        self._next += 1
        if self._next < len(self.looks.views):
            self._all = self._all or stands_out(outcome, self.alpha)
            unclear = outcome.decision == "inconclusive" and due < LEAST_UNCLEAR
            if self._all or unclear or not self._futile(own, rest):
                return None
            why = f"stopped after {due} of {self.looks.views[-1]} views: the others could hardly convict it"
            outcome = replace(outcome, reasons=(*outcome.reasons, why))
        return Stop(outcome, due, found.similarity)

    def _futile(self, own: Float64Array, rest: Float64Array) -> bool:
        """Whether even favourable views to come would fall short of a conviction."""
        k, twins = len(own), self.background.twins
        error = MISSED / max(1, len(self.looks.views) - 1)
        if k in self.background.errors:
            margin = upper_t(error, len(self.background.statistics)) * self.background.errors[k]
        elif k < 2:
            return False
        else:
            margin = self._own_margin(own, rest, error)
        best = float(_deciding(own.mean(0)[None], twins)[0]) + margin
        return best < self.background.needed(self.alpha)

    def _own_margin(self, own: Float64Array, rest: Float64Array, error: float) -> float:
        """As far as views of the suspect, or of innocents, differ from each other."""
        k, total = len(own), self.looks.views[-1]
        models = np.concatenate([own[None], rest])
        variance = _deciding(models, self.background.twins).var(axis=1, ddof=1)
        spread = float(np.sqrt(max(variance[0], variance.mean())))
        return upper_t(error, len(models) * (k - 1)) * spread * float(np.sqrt(1.0 / k - 1.0 / total))


def too_few(views: int) -> str | None:
    """Why nobody is convicted by so few views; None where they are enough."""
    if views >= LEAST_CONVICTING:
        return None
    many = "view convicts" if views == 1 else "views convict"
    return f"{views} {many} nobody, however small p is: it takes {LEAST_CONVICTING}"


def stands_out(outcome: Outcome, alpha: float) -> bool:
    """Whether all views are asked of somebody who looks so: p at most ``alpha``, or first on both sides."""
    first = outcome.rank in (None, 1) and outcome.suspect.exact <= outcome.suspect.floor
    return first or outcome.p <= alpha


def _deciding(scores: Float64Array, twins: bool) -> Float64Array:
    """The score that decides, of ``[...,C]``: the victim's above the mean of its twins', or alone."""
    out: Float64Array = scores[..., 0] - scores[..., 1:].mean(-1) if twins else scores[..., 0]
    return out
