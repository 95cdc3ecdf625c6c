"""How suspects are asked for one reference, and what they are compared with."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch.nn.functional import one_hot

from uapfast.method.lineage import LineageScorer
from uapfast.method.relation import Shares, Told
from uapfast.method.sequential import Background, Looks
from uapfast.method.statistic import Scorer
from uapfast.reference import Reference


@dataclass(frozen=True)
class Mode:
    """A pool as it is compared with suspects that show probabilities, or labels only."""

    scorer: Scorer
    background: Background | None


@dataclass
class Design:
    """How suspects are asked for one reference: how many views, and after which is looked.

    Attributes:
        reference: its queries and its pool.
        looks: numbers of views after which is looked; the last is the budget.
        early: leave suspects that the views to come could hardly convict (needs more than one look).
    """

    reference: Reference
    looks: Looks
    _modes: dict[bool, Mode] = field(default_factory=dict, init=False, repr=False)
    _shares: dict[bool, Shares | None] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def views(self) -> int:
        """The budget."""
        return self.looks.views[-1]

    def queries(self, views: int) -> int:
        """Answers of so many views."""
        return views * self.reference.plan.blocks * self.reference.plan.per_view

    def stage(self, number: int) -> range:
        """Views that are asked between look ``number - 1`` and look ``number``."""
        return range(self.looks.views[number - 1] if number else 0, self.looks.views[number])

    def mode(self, labels_only: bool) -> Mode:
        """The pool in one access mode; made once each."""
        with self._lock:
            if labels_only not in self._modes:
                self._modes[labels_only] = self._make_mode(labels_only)
            return self._modes[labels_only]

    def tell(self, features: NDArray[np.float32], labels_only: bool) -> Told:
        """What kind of copy a convicted suspect is, from its features ``[V,B,F]`` of all views."""
        with self._lock:
            if labels_only not in self._shares:
                self._shares[labels_only] = shares_of(self.reference, labels_only, self.views)
            shares = self._shares[labels_only]
        if shares is None:
            return Told("unclear", None, None, "without two twins nothing tells kinds of copies apart")
        if len(features) != self.views:
            return Told("unclear", None, None, "a part of the views does not tell kinds of copies apart")
        return shares.tell(features)

    def _make_mode(self, labels_only: bool) -> Mode:
        reference = self.reference
        part = None if self.views == reference.plan.views else self.views
        scorer = reference.statistic.scorer(labels_only, part)
        if len(self.looks.views) > 1 and isinstance(scorer, LineageScorer):
            return Mode(scorer, Background.of(scorer))
        return Mode(scorer, None)


def shares_of(
    reference: Reference, labels_only: bool, views: int | None = None, place: int = 0
) -> Shares | None:
    """What tells kinds of copies of a victim apart, of suspects that show probabilities, or labels only.

    Args:
        reference: its pool is seen as the suspect is.
        labels_only: by labels alone.
        views: the first of them; None takes all.
        place: the candidate that plays the victim.

    Returns:
        None where nothing does: the paper's encoder, or fewer than two twins.
    """
    if not reference.statistic.by_twins:
        return None
    roster, width = reference.roster(), reference.answers.shape[-1]

    def seen(row: int) -> NDArray[np.float32]:
        answers = reference.answers[row, :views]
        if labels_only:
            answers = one_hot(reference.labels[row, :views], width).to(answers.dtype)
        return reference.statistic.features(answers, labels_only)

    groups = (roster.candidates, roster.innocents, *roster.surrogates)
    candidates, innocents, *students = ([seen(int(i)) for i in rows] for rows in groups)
    return Shares.of(candidates, innocents, students, place, labels_only)


__all__ = ["Design", "Mode", "shares_of"]
