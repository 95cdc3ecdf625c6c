"""Rules by which scores become a p-value, by name; all on arrays of many runs at once.

A run is an array of scores: rows are the innocents and, last, the suspect; columns are the victim, first, and
its twins. Every rule returns the p-value of a conviction, 1 where a twin is as close as the victim.
``uapfast.method`` has one of them; the others are what it is held against (``spreads``, ``few_twins``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from uapfast.method.decision import BEYOND, TAIL
from uapfast.method.spread import WEIGHT, WIDTH

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Runs:
    """Scores ``[R,n+1,m+1]`` and, or None, a covariate ``[R,n+1]`` of how much each row varies."""

    scores: Array
    covariate: Array | None = None

    @property
    def innocents(self) -> int:
        """n."""
        return self.scores.shape[1] - 1

    @property
    def twins(self) -> int:
        """m."""
        return self.scores.shape[2] - 1

    @property
    def first(self) -> NDArray[np.bool_]:
        """``[R]`` whether the suspect is nearer to the victim than to any twin."""
        found: NDArray[np.bool_] = self.scores[:, -1, 0] > self.scores[:, -1, 1:].max(-1)
        return found

    def parts(self, place: int = 0) -> tuple[Array, Array]:
        """How much nearer each row is to the victim than to the twins, and the variance of the twins' scores.

        Both ``[R,n+1]``; the first is in units in which its variance is that of one twin's score.
        """
        others = np.delete(self.scores, place, axis=2)
        above = self.scores[..., place] - others.mean(-1)
        return above / np.sqrt(1.0 + 1.0 / self.twins), others.var(-1, ddof=1)


def left_out(values: Array) -> Array:
    """Mean over all the other rows."""
    out: Array = (values.sum(1, keepdims=True) - values) / (values.shape[1] - 1)
    return out


def joint_floor(runs: Runs) -> float:
    """Smallest p of the joint rank."""
    return 1.0 / ((runs.innocents + 1) * (runs.twins + 1))


def _prediction(z: Array, freedom: float) -> Array:
    """The last row beside all the others: Student t prediction."""
    rest = z[:, :-1]
    spread = rest.std(1, ddof=1) * np.sqrt(1.0 + 1.0 / rest.shape[1])
    out: Array = stats.t.sf((z[:, -1] - rest.mean(1)) / np.maximum(spread, 1e-12), freedom)
    return out


def _both(runs: Runs, z: Array, freedom: float) -> Array:
    """The larger of both sides; z has ``freedom`` on the candidate side."""
    joint = 1.0 / (1.0 / freedom + 1.0 / (runs.innocents - 1))
    p = np.maximum(stats.t.sf(z[:, -1], freedom), _prediction(z, joint))
    return np.where(runs.first, p, 1.0)


def upwards(runs: Runs) -> Array:
    """Spreads moderated upwards, m - 1 degrees of freedom: what was the product's rule before."""
    above, variance = runs.parts()
    usual = left_out(variance)
    return _both(runs, above / np.sqrt(np.maximum(variance, (variance + usual) / 2)), runs.twins - 1)


def _excess(variance: Array, d: int) -> Array:
    """Smyth's e: log variances without what the chi-square law adds."""
    out: Array = np.log(np.maximum(variance, 1e-30)) - special.digamma(d / 2) + np.log(d / 2)
    return out


def smyth(runs: Runs) -> Array:
    """Smyth (2004), limma's squeezeVar: prior degrees of freedom estimated from the innocents."""
    above, variance = runs.parts()
    d = runs.twins - 1
    e = _excess(variance[:, :-1], d)
    d0 = _prior_freedom(e.var(1, ddof=1) - special.polygamma(1, d / 2))[:, None]
    shift = np.where(d0 > 1e6, 0.0, special.digamma(d0 / 2) - np.log(d0 / 2))
    prior = np.exp(e.mean(1, keepdims=True) + shift)
    d0 = np.minimum(d0, 1e6)
    z = above / np.sqrt((d0 * prior + d * variance) / (d0 + d))
    freedom = np.minimum(d0[:, 0] + d, runs.innocents * d)
    joint = 1.0 / (1.0 / freedom + 1.0 / (runs.innocents - 1))
    p = np.maximum(stats.t.sf(z[:, -1], freedom), _prediction(z, joint))
    return np.where(runs.first, p, 1.0)


def _prior_freedom(target: Array) -> Array:
    """d0 of ``trigamma(d0/2) == target``; 1e9 where that is not positive."""
    y = np.maximum(target, 1e-8)
    x = 0.5 + 1.0 / y  # Smyth's start, then Newton's steps of 1/trigamma
    for _ in range(50):
        tri = special.polygamma(1, x)
        x = x + tri * (1 - tri / y) / special.polygamma(2, x)
    out: Array = np.where(target > 1e-8, 2 * x, 1e9)
    return out


def fixed(runs: Runs, d0: float = 4.0, trend: bool = False) -> Array:
    """A prior of ``d0`` degrees of freedom, from all other rows; with ``trend`` linear in the covariate.

    Outside the innocents' range of the covariate nobody is accused.
    """
    above, variance = runs.parts()
    d = runs.twins - 1
    e = _excess(variance, d)
    x = runs.covariate if trend else None
    centre = left_out(e) if x is None else _trend(e, x)
    prior = np.exp(centre + special.digamma(d0 / 2) - np.log(d0 / 2))
    z = above / np.sqrt((d0 * prior + d * variance) / (d0 + d))
    p = _both(runs, z, d0 + d)
    return p if x is None else np.where(_inside(x), p, 1.0)


