"""The lineage encoder: what descends from a victim is what is particular to it.

Raw similarity of answers measures architecture and accuracy. Here the answers are first centred on
the candidates (the victim and its twins, models of the same recipe), whitened by how innocent models
differ from each other (:mod:`uapfast.method.whitening`), and only then compared. A candidate's
template is its own residual plus those of its surrogates, each centred on the surrogates of the
same kind of all candidates: what is left is what an extraction carries over, whatever the thief's
architecture. Every step treats all candidates alike, which keeps the candidate side of the decision
exact (:mod:`uapfast.method.decision`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast import ops
from uapfast.arrays import Float64Array, Int64Array
from uapfast.method.decision import Assessment, among_twins
from uapfast.method.lru_cache import LruCache
from uapfast.method.rounds import Rounds
from uapfast.method.standing import assessment, statistics, typical_spread
from uapfast.method.whitening import Whitening, safe_length, whiten

ROUNDS_KEPT = 8  # numbers of views for which a pool is kept ready
AT_ONCE = 32  # suspects scored together: what they take fits into a core's cache or two
SURROGATE_WEIGHT = 0.5  # of the surrogates' residuals beside the candidate's own; docs/method.md


@dataclass(frozen=True)
class Roster:
    """Which row of the pool is what.

    Attributes:
        candidates: rows of the victim (first) and its twins.
        innocents: rows of the homologous models.
        surrogates: ``[kinds, candidates]`` rows of each candidate's surrogate of each kind; only
            kinds that every candidate has take part.
    """

    candidates: Int64Array
    innocents: Int64Array
    surrogates: Int64Array

    @property
    def has_twins(self) -> bool:
        """Whether the candidate side can be tested (a spread needs two twins)."""
        return len(self.candidates) >= 3


def _unit(rows: Float64Array, white: Whitening) -> Float64Array:
    """Scale coefficient rows ``[R,N]`` to unit length once whitened, or to nothing."""
    out: Float64Array = rows / safe_length(((rows @ white.metric) * rows).sum(-1), white.largest)[:, None]
    return out


def _inverse_root(square: Float64Array) -> Float64Array:
    """One over the square root, or 1 where there is nothing."""
    return np.where(square > 0, 1.0 / np.sqrt(np.where(square > 0, square, 1.0)), 1.0)


def _basis(index: Int64Array, size: int) -> Float64Array:
    return np.eye(size)[index]


def template_parts(
    size: int, roster: Roster, origin: Float64Array, skip_kind: int | None = None
) -> list[tuple[float, Float64Array]]:
    """What each candidate's template is made of: weight, and coefficients over models ``[C,N]``.

    Args:
        size: models, N.
        roster: which row is what.
        origin: ``[N]`` coefficients of the point that residuals are taken from.
        skip_kind: leave this kind of surrogate out (to score the surrogates themselves).
    """
    found = [(1.0, _basis(roster.candidates, size) - origin)]
    kinds = [k for k in range(len(roster.surrogates)) if k != skip_kind]
    for k in kinds:
        rows = _basis(roster.surrogates[k], size)
        rows = rows - rows.mean(0) if len(rows) > 1 else rows - origin
        found.append((SURROGATE_WEIGHT / len(kinds), rows))
    return found


def templates(white: Whitening, roster: Roster, origin: Float64Array) -> Float64Array:
    """Unit template of each candidate as coefficients over models: ``[C,N]``.

    Args:
        white: inner products of N models.
        roster: which row is what.
        origin: ``[N]`` coefficients of the point that residuals are taken from.
    """
    parts = template_parts(len(white.metric), roster, origin)
    return _unit(sum((w * _unit(rows, white) for w, rows in parts), np.zeros(())), white)


def _origin(roster: Roster, size: int, honest: Int64Array | None = None) -> Float64Array:
    """Residuals are taken from the candidates' mean; without twins from that of ``honest`` models.

    Those are the innocents and the suspect where one is scored: each of them counts alike.
    """
    base = roster.candidates if roster.has_twins else roster.innocents if honest is None else honest
    out: Float64Array = _basis(base, size).mean(0)
    return out


Features = Tensor | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LineageScorer:
    """Scores suspects against one pool.

    Attributes:
        pool: ``[M,V,B,F]`` features of the pool's models.
        roster: which row is what.
        logged: how many of the first views are those of a query log.
        place: device on which suspects are scored.
    """

    pool: NDArray[np.float32]
    roster: Roster
    logged: int = 0
    place: str = "cpu"
    _rounds: LruCache[tuple[int, bool, int | None], Rounds] = field(
        default_factory=lambda: LruCache(ROUNDS_KEPT), init=False, repr=False
    )

    @property
    def has_twins(self) -> bool:
        """Whether there are twins to tell the victim from."""
        return self.roster.has_twins

    @cached_property
    def _scale(self) -> Float64Array:
        """What features are multiplied by, ``[V,B]``: each block has the same say among the candidates.

        Else the block whose answers vary most (a large v) would drown the others. Views of a query log
        together have the say of all the others, however few they are. Candidates alone set it, so that a
        suspect stays exchangeable with the innocents; without twins everything counts as it is.
        """
        _, views, blocks, _ = self.pool.shape
        out = np.ones((views, blocks))
        if not self.roster.has_twins or (blocks == 1 and not 0 < self.logged < views):
            return out
        spread = self.pool[self.roster.candidates].astype(np.float64).var(axis=0).sum(-1)  # [V,B]
        if blocks > 1:
            out *= _inverse_root(spread.sum(0))
        if 0 < self.logged < views:
            say = (spread * np.square(out)).sum(1)
            log, own = say[: self.logged].sum(), say[self.logged :].sum()
            out[: self.logged] *= float(np.sqrt(own)) * _inverse_root(log) if own > 0 else 1.0
        return out

    @cached_property
    def _wide(self) -> Tensor:
        """The pool's features ``[V*B,M,F]``, where suspects are scored."""
        return torch.from_numpy(self.pool).to(self.place).flatten(1, 2).transpose(0, 1).contiguous()

    @cached_property
    def _weight(self) -> Tensor:
        """Of products of features ``[V,B,1]``, where suspects are scored."""
        return torch.from_numpy(np.square(self._scale)).to(self.place)[..., None]

    def _products(self, rows: Features, views: int | None = None) -> Tensor:
        """Products ``[A,k,M+1]`` of models ``[A,V,B,F]`` with the pool's and with themselves, by views."""
        given = torch.as_tensor(rows)[:, :views].to(self.place, torch.float32)
        blocks = given.shape[2]
        found = ops.inner_products(given.flatten(1, 2), self._wide[: given.shape[1] * blocks])
        weight = self._weight[: given.shape[1]]
        out: Tensor = (found.view(len(given), -1, blocks, found.shape[-1]) * weight).sum(2)
        return out

    @cached_property
    def _gram(self) -> Float64Array:
        """Inner products of the pool's models ``[V,M,M]``."""
        return np.ascontiguousarray(self._products(self.pool)[..., :-1].transpose(0, 1).cpu().numpy())

    @property
    def gram(self) -> Float64Array:
        """Inner products ``[M,M]`` of the pool's models over all views, about the candidates' mean."""
        out: Float64Array = self._gram.sum(0)
        return out

    def with_innocents(self, innocents: Int64Array) -> LineageScorer:
        """The same pool with other rows for innocents, at no cost; the candidates stay."""
        roster = replace(self.roster, innocents=innocents)
        out = LineageScorer(self.pool, roster, self.logged, self.place)
        for name in ("_scale", "_weight", "_wide", "_gram"):  # they depend on the candidates alone
            out.__dict__[name] = getattr(self, name)
        return out

    def _fit(self, full: Float64Array, fit: Int64Array) -> tuple[Whitening, Float64Array]:
        size = full.shape[-1]  # one more than the pool has: the last row is a suspect's
        honest = self.roster.innocents
        honest = honest if size == len(self.pool) else np.append(honest, size - 1)
        origin = _origin(self.roster, size, honest)
        return whiten(full, fit, base=self._base(origin)), origin

    def _base(self, origin: Float64Array) -> Float64Array | None:
        """What whitening is told of the origin: without twins that is the innocents' mean itself."""
        return origin if self.roster.has_twins else None

    def rounds(self, views: int, alone: bool = False, skip_kind: int | None = None) -> Rounds:
        """What scores by the first ``views`` views; ``alone``: innocents among themselves. Made once.

        ``skip_kind`` of surrogates is left out of the templates.
        """

        def make() -> Rounds:
            size, innocents = len(self.pool) + 1, self.roster.innocents
            everybody = innocents if alone else np.append(innocents, size - 1)
            origin = _origin(self.roster, size, everybody)
            gram = torch.from_numpy(self._gram[:views])
            parts = template_parts(size, self.roster, origin, skip_kind)
            freed = self._base(origin) is not None
            return Rounds(gram, innocents, origin, parts, freed=freed, alone=alone).to(self.place)

        return self._rounds.get((views, alone, skip_kind), make)

    def scores(self, suspect: Features, views: int | None = None) -> tuple[Float64Array, Float64Array]:
        """Cosines with every candidate, of a suspect ``[V,B,F]`` and of the pool's innocents, by views.

        A suspect that was asked fewer views than the pool is compared on those.

        The innocents' are computed as the suspect's are: each is scored with a whitening fitted on all
        the others, the suspect among them, so that an innocent suspect is exchangeable with them
        (leave-one-out of the augmented set).

        Args:
            suspect: or several at a time, ``[A,V,B,F]``.
            views: the first of them; None takes all.

        Returns:
            ``[V,C]`` of the suspect and ``[n,V,C]`` of the innocents, from the first ``views`` views; of
            several ``[A,V,C]`` and ``[A,n,V,C]``. Means over views are the cosines; what one view adds need
            not lie in -1..1.
        """
        given = torch.as_tensor(suspect)
        if given.ndim == 3:
            own, rest = self.scores(given[None], views)
            return own[0], rest[0]
        found: list[Float64Array] = []
        for some in torch.split(given, AT_ONCE):
            products = self._products(some, views)
            found.append(self.rounds(products.shape[1]).scores(products).cpu().numpy())
        every = np.concatenate(found)
        return every[:, -1], every[:, :-1]

    def assess(self, suspect: Features, views: int | None = None) -> Assessment:
        """What :meth:`scores` say of one suspect ``[V,B,F]``, from its first ``views`` views."""
        return assessment(*self.scores(suspect, views), twins=self.roster.has_twins)

    def embed(self, suspect: Features) -> NDArray[np.float32]:
        """Embeddings ``[V,d]``, d = candidates + 1; their mean is a unit vector.

        The first coordinates span the candidates' templates, the last is the length of the residual
        outside that span, so that dot products with :meth:`templates_embedded` equal the scores that
        decide.
        """
        vectors, root = self._span
        inside = self.scores(suspect)[0] @ (vectors / root)
        outside = np.sqrt(max(1.0 - float(np.square(inside.mean(0)).sum()), 0.0))
        out = np.concatenate([inside, np.full((len(inside), 1), outside)], axis=-1)
        return out.astype(np.float32)

    def templates_embedded(self) -> NDArray[np.float32]:
        """Unit embeddings of the candidates' templates: ``[C,d]``, the victim's first."""
        vectors, root = self._span
        inside = vectors * np.where(np.isinf(root), 0.0, root)
        out = np.concatenate([inside, np.zeros((len(root), 1))], axis=-1)
        return out.astype(np.float32)

    @cached_property
    def _span(self) -> tuple[Float64Array, Float64Array]:
        """Directions ``[C,C]`` that the templates span, and the templates' lengths along them.

        From their Gram matrix, whose rank is C or C - 1 (residuals of C candidates sum to 0): a direction
        of rounding is infinitely long.
        """
        white, origin = self._fit(self._gram, self.roster.innocents)
        template = templates(white, self.roster, origin)
        values, vectors = np.linalg.eigh(template @ white.metric @ template.T)
        return vectors, safe_length(values, values[-1])

    def surrogate_scores(self) -> tuple[Float64Array, Float64Array]:
        """How the pool's own piracy models score against the candidate that they derive from.

        Each surrogate is scored with its kind left out of every template, and its candidate takes
        the victim's place. Returns ``z`` (in twins' standard deviations) and
        ``similarity``, one a surrogate (empty without twins).
        """
        if not self.roster.has_twins or not len(self.roster.surrogates):
            return np.zeros(0), np.zeros(0)
        innocents, _ = self.innocent_scores()
        z, similarity = [], []
        for kind, rows in enumerate(self.roster.surrogates):
            products = self._products(self.pool[rows])
            found = self.rounds(products.shape[1], skip_kind=kind).scores(products)[:, -1].mean(1)
            for candidate, scores in enumerate(found.cpu().numpy()):
                typical = typical_spread(innocents, candidate)
                own, twins = float(scores[candidate]), np.delete(scores, candidate)
                z.append(among_twins(own, twins, typical, len(innocents)).z)
                similarity.append(own)
        return np.array(z), np.array(similarity)

    def innocent_scores(self, views: int | None = None) -> tuple[Float64Array, Float64Array]:
        """``[n,C]`` scores of the pool's innocents, each left out of its own whitening, and statistics.

        From the first ``views`` views, or from all.
        """
        count = self.pool.shape[1] if views is None else views
        none = torch.zeros((1, count, len(self.pool) + 1), dtype=torch.float64, device=self.place)
        scores: Float64Array = self.rounds(count, alone=True).scores(none)[0].mean(1).cpu().numpy()
        if not self.roster.has_twins:
            return scores, scores[:, 0]
        return scores, statistics(scores)


__all__ = ["LineageScorer", "Roster"]
