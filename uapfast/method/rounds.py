"""Leave-one-out scoring, all rounds at once.

Every model of a set, a suspect and the pool's innocents, is scored with a whitening fitted on all the
others (:mod:`uapfast.method.lineage`). The covariances of these rounds differ from that of the whole set by
one model each: one eigendecomposition serves them all, and the model left out is a change of rank one
(Sherman and Morrison 1950), as is the direction that is taken out. What ``whiten``, ``templates`` and
``cosines`` say one by one is the truth that the tests hold this against.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from uapfast.method.whitening import ROUNDING, SHRINK, TINY, Array, Index, center, safe_length


@dataclass(frozen=True)
class _Rounds:
    """The metric of every round: ``inner - along.T @ diag(shares[s]) @ along``, and changes of rank one.

    Rows are coefficients over the N models that add to 0.

    Attributes:
        inner: ``[N,N]`` inner products about the mean of the set.
        along: ``[n,N]`` the models along the principal directions of the set, times their lengths.
        back: ``[N,n]`` coefficients of those directions, over their lengths.
        shares: ``[S,n]`` of each direction that a round takes out.
        signs: ``[S]`` factors, one for each change of rank one.
        changes: ``[S,N]`` inner products of each change with the models.
        moved: ``[S,N]`` coefficients of the vector of each change.
    """

    inner: Array
    along: Array
    back: Array
    shares: Array
    signs: tuple[Array, ...] = ()
    changes: tuple[Array, ...] = ()
    moved: tuple[Array, ...] = ()

    def with_change(self, sign: Array, rows: Array) -> _Rounds:
        """With ``sign[s]`` times the square of the direction ``rows[s]`` (as the metric sees it) added."""
        return replace(
            self,
            signs=(*self.signs, sign),
            changes=(*self.changes, self.products(rows)),
            moved=(*self.moved, self.vectors(rows)),
        )

    def products(self, rows: Array) -> Array:
        """Inner products ``[S,N]`` of one row a round, ``[S,N]``, with all models."""
        out: Array = rows @ self.inner - (rows @ self.along.T * self.shares) @ self.along
        for sign, change in zip(self.signs, self.changes, strict=True):
            out += (sign * (change * rows).sum(-1))[:, None] * change
        return out

    def vectors(self, rows: Array) -> Array:
        """Coefficients ``[S,N]`` of one whitened row a round, ``[S,N]``."""
        out: Array = rows - (rows @ self.along.T * self.shares) @ self.back.T
        for sign, change, moved in zip(self.signs, self.changes, self.moved, strict=True):
            out += (sign * (change * rows).sum(-1))[:, None] * moved
        return out

    def squares(self) -> Array:
        """Squared lengths ``[S,N]`` of all models."""
        out: Array = np.diagonal(self.inner) - self.shares @ np.square(self.along)
        for sign, change in zip(self.signs, self.changes, strict=True):
            out += sign[:, None] * np.square(change)
        return out

    def blocks(self, parts: Array) -> Array:
        """Inner products ``[S,C,P,P]`` of the parts ``[P,C,N]`` of each template with each other."""
        along = parts @ self.along.T  # [P,C,n]
        pairs = along[:, None] * along[None]
        inner = np.einsum("pcn,qcn->cpq", parts @ self.inner, parts)
        out: Array = inner - np.einsum("pqcn,sn->scpq", pairs, self.shares, optimize=True)
        for sign, change in zip(self.signs, self.changes, strict=True):
            shadow = np.tensordot(change, parts, (1, 2)).swapaxes(1, 2)  # [S,C,P]
            out += sign[:, None, None, None] * shadow[..., None] * shadow[..., None, :]
        return out

    def templates(self, weights: Array, parts: Array) -> Array:
        """Whitened coefficients ``[S,C,N]`` of ``weights`` ``[S,C,P]`` of the parts ``[P,C,N]``."""
        out: Array = np.einsum("scp,pcn->scn", weights, parts, optimize=True)
        along = np.einsum("scp,pcn->scn", weights, parts @ self.along.T, optimize=True)
        pulls = [
            sign[:, None] * (out @ change[..., None])[..., 0]
            for sign, change in zip(self.signs, self.changes, strict=True)
        ]
        out -= (along * self.shares[:, None]) @ self.back.T
        for pull, moved in zip(pulls, self.moved, strict=True):
            out += pull[..., None] * moved[:, None]
        return out


def _leave_one_out(inner: Array, everybody: Index) -> _Rounds:
    """Whitening by all of ``everybody`` but one; ``inner`` ``[N,N]`` is about the mean of all of them."""
    count = len(everybody)
    values, vectors = np.linalg.eigh(inner[np.ix_(everybody, everybody)])
    factor = count / (count - 1)  # without one model the mean moves as well
    squares = np.diagonal(inner)[everybody]
    least = max(ROUNDING * np.diagonal(inner).max(), TINY)
    ridge = np.maximum(SHRINK * (values.sum() - factor * squares), least)
    shares = 1.0 / (np.maximum(values, 0.0) + ridge[:, None])
    along = vectors.T @ inner[everybody]
    back = np.zeros((len(inner), count))
    back[everybody] = vectors
    # products and vectors of the model left out, and what the set without it leaves of 1: sums of what the
    # ridge keeps, free of cancellation
    own = vectors * shares * ridge[:, None]
    moved = np.zeros((count, len(inner)))
    moved[:, everybody] = own @ vectors.T - 1.0 / count
    left = factor * ((own * vectors).sum(1) - 1.0 / count)
    left = np.maximum(left, ridge / (ridge + factor * squares))  # its least value, rounding aside
    return _Rounds(inner, along, back, shares, (factor / ridge / left,), (own @ along,), (moved,))


def score_rounds(
    views: Array,
    everybody: Index,
    origin: Array,
    parts: list[tuple[float, Array]],
    way: Array | None,
) -> Array:
    """Cosines of each model with every candidate by views: ``[S,V,C]``, whose means are the cosines.

    Args:
        views: ``[V,N,N]`` inner products of all models in each view.
        everybody: ``[S]`` models; each is scored with a whitening by all the others.
        origin: ``[N]`` coefficients of the point that residuals are taken from.
        parts: weight and coefficients ``[C,N]`` of what a template is made of.
        way: ``[N]`` coefficients, adding to 1, of the point whose direction from the others' mean is taken
            out; None takes none.
    """
    count, every = len(everybody), np.eye(views.shape[-1])
    views, mean = center(views, everybody), every[everybody].mean(0)
    own = every[everybody] - mean
    rounds = _leave_one_out(views.sum(0), everybody)
    if way is not None:
        rows = way - mean + own / (count - 1)  # from the mean of the others
        square = (rounds.products(rows) * rows).sum(-1)
        rounds = rounds.with_change(-1.0 / safe_length(square, rounds.squares().max(1)) ** 2, rows)
    largest = rounds.squares().max(1)[:, None]
    pieces = np.stack([rows for _, rows in parts])
    pairs = rounds.blocks(pieces)
    weights = np.array([w for w, _ in parts]) / safe_length(np.einsum("scpp->scp", pairs), largest[..., None])
    weights /= safe_length(np.einsum("scp,scpq,scq->sc", weights, pairs, weights), largest)[..., None]
    residual = every[everybody] - origin
    length = safe_length((rounds.products(residual) * residual).sum(-1), largest[:, 0])
    seen = (views @ residual.T).transpose(2, 0, 1)  # [S,V,N]
    found: Array = seen @ rounds.templates(weights, pieces).swapaxes(1, 2)
    return found * (len(views) / length)[:, None, None]


__all__ = ["score_rounds"]
