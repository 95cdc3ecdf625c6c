"""What an encoder makes of answers: features, a pool to compare with, scores. One protocol, two statistics.

``lineage`` compares a suspect with the victim and its twins alike; ``paper`` is the encoder of Peng et al.,
which knows the victim alone. What else depends on the encoder stands here as facts of its class.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from uapfast.arrays import Float32Array, Float64Array
from uapfast.method import decision, spread
from uapfast.method.decision import Assessment
from uapfast.method.encoder import PaperScorer, make_network
from uapfast.method.fingerprint import paper_features
from uapfast.method.lineage import Features, LineageScorer, Roster
from uapfast.method.lru_cache import LruCache
from uapfast.method.scaling import Scaling
from uapfast.models.answers import label_rows
from uapfast.models.forms import WHOLE, Form

FORMS_KEPT = 6  # forms whose scorers are kept; each holds the features of the whole pool


class Scorer(Protocol):
    """A pool as it is compared with suspects that show their answers in one form."""

    @property
    def has_twins(self) -> bool:
        """Whether there are twins to tell the victim from."""

    def scores(self, suspect: Features) -> tuple[Float64Array, Float64Array]:
        """Of the suspect with every candidate ``[k,C]``, and of the innocents scored alike ``[n,k,C]``."""

    def assess(self, suspect: Features) -> Assessment:
        """The same as a decision takes it."""

    def embed(self, suspect: Features) -> Float32Array:
        """One row a view."""


@dataclass(frozen=True)
class PoolAnswers:
    """What a statistic knows of a pool.

    Attributes:
        answers: float32 ``[M,V,B,n,R]``, as a reference has them.
        labels: int64 ``[M,V,B,n]``.
        roster: which row is what.
        innocents: rows that the suspect side compares with.
        surrogates: rows of piracy models.
        weights: of the encoder's network, or empty.
        hidden: classes that the last of the R columns sums up; 0 if every class has its own.
        logged: how many of the first views are those of a query log.
    """

    answers: Tensor
    labels: Tensor
    roster: Roster
    innocents: Sequence[int]
    surrogates: Sequence[int]
    weights: Mapping[str, Tensor]
    hidden: int = 0
    logged: int = 0


@dataclass(frozen=True)
class PoolScores:
    """Scores of the pool's own models, each innocent left out of what it is compared with.

    Attributes:
        innocent_z: ``[n]``, as a suspect's z is counted.
        innocent_similarity: ``[n]``.
        innocent_statistic: ``[n]``, what the suspect side compares.
        innocent_pairs: ``[n,C]`` the same with every candidate in the victim's place; without twins ``[n]``.
        surrogate_z: ``[s]``.
        surrogate_similarity: ``[s]``.
    """

    innocent_z: Float64Array
    innocent_similarity: Float64Array
    innocent_statistic: Float64Array
    innocent_pairs: Float64Array
    surrogate_z: Float64Array
    surrogate_similarity: Float64Array


class Statistic(ABC):
    """How one encoder scores; safe to share between threads.

    Attributes:
        partial: whether a part of the views, or labels in place of scores, can be judged as well.
        by_twins: whether all candidates count alike, so that twins are compared with and pools are tested.
        least_piracy: piracy models that it takes at the least.
        shares: how many parts the homologous models are cut into (one trains the paper's network).
        selection: how points are chosen unless told.
    """

    partial: ClassVar[bool]
    by_twins: ClassVar[bool]
    least_piracy: ClassVar[int]
    shares: ClassVar[int]
    selection: ClassVar[str]

    def __init__(self, pool: PoolAnswers) -> None:
        self.pool = pool
        self._made: dict[Any, Any] = {}
        self._scorers: LruCache[tuple[Form, str], Any] = LruCache(FORMS_KEPT)
        self._lock = threading.RLock()

    @abstractmethod
    def features(self, reduced: Tensor, labels_only: bool, first: int = 0) -> Tensor:
        """Features ``[...,k,B,F]`` of models from reduced probabilities ``[...,k,B,n,R]``, where they are.

        Args:
            reduced: answers to k views, one-hot with ``labels_only``.
            labels_only: the models answer with labels; there is no confidence to scale.
            first: number of the first of these views.
        """

    @abstractmethod
    def pool_features(self, form: Form = WHOLE, views: int | None = None) -> Float32Array:
        """Features ``[M,V,B,F]`` of the pool's models; at least innocents are seen in ``form``."""

    @abstractmethod
    def scorer(self, form: Form = WHOLE, views: int | None = None, place: str = "cpu") -> Scorer:
        """The pool beside suspects of one form, on the first ``views`` views, or on all: then kept.

        Args:
            form: of the suspects' answers.
            views: the first of them; None takes all.
            place: device on which they are scored.
        """

    def pool_scores(self) -> PoolScores:
        """See :class:`PoolScores`. Made once."""
        found: PoolScores = self._once("pool scores", self._pool_scores)
        return found

    @abstractmethod
    def _pool_scores(self) -> PoolScores: ...

    def _once(self, key: Any, make: Any) -> Any:
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]

    def _pool(self, rows: Sequence[int], form: Form, views: int | None) -> Float32Array:
        """Features of the pool's models, those of ``rows`` in ``form``."""
        if form == WHOLE and views is None:
            return self._whole
        seen = self.seen(self._models, WHOLE, views).copy()
        if form != WHOLE:
            seen[list(rows)] = self.seen(rows, form, views)
        return seen

    @property
    def _models(self) -> range:
        return range(len(self.pool.answers))

    @property
    def _whole(self) -> Float32Array:
        """Features of all models as they answer; made once."""
        found: Float32Array = self._once("whole", lambda: self.features(self.pool.answers, False).numpy())
        return found

    def seen(self, rows: int | Sequence[int], form: Form, views: int | None = None) -> Float32Array:
        """Features ``[V,B,F]`` of a model of the pool, or several, seen in ``form``; not to be written to."""
        some = rows if isinstance(rows, int) else list(rows)
        if form == WHOLE and views is None:
            found: Float32Array = self._whole[some]
            return found
        answers, labels = self.pool.answers[some], self.pool.labels[some]
        first = (..., slice(views), slice(None), slice(None))  # of the views
        if form.labels:
            return self.features(label_rows(labels[first], answers.shape[-1]), True).numpy()
        answers = answers[(*first, slice(None))]
        return self.features(
            answers if form == WHOLE else form.apply(answers, self.pool.hidden), False
        ).numpy()


