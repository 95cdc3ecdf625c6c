"""How far a score with the victim may stand above those with its twins by chance.

A suspect's own twins show how much its scores vary, and two or three of them show next to nothing. The pool
knows more: every innocent has such a spread, and they are much alike (docs/verdicts.md). So the variance of a
suspect's twin scores is moderated with what is usual (Smyth 2004), the usual spread taken ``WIDTH`` times:
for normal scores the p-values here are exact for an honest model that varies so much more than innocents do,
and too large for one that varies less. With many twins a suspect's own spread takes over.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import optimize, special

from uapfast.arrays import Float64Array

WIDTH = 2.0  # times the usual spread of twin scores that an honest suspect's may have
WEIGHT = 2.0  # degrees of freedom that the usual spread counts for
NODES = 160  # of the integral over the spread; exact to 1e-6 of p from 1e-12 on
LEAST = 1e-12  # a spread below it is none


def widened(
    variance: Float64Array | float,
    usual: Float64Array | float,
    twins: int,
    width: float = WIDTH,
    weight: float = WEIGHT,
) -> Float64Array:
    """The spread that scores above the twins' mean are divided by, 0 where there is none.

    Args:
        variance: of the scores with the twins, ``twins - 1`` degrees of freedom.
        usual: mean of that over other innocents.
        twins: m, at least 2.
        width: times the usual spread that an honest model's may have.
        weight: degrees of freedom that the usual spread counts for.
    """
    freedom = twins - 1
    mixed = (weight * width**2 * np.asarray(usual) + freedom * np.asarray(variance)) / (weight + freedom)
    out: Float64Array = np.sqrt(mixed * (1.0 + 1.0 / twins))
    return np.where(out > LEAST, out, 0.0)


def standings(scores: Float64Array) -> Float64Array:
    """Scores ``[n,C]`` above the other candidates' mean, in their spread: ``[n,C]``, each in turn the victim.

    The usual spread is that of all the other models, so that models, and candidates, are treated alike.
    """
    above, variance = beside_others(scores)
    usual = (variance.sum(0) - variance) / (len(scores) - 1)
    spread = widened(variance, usual, scores.shape[1] - 1)
    out: Float64Array = np.where(spread > 0, above / np.where(spread > 0, spread, 1.0), 0.0)
    return out


def beside_others(scores: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Scores ``[n,C]`` above the mean of each model's other candidates, and the variance of those."""
    twins = scores.shape[1] - 1
    apart = scores - scores.mean(1, keepdims=True)
    mean = -apart / twins  # of the others, about the mean of all
    square = np.square(apart).sum(1, keepdims=True) - np.square(apart)
    return apart - mean, np.maximum(square - twins * np.square(mean), 0.0) / (twins - 1)


@lru_cache(maxsize=64)
def _nodes(freedom: int) -> tuple[Float64Array, Float64Array]:
    """Squares of a chi variable with ``freedom`` degrees, and their weights."""
    at, weight = np.polynomial.legendre.leggauss(NODES)
    most = np.sqrt(freedom) + 9.0
    y = most * (at + 1.0) / 2.0
    log = (freedom - 1) * np.log(y) - np.square(y) / 2 - (freedom / 2 - 1) * np.log(2.0)
    return np.square(y), weight * most / 2.0 * np.exp(log - special.gammaln(freedom / 2))


def chance(z: float, twins: int, innocents: int, weight: float = WEIGHT) -> float:
    """How often an honest model, its scores as much wider than usual as allowed, stands at ``z`` or above.

    Scores are normal, ``z`` is in spreads as :func:`widened` makes them, and its location is known from
    ``innocents`` (Student's t). That is P(T >= z sqrt((W + U) / (W + m - 1))), W the ``weight`` of the usual
    spread and U chi-square with m - 1 degrees.
    """
    u, shares = _nodes(twins - 1)
    at = abs(z) * np.sqrt((weight + u) / (weight + twins - 1))
    p = float(shares @ special.stdtr(max(innocents - 1, 1), -at))
    return p if z >= 0 else 1.0 - p


@lru_cache(maxsize=256)
def height(p: float, twins: int, innocents: int) -> float:
    """The z at which :func:`chance` is ``p``, in 0..0.5."""
    top = 1.0
    while chance(top, twins, innocents) > p:
        top *= 2.0
    return float(optimize.brentq(lambda z: chance(z, twins, innocents) - p, 0.0, top))


def least_spread(twins: int) -> float:
    """The least that a suspect's spread is, in usual ones, but for one suspect in twenty."""
    freedom = twins - 1
    own = 2.0 * float(special.gammaincinv(freedom / 2, 0.05)) / freedom
    return float(widened(own, 1.0, twins))
