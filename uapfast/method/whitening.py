"""Nuisance removal in Gram space.

Innocent models differ from each other in few directions (architecture, accuracy, temperature).
Speaker verification removes such directions before it compares (nuisance attribute projection,
within-class whitening). Features are long (thousands) and models few (dozens), so everything is
done on Gram matrices of N models: a model is a row of inner products, and whitening maps one Gram
matrix to another. Directions are estimated over all views together (a single view has too few
points to know them), at the cost of one linear system in the innocents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uapfast.arrays import Float64Array, Int64Array

TINY = float(np.finfo(np.float64).tiny)
ROUNDING = 1e-10  # share of the largest squared length below which a length is taken as none
SHRINK = 0.01  # share of the innocents' total variance added to every direction; docs/method.md


def center(gram: Float64Array, fit: Int64Array) -> Float64Array:
    """Gram matrices ``[...,N,N]`` after moving the origin to the mean of the models in ``fit``."""
    mean = gram[..., :, fit].mean(-1)
    grand = mean[..., fit].mean(-1)
    out: Float64Array = gram - mean[..., :, None] - mean[..., None, :] + grand[..., None, None]
    return out


def safe_length(square: Float64Array, largest: float | Float64Array) -> Float64Array:
    """Square roots of squared lengths; infinite where rounding is all that is left of the ``largest``."""
    return np.sqrt(np.where(square > ROUNDING * largest, square, np.inf))


@dataclass(frozen=True)
class Whitening:
    """Inner products after whitening, of models given as coefficients over the N models.

    The metric is the inverse of ``cov(fit) + shrink * trace(cov(fit)) * I``, up to a constant that
    every cosine cancels, without the direction ``free``. A hard projection is the limit of ``shrink`` to 0.

    Attributes:
        views: ``[V,N,N]`` inner products of the raw features in each view.
        metric: ``[N,N]`` whitened inner products over all views.
        axes: ``[N,n+1]`` coefficients of what is taken out: the innocents, then the direction ``free``.
        pull: ``[N,n+1]`` how much of each is taken out of every model.
    """

    views: Float64Array
    metric: Float64Array
    axes: Float64Array
    pull: Float64Array

    def parts(self, left: Float64Array, right: Float64Array) -> Float64Array:
        """What each view adds to the whitened inner products: ``[V,C]``, their sum ``left metric right``.

        Args:
            left: ``[C,N]`` coefficients that add to 0.
            right: ``[N]`` coefficients that add to 0.
        """
        out: Float64Array = self.views @ right @ (left - left @ self.pull @ self.axes.T).T
        return out

    @property
    def largest(self) -> float:
        """What squared lengths are held against: the largest, or the products that it is a difference of."""
        most = float(np.abs(self.views).max()) * len(self.views)
        return max(float(np.diagonal(self.metric).max()), most)


def whiten(
    gram: Float64Array, fit: Int64Array, shrink: float = SHRINK, base: Float64Array | None = None
) -> Whitening:
    """Remove the variation of the models in ``fit``, and the way from their mean to ``base``.

    Innocent models as a whole lie to one side of the candidates, whose recipe none of them shares. That side
    lies closer to some candidates than to others, and a suspect would be taken for their descendant by being
    anybody else.

    Args:
        gram: ``[V,N,N]`` inner products of the raw features, view by view.
        fit: indices of the models (innocents) whose variation is to be removed; at least 2.
        shrink: see ``SHRINK``.
        base: ``[N]`` coefficients, adding to 1, of the point that residuals are taken from.
    """
    centered = center(gram.sum(0), fit)
    inner = centered[np.ix_(fit, fit)]
    ridge = max(shrink * float(np.trace(inner)), ROUNDING * float(np.diagonal(centered).max()), TINY)
    axes, pull = np.zeros((2, len(centered), len(fit) + 1))
    axes[fit, np.arange(len(fit))] = 1.0
    pull[:, :-1] = np.linalg.solve(inner + ridge * np.eye(len(fit)), centered[fit]).T
    metric = centered - pull[:, :-1] @ centered[fit]
    if base is not None:
        free = base.copy()
        free[fit] -= 1.0 / len(fit)
        row = metric @ free
        square = float(free @ row)
        if square > ROUNDING * np.diagonal(metric).max():
            axes[:, -1] = (free - (free @ pull) @ axes.T) / np.sqrt(square)
            pull[:, -1] = row / np.sqrt(square)
            metric = metric - np.outer(pull[:, -1], pull[:, -1])
    return Whitening(gram, metric, axes, pull)
