"""Stopping early: most suspects are innocent, and look it after a few views.

A suspect is looked at after some of the views, a fixed number of times. Convictions spend the level:
look ``j`` convicts at ``alpha * w_j``, the ``w_j`` add to 1, so that an innocent suspect is accused at any
look with probability at most ``alpha``, wherever the looking stops (Bonferroni over looks; a group
sequential design after Pocock 1977 with unequal shares). A suspect leaves as it stands when the views that
are left could hardly convict it: what all views say lies about what those seen say, as nearly as it does for
the pool's innocents (each scored as a suspect is, by the first k views and by all), and the most favourable
end of that prediction must fall short of a conviction. Of suspects that the full budget would only just
convict, at most a share ``MISSED`` leave so, over all looks; of those well above, none. It can cost a
detection, never an accusation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from uapfast.errors import InputError
from uapfast.method.decision import Outcome, critical, decide, joint_freedom, upper_t
from uapfast.method.lineage import LineageScorer
from uapfast.method.standing import assessment, typical_spread
from uapfast.method.whitening import Array

LOOKS = (1, 2, 5, 10)  # and all
SPEND = (0.05, 0.05, 0.1, 0.1, 0.7)
MISSED = 0.05
LEAST_UNCLEAR = 5  # views before a suspect leaves as inconclusive: one in twenty innocents looks so at first
LOW_SPREAD = 0.87  # of the usual spread of twin scores, moderated: the least of 19 in 20 suspects


@dataclass(frozen=True)
class Stop:
    """Where the looking ended.

    Attributes:
        outcome: the decision; ``p`` is valid at any stopping time: the least over looks of p_j / w_j.
        views: looked at.
        similarity: mean cosine with the victim over them.
    """

    outcome: Outcome
    views: int
    similarity: float


@dataclass(frozen=True)
class Looks:
    """Numbers of views after which a suspect is looked at, and the share of the level of each.

    Raises:
        InputError: the numbers do not rise, or the shares are not positive or do not add to 1.
    """

    views: tuple[int, ...]
    spend: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = len(self.views) > 0 and self.views[0] > 0 and all(a < b for a, b in pairwise(self.views))
        if not rising:
            raise InputError("looks", "views", "rising counts from 1 on", repr(self.views))
        whole = len(self.spend) == len(self.views) and abs(sum(self.spend) - 1.0) < 1e-9
        if not whole or min(self.spend) <= 0:
            raise InputError("looks", "spend", "one positive share a look, 1 in all", repr(self.spend))

    @classmethod
    def single(cls, total: int) -> Looks:
        """One look, after all views."""
        return cls((total,), (1.0,))

    @classmethod
    def default(cls, total: int) -> Looks:
        """``LOOKS`` below ``total``, and ``total``; what an absent look would spend goes to the last."""
        early = [i for i, k in enumerate(LOOKS) if k < total]
        shares = [SPEND[i] for i in early]
        return cls((*(LOOKS[i] for i in early), total), (*shares, 1.0 - sum(shares)))


@dataclass(frozen=True)
class Background:
    """What a pool's innocents do over the full budget.

    Attributes:
        typical: usual spread of an innocent's twin scores (0 without twins).
        statistics: ``[n]`` of the innocents, the suspect side's.
        twins: whether the candidate side can be tested.
        errors: views k -> by how much (root mean square, innocents) the first k views miss what all views say
            of the score that decides; where it is not known, a suspect's own views have to show it.
    """

    typical: float
    statistics: Array
    twins: bool
    errors: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, scorer: LineageScorer, looks: Sequence[int] = LOOKS) -> Background:
        """From a pool; costs a scoring of each of its innocents for every look, so make it once."""
        scores, found = scorer.innocent_scores()
        twins, total = scorer.roster.has_twins, scorer.pool.shape[1]
        errors = {}
        for k in looks:
            if k < total:
                missed = _deciding(scorer.innocent_scores(k)[0], twins) - _deciding(scores, twins)
                errors[k] = float(np.sqrt(np.square(missed).mean()))
        return cls(typical_spread(scores) if twins else 0.0, found, twins, errors)

    def needed(self, alpha: float, twins: int) -> float:
        """The score (with twins, above their mean) that a conviction by all views takes, at the least."""
        if not self.twins:
            return critical(self.statistics, alpha)
        freedom = joint_freedom(twins, len(self.statistics))
        z = max(upper_t(alpha, twins - 1), critical(self.statistics, alpha, freedom))
        return z * LOW_SPREAD * self.typical * float(np.sqrt(1.0 + 1.0 / twins))


class Stopper:
    """One suspect's looks. Not thread-safe; make one a suspect.

    Args:
        looks: when.
        background: the pool's.
        alpha: level of a conviction over all looks.
    """

    def __init__(self, looks: Looks, background: Background, alpha: float) -> None:
        self.looks, self.background, self.alpha = looks, background, alpha
        self._p = 1.0
        self._next = 0

    def look(self, own: Array, rest: Array) -> Stop | None:
        """Look once more.

        Args:
            own: ``[k,C]`` cosines of the suspect in the first k views, k as ``looks`` has it next.
            rest: ``[n,k,C]`` of the innocents.

        Returns:
            None to go on; the last look always stops.

        Raises:
            InputError: another number of views than is due.
        """
        due, share = self.looks.views[self._next], self.looks.spend[self._next]
        if len(own) != due or rest.shape[1] != due:
            raise InputError("look", "own", f"of {due} views", f"{len(own)} and {rest.shape[1]}")
        found = assessment(own, rest, twins=self.background.twins)
        outcome = decide(found, self.alpha * share)
        self._next += 1
        last = self._next == len(self.looks.views)
        p = min(self._p, outcome.p / share)
        if outcome.rank in (None, 1):  # else this look could not convict, and its p must not later
            self._p = p
        if not last and outcome.decision != "piracy":
            unclear = outcome.decision == "inconclusive" and due < LEAST_UNCLEAR
            if unclear or not self._futile(own, rest):
                return None
            why = f"stopped after {due} of {self.looks.views[-1]} views: those left could hardly convict it"
            outcome = replace(outcome, reasons=(*outcome.reasons, why))
        return Stop(replace(outcome, p=p), due, found.similarity)

    def _futile(self, own: Array, rest: Array) -> bool:
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
        return best < self.background.needed(self.alpha * self.looks.spend[-1], own.shape[1] - 1)

    def _own_margin(self, own: Array, rest: Array, error: float) -> float:
        """As far as views of the suspect, or of innocents, differ from each other."""
        k, total = len(own), self.looks.views[-1]
        models = np.concatenate([own[None], rest])
        variance = _deciding(models, self.background.twins).var(axis=1, ddof=1)
        spread = float(np.sqrt(max(variance[0], variance.mean())))
        return upper_t(error, len(models) * (k - 1)) * spread * float(np.sqrt(1.0 / k - 1.0 / total))


def _deciding(scores: Array, twins: bool) -> Array:
    """The score that decides, of ``[...,C]``: the victim's above the mean of its twins', or alone."""
    out: Array = scores[..., 0] - scores[..., 1:].mean(-1) if twins else scores[..., 0]
    return out
