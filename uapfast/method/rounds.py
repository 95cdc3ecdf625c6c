"""Leave-one-out scoring, all rounds at once.

Every innocent is scored with a whitening of its own (:mod:`uapfast.method.lineage`), so one suspect takes
some forty small linear systems. Here they go through numpy together; what ``whiten``, ``templates`` and
``cosines`` say one by one is the truth that the tests hold this against.
"""

from __future__ import annotations

import numpy as np

from uapfast.method.whitening import ROUNDING, SHRINK, TINY, Array, Index


def block_weights(total: Array, fits: Index) -> Array:
    """What each block counts in each round, ``[S,B]``: one over the variance of the models in ``fits``.

    Args:
        total: ``[B,N,N]`` inner products, views added.
        fits: ``[S,n]`` rows that each round fits on.
    """
    if len(total) == 1:  # cosines cancel the scale
        return np.ones((len(fits), 1))
    inside = total[:, fits[:, :, None], fits[:, None, :]]
    spread = np.trace(inside, axis1=-2, axis2=-1) - inside.sum((-2, -1)) / fits.shape[1]
    return np.where(spread > 0, 1.0 / np.where(spread > 0, spread, 1.0), 1.0).T


def _whiten(gram: Array, fits: Index, base: Array | None) -> tuple[Array, Array, Array]:
    """Metric ``[S,N,N]``, axes and pull ``[S,N,n+1]`` of each round, as ``whiten`` makes them."""
    rounds, count = np.arange(len(fits))[:, None], fits.shape[1]
    mean = gram[rounds, :, fits].mean(1)  # symmetric: rows serve as columns
    grand = np.take_along_axis(mean, fits, axis=1).mean(1)
    centered = gram - mean[:, :, None] - mean[:, None, :] + grand[:, None, None]
    inside = centered[rounds, fits]  # [S,n,N]
    inner = np.take_along_axis(inside, fits[:, None, :], axis=2)
    least = np.maximum(ROUNDING * np.diagonal(centered, axis1=1, axis2=2).max(1), TINY)
    ridge = np.maximum(SHRINK * np.trace(inner, axis1=1, axis2=2), least)[:, None, None]
    axes, pull = np.zeros((2, *gram.shape[:2], count + 1))
    axes[rounds, fits, np.arange(count)] = 1.0
    pull[..., :-1] = np.linalg.solve(inner + ridge * np.eye(count), inside).swapaxes(1, 2)
    metric = centered - pull[..., :-1] @ inside
    if base is not None:
        free = np.tile(base, (len(fits), 1))
        free[rounds, fits] -= 1.0 / count
        row = (metric @ free[..., None])[..., 0]
        length = lengths((free * row).sum(-1), metric)[:, None]
        axes[..., -1] = (free - ((free[:, None] @ pull) @ axes.swapaxes(1, 2))[:, 0]) / length
        pull[..., -1] = row / length
        metric = metric - pull[..., -1:] * pull[:, None, :, -1]
    return metric, axes, pull


def lengths(square: Array, metric: Array) -> Array:
    """Square roots of squared lengths ``[S,...]``; infinite where rounding is all that is left of them."""
    largest = np.diagonal(metric, axis1=1, axis2=2).max(1).reshape(-1, *[1] * (square.ndim - 1))
    return np.sqrt(np.where(square > ROUNDING * largest, square, np.inf))


def _unit(rows: Array, metric: Array) -> Array:
    square = ((rows @ metric) * rows).sum(-1)
    out: Array = rows / lengths(square, metric)[..., None]
    return out


def score_rounds(
    full: Array,
    fits: Index,
    rows: Index,
    origin: Array,
    parts: list[tuple[float, Array]],
    base: Array | None,
) -> Array:
    """Cosines with every candidate by views: ``[S,V,C]``, whose means over views are the cosines.

    Args:
        full: ``[V,B,N,N]`` inner products of all models in each view and block.
        fits: ``[S,n]`` rows whose variation each round removes.
        rows: ``[S]`` the model that each round scores.
        origin: ``[N]`` coefficients of the point that residuals are taken from.
        parts: weight and coefficients ``[C,N]`` of what a template is made of.
        base: as :func:`uapfast.method.whitening.whiten` takes it.
    """
    total = full.sum(0)
    weight = block_weights(total, fits)
    metric, axes, pull = _whiten(np.tensordot(weight, total, 1), fits, base)
    template = sum((w * _unit(part, metric) for w, part in parts), np.zeros(()))
    template = _unit(template, metric)
    residual = np.tile(-origin, (len(rows), 1))
    residual[np.arange(len(rows)), rows] += 1.0
    square = (residual[:, None, :] @ metric @ residual[:, :, None])[:, 0, 0]
    length = lengths(square, metric)
    seen = (full @ residual.T * weight.T[:, None, :]).sum(1)  # [V,N,S]
    moved = template - (template @ pull) @ axes.swapaxes(1, 2)
    out: Array = seen.transpose(2, 0, 1) @ moved.swapaxes(1, 2)
    return out * (len(full) / length)[:, None, None]


__all__ = ["score_rounds"]