def _inside(x: Array) -> NDArray[np.bool_]:
    rest = x[:, :-1]
    found: NDArray[np.bool_] = (x[:, -1] >= rest.min(1)) & (x[:, -1] <= rest.max(1))
    return found


def _trend(e: Array, x: Array) -> Array:
    """What a line through all the other rows says of each row ``[R,n+1]``."""
    count = x.shape[1]
    apart = x - x.mean(1, keepdims=True)
    square = np.maximum(np.square(apart).sum(1, keepdims=True), 1e-12)
    slope = (apart * e).sum(1, keepdims=True) / square
    rest = e - e.mean(1, keepdims=True) - slope * apart
    lever = 1.0 / count + np.square(apart) / square
    out: Array = e - rest / np.maximum(1.0 - lever, 1e-6)
    return out


def upper(q: Array, weight: float, freedom: int, normal: float) -> Array:
    """P(T >= q sqrt(weight + U)): U chi-square with ``freedom``, T Student t with ``normal``; by a table."""
    grid, p = _table(weight, freedom, normal)
    tail = np.exp(np.interp(np.abs(q), grid, p))
    return np.where(q >= 0, tail, 1.0 - tail)


@cache
def _table(weight: float, freedom: int, normal: float) -> tuple[Array, Array]:
    """Points q and log p; U in slices of even probability, finer at its lower end."""
    edges = np.r_[0.0, np.geomspace(1e-8, 1.0, 800)]
    u = stats.chi2.ppf((edges[1:] + edges[:-1]) / 2, freedom)
    grid = np.r_[0.0, np.geomspace(1e-2, 60.0, 600)]
    tails = special.stdtr(normal, -grid[:, None] * np.sqrt(weight + u))
    return grid, np.log(np.maximum(tails @ np.diff(edges), 1e-300))


def cells(runs: Runs, width: float = WIDTH, trend: bool = False) -> Array:
    """Studentised scores ``[R,n+1,m+1]`` with every candidate in the victim's place."""
    m, d = runs.twins, runs.twins - 1
    apart = runs.scores - runs.scores.mean(-1, keepdims=True)
    square = np.square(apart)
    variance = (square.sum(-1, keepdims=True) - square - square / m) / d  # of the others
    usual = left_out(variance)
    if trend and runs.covariate is not None:
        e = _excess(variance[..., 0], d)
        usual = usual * np.exp(_trend(e, runs.covariate) - left_out(e))[..., None]
    scale = np.sqrt((WEIGHT * width**2 * usual + d * variance) / (WEIGHT + d))
    out: Array = apart * ((1.0 + 1.0 / m) / np.sqrt(1.0 + 1.0 / m)) / scale
    return out


def tail(runs: Runs, exponent: float = TAIL, given: Array | None = None) -> Array:
    """The joint rank, continued beyond its floor by a power of z, to a tenth of it at most."""
    found = (cells(runs) if given is None else given).copy()
    own = found[:, -1, 0].copy()
    found[:, -1, 0] = -np.inf
    flat = found.reshape(len(own), -1)
    rank = (1 + (flat >= own[:, None]).sum(1)) / flat.shape[1]
    ratio = np.where(own > 0, flat.max(1) / np.maximum(own, 1e-12), 1.0)
    return np.maximum(rank * np.clip(ratio, 0.0, 1.0) ** exponent, joint_floor(runs) / BEYOND)


def widened(runs: Runs, width: float = WIDTH, exponent: float | None = TAIL, trend: bool = False) -> Array:
    """The product's rule, with its width; ``exponent`` None leaves the joint rank out."""
    found = cells(runs, width, trend)
    z = found[:, :, 0]
    d, n = runs.twins - 1, runs.innocents
    rest, root = z[:, :-1], np.sqrt(WEIGHT + d)
    spread = np.maximum(rest.std(1, ddof=1), 1.0) * np.sqrt(1 + 1 / n)
    p = upper(z[:, -1] / root, WEIGHT, d, n - 1)
    p = np.maximum(p, upper((z[:, -1] - rest.mean(1)) / spread / root, WEIGHT, d, n - 1))
    if exponent is not None:
        p = np.maximum(p, tail(runs, exponent, found))
    return np.where(runs.first, p, 1.0)


def joint(runs: Runs) -> Array:
    """The joint rank alone: exact, and never below its floor."""
    return tail(runs, 0.0)


RULES: dict[str, Callable[[Runs], Array]] = {
    "upwards": upwards,
    "Smyth": smyth,
    "d0 = 4": fixed,
    "d0 = 4, trend": partial(fixed, trend=True),
    "widened 1.5": partial(widened, width=1.5),
    "widened 1.85": partial(widened, width=1.85),
    "widened 2": widened,
    "widened 2, no joint rank": partial(widened, exponent=None),
    "widened 2, trend": partial(widened, trend=True),
    "joint rank": joint,
}
