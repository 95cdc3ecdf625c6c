"""How suspects are asked for one reference, and what they are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uapfast.method.lineage import LineageScorer
from uapfast.method.lru_cache import LruCache
from uapfast.method.relation import RelationEstimate, Shares
from uapfast.method.sequential import Background, Looks
from uapfast.method.statistic import FORMS_KEPT, Scorer
from uapfast.models.forms import WHOLE, Form
from uapfast.reference import Reference


@dataclass(frozen=True)
class Mode:
    """A pool as it is compared with suspects that show their answers in one form."""

    scorer: Scorer
    background: Background | None


@dataclass
class Design:
    """How suspects are asked for one reference: how many views, and after which is looked.

    Attributes:
        reference: its queries and its pool.
        looks: numbers of views after which is looked; the last is the budget.
        place: device on which suspects are scored.
    """

    reference: Reference
    looks: Looks
    place: str = "cpu"
    _modes: LruCache[Form, Mode] = field(default_factory=lambda: LruCache(FORMS_KEPT), init=False, repr=False)
    _shares: LruCache[Form, Shares | None] = field(
        default_factory=lambda: LruCache(FORMS_KEPT), init=False, repr=False
    )

    @property
    def views(self) -> int:
        """The budget."""
        return self.looks.views[-1]

    @property
    def _part(self) -> int | None:
        """The budget where it is less than all views."""
        return None if self.views == self.reference.plan.views else self.views

    def queries(self, views: int) -> int:
        """Answers of so many views."""
        return views * self.reference.plan.blocks * self.reference.plan.per_view

    def stage(self, number: int) -> range:
        """Views that are asked between look ``number - 1`` and look ``number``."""
        return range(self.looks.views[number - 1] if number else 0, self.looks.views[number])

    def mode(self, form: Form) -> Mode:
        """The pool beside suspects that show their answers in one form; the last ones are kept."""
        return self._modes.get(form, lambda: self._make_mode(form))

    def tell(self, features: NDArray[np.float32], form: Form) -> RelationEstimate:
        """What kind of copy a convicted suspect is, from its features ``[V,B,F]`` of all views.

        Views of logged images do not count: whoever trained on them keeps more of the victim there.
        """
        shares = self._shares.get(form, lambda: shares_of(self.reference, form, self._part))
        if shares is None:
            return RelationEstimate(
                "unclear", None, None, "without two twins nothing tells kinds of copies apart"
            )
        if len(features) != self.views:
            return RelationEstimate(
                "unclear", None, None, "a part of the views does not tell kinds of copies apart"
            )
        return shares.tell(features[self.reference.statistic.pool.logged :])

    def _make_mode(self, form: Form) -> Mode:
        scorer = self.reference.statistic.scorer(form, self._part, self.place)
        if len(self.looks.views) > 1 and isinstance(scorer, LineageScorer):
            return Mode(scorer, Background.of(scorer))
        return Mode(scorer, None)


def shares_of(
    reference: Reference, form: Form = WHOLE, views: int | None = None, place: int = 0
) -> Shares | None:
    """What tells kinds of copies of a victim apart, of suspects that show their answers in one form.

    Args:
        reference: its whole pool is seen as the suspect is; views of logged images are left out.
        form: of the suspect's answers.
        views: the first of them; None takes all.
        place: the candidate that plays the victim.

    Returns:
        None where nothing does: the paper's encoder, fewer than two twins, or logged images alone.
    """
    statistic, logged = reference.statistic, reference.statistic.pool.logged
    if not statistic.by_twins or logged >= (views or reference.plan.views):
        return None
    roster = reference.roster()
    groups = (roster.candidates, roster.innocents, *roster.surrogates)
    candidates, innocents, *students = (
        [statistic.seen(int(i), form, views)[logged:] for i in rows] for rows in groups
    )
    return Shares.of(candidates, innocents, students, place, form.labels)


__all__ = ["Design", "Mode", "shares_of"]
