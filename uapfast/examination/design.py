"""How suspects are asked for one reference, and what they are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

from uapfast.method.lineage import LineageScorer
from uapfast.method.recent import Recent
from uapfast.method.sequential import Background, Looks
from uapfast.method.statistic import FORMS_KEPT, Scorer
from uapfast.models.forms import Form
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
        early: leave suspects that the views to come could hardly convict (needs more than one look).
    """

    reference: Reference
    looks: Looks
    _modes: Recent[Form, Mode] = field(default_factory=lambda: Recent(FORMS_KEPT), init=False, repr=False)

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

    def mode(self, form: Form) -> Mode:
        """The pool beside suspects that show their answers in one form; the last ones are kept."""
        return self._modes.get(form, lambda: self._make_mode(form))

    def _make_mode(self, form: Form) -> Mode:
        reference = self.reference
        part = None if self.views == reference.plan.views else self.views
        scorer = reference.statistic.scorer(form, part)
        if len(self.looks.views) > 1 and isinstance(scorer, LineageScorer):
            return Mode(scorer, Background.of(scorer))
        return Mode(scorer, None)


__all__ = ["Design", "Mode"]