class LineageStatistic(Statistic):
    """Residuals of a suspect beside the victim and its twins (:mod:`uapfast.method.lineage`)."""

    partial, by_twins, least_piracy, shares, selection = True, True, 0, 1, "disagree"

    def features(self, reduced: Tensor, labels_only: bool, first: int = 0) -> Tensor:
        """See :meth:`Statistic.features`."""
        scaling = self._scaling(str(reduced.device))
        return scaling.label_features(reduced, first) if labels_only else scaling.features(reduced, first)

    def _scaling(self, place: str) -> Scaling:
        def make() -> Scaling:
            if place != "cpu":
                return self._scaling("cpu").to(place)
            return Scaling.of(self.pool.answers[self.pool.roster.candidates])

        found: Scaling = self._once(("scaling", place), make)
        return found

    def pool_features(self, form: Form = WHOLE, views: int | None = None) -> Float32Array:
        """See :meth:`Statistic.pool_features`; candidates and surrogates are seen whole."""
        return self._pool(self.pool.innocents, form, views)

    def scorer(self, form: Form = WHOLE, views: int | None = None, place: str = "cpu") -> LineageScorer:
        """See :meth:`Statistic.scorer`."""

        def make() -> LineageScorer:
            features = self.pool_features(form, views)
            return LineageScorer(features, self.pool.roster, self.pool.logged, place)

        found: LineageScorer = self._scorers.get((form, place), make) if views is None else make()
        return found

    def _pool_scores(self) -> PoolScores:
        """Of surrogates their kind is left out of the templates."""
        scorer = self.scorer()
        scores, statistic = scorer.innocent_scores()
        z, similarity = scorer.surrogate_scores()
        if not scorer.has_twins:
            innocent_z = np.array([decision.compare(s, statistic).z for s in statistic])
            return PoolScores(innocent_z, scores[:, 0], statistic, statistic, z, similarity)
        return PoolScores(statistic, scores[:, 0], statistic, spread.standings(scores), z, similarity)


class PaperStatistic(Statistic):
    """Embeddings by the paper's network (:mod:`uapfast.method.encoder`)."""

    partial, by_twins, least_piracy, shares, selection = False, False, 1, 2, "kmeans"

    def features(self, reduced: Tensor, labels_only: bool, first: int = 0) -> Tensor:
        """See :meth:`Statistic.features`."""
        return paper_features(reduced)

    def pool_features(self, form: Form = WHOLE, views: int | None = None) -> Float32Array:
        """See :meth:`Statistic.pool_features`; all models are seen in the form."""
        return self._pool(self._models, form, views)

    def scorer(self, form: Form = WHOLE, views: int | None = None, place: str = "cpu") -> PaperScorer:
        """See :meth:`Statistic.scorer`; one for all views compares the first as well. Always on the CPU."""
        found: PaperScorer = self._scorers.get((form, "cpu"), lambda: self._make(form))
        return found

    def _make(self, form: Form) -> PaperScorer:
        pool = self.pool_features(form)
        network = make_network(pool.shape[-1])
        network.load_state_dict(dict(self.pool.weights))
        network.eval().requires_grad_(False)
        return PaperScorer(network, pool[0], pool[list(self.pool.innocents)])

    def _pool_scores(self) -> PoolScores:
        scorer = self.scorer()
        own = scorer.assess(scorer.victim).innocents
        rows = self.pool_features()[list(self.pool.surrogates)]
        similarity = np.array([scorer.assess(row).similarity for row in rows])
        z = [np.array([decision.compare(s, own).z for s in values]) for values in (own, similarity)]
        return PoolScores(z[0], own, own, own, z[1], similarity)


STATISTICS: dict[str, type[Statistic]] = {"lineage": LineageStatistic, "paper": PaperStatistic}

__all__ = ["STATISTICS", "PoolAnswers", "PoolScores", "Scorer", "Statistic"]
