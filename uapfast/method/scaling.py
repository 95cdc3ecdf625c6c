"""From answers to features: what is left once confidence and class frequencies are set aside.

How sure a model is on the whole, and which classes it prefers, says how it was trained (epochs, data, loss,
normalisation) and little of whom it descends from; yet both bend every answer, in a way that no projection
of residuals undoes. So the answers of every model, suspect or pool, are first brought to the same mean
confidence and the same class frequencies, in each block of each group of views, by one temperature and one
bias a class (:mod:`uapfast.ops.rescale`). A feature is the difference of cube roots of probabilities from the
candidates' mean, softly clipped point by point: a suspect that is plainly wrong somewhere says nothing more
about its descent there.

The two targets and the mean are those of the candidates, each counted alike, and a model's features depend on
its own answers and on them alone: what makes both sides of the decision exact stays (docs/verdicts.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.ops import rescale

Floats = NDArray[np.float32]
Array = NDArray[np.float64]

# Views between these are fitted together: one view has few points to know a bias for every class by, and what
# is asked between two looks (method/sequential.py) must not depend on whether more will be asked.
EDGES = (1, 2, 5, 10)
ROOT = 3  # of probabilities; docs/method.md
CLIP = 0.4  # length of a point's residual of cube roots from which it counts hardly more; docs/method.md
LEAST_SPREAD, MOST_SPREAD = 1.0, 50.0  # of usual logits: largest above the mean, median of queries
USUAL_SPREAD = 10.0  # what others are brought to
LEAST_FLOOR = 0.02  # share of even answers that is worth removing
FLOOR_SHARE, FLOOR_WIDTH = 0.25, 1.1  # of all entries, this share lies within this factor of the smallest
FLOOR_ROWS = 2000  # looked at
FLOOR = 1e-3  # share of an even answer, after scaling: less than that, an answer of few digits does not show


def confidence(p: Array) -> Array:
    """Mean largest probability of the points ``[...,n,R]``: ``[...]``."""
    out: Array = p.max(-1).mean(-1)
    return out


def even_spread(logits: Tensor) -> Tensor:
    """Logits float32 ``[N,K]`` that a softmax keeps whole, whatever their scale.

    A head with cosine outputs, a quantised or a saturated one answers at a scale of its own. Softmax in
    float32 would round all of it away, or bring it to zeros and ones. What matters here is brought to one
    confidence later (:meth:`Scaling.features`), so the scale itself says nothing. Logits of the usual scale
    stay as they are.
    """
    if not logits.numel():
        return logits
    spread = float((logits.amax(-1) - logits.mean(-1)).median())
    if LEAST_SPREAD <= spread <= MOST_SPREAD or spread <= 0.0:
        return logits
    return (logits.double() * (USUAL_SPREAD / spread)).to(logits.dtype)


def without_floor(p: Tensor) -> Tensor:
    """Probabilities ``[N,K]`` without what is mixed into every one of them alike.

    Even answers mixed in (to hide, or by a service that smooths) leave all classes that a model rules out at
    one and the same value, which no temperature undoes. A network's own answers have no such value: where the
    smallest entry stands alone they stay as they are.
    """
    if not p.numel():
        return p
    floor = float(p.min())
    if floor * p.shape[-1] < LEAST_FLOOR:
        return p
    common = float(torch.quantile(p[:FLOOR_ROWS].flatten().double(), FLOOR_SHARE))
    if common > FLOOR_WIDTH * floor:
        return p
    left = (p - floor).clamp(min=0.0)
    return left / left.sum(-1, keepdim=True).clamp(min=LEAST_FLOOR)


def _rescaled(p: Floats | Array, target: Array, prior: Array) -> Floats:
    """``[B,n,R]`` in float32, brought to a confidence ``[B]`` and to class frequencies ``[B,R]``.

    Rows of zeros (queries not answered) stay, and do not count.
    """
    p = p.astype(np.float32, copy=False)
    answered = np.asarray(p.any(-1))
    if answered.all():
        found: Floats = rescale(*map(torch.from_numpy, (p, target, prior))).numpy()
        return found
    out = np.zeros(p.shape, np.float32)
    for block, rows in enumerate(answered):
        if rows.any():
            one = slice(block, block + 1)
            out[block, rows] = _rescaled(p[one, rows], target[one], prior[one])[0]
    return out


def groups(first: int, count: int) -> list[slice]:
    """Views ``first .. first + count - 1`` cut at ``EDGES``, counted from ``first``."""
    cuts = [e - first for e in EDGES if first < e < first + count]
    return [slice(a, b) for a, b in pairwise([0, *cuts, count])]


@dataclass(frozen=True, eq=False)
class Scaling:
    """What every model's answers are brought to, and what residuals are taken from.

    Attributes:
        target: ``[V,B]`` mean confidence.
        prior: ``[V,B,R]`` class frequencies.
        origin: ``[V,B,n,R]`` the candidates' mean cube root, rescaled.
        mean: ``[V,B,n,R]`` the candidates' mean probability, as they answer.
    """

    target: Array
    prior: Array
    origin: Array
    mean: Array

    @classmethod
    def of(cls, candidates: Floats) -> Scaling:
        """From the answers of the candidates ``[C,V,B,n,R]``."""
        p = candidates.astype(np.float64)
        target = confidence(p).mean(0)
        prior = np.maximum(p.mean((0, -2)), 1e-4)
        prior /= prior.sum(-1, keepdims=True)
        mean = p.mean(0)
        bare = cls(target, prior, np.zeros_like(mean), mean)
        return cls(target, prior, np.mean([bare.roots(one, 0) for one in p], axis=0), mean)

    def roots(self, answers: Floats | Array, first: int) -> Array:
        """Cube roots of rescaled probabilities, as :meth:`features` takes them and of the same shape."""
        out: Array = np.empty(answers.shape, np.float64)
        for part in groups(first, len(answers)):
            views, blocks, count, classes = answers[part].shape
            where = slice(first + part.start, first + part.stop)
            joined = answers[part].swapaxes(0, 1).reshape(blocks, views * count, classes)
            found = _rescaled(joined, self.target[where].mean(0), self.prior[where].mean(0))
            out[part] = found.reshape(blocks, views, count, classes).swapaxes(0, 1)
        return np.asarray(np.maximum(out, FLOOR / out.shape[-1]) ** (1.0 / ROOT))

    def features(self, answers: Floats, first: int = 0) -> Floats:
        """Feature rows float32 ``[k,B,n*R]`` of one model's probabilities ``[k,B,n,R]``.

        Args:
            answers: to the queries of k views. Between two edges the views are fitted together, so that
                models can be compared only if asked the same ones.
            first: number of the first of them; 0 or one of ``EDGES``.
        """
        residual = self.roots(answers, first) - self.origin[first : first + len(answers)]
        residual[~answers.any(-1)] = 0.0  # not answered: says nothing
        length = np.sqrt(np.square(residual).sum(-1, keepdims=True) + CLIP**2)
        out: Floats = (residual / length).reshape(*answers.shape[:2], -1).astype(np.float32)
        return out

    def label_features(self, answers: Floats, first: int = 0) -> Floats:
        """Feature rows float32 ``[k,B,n*R]`` of one-hot answers ``[k,B,n,R]``: what they add to the mean.

        There is no confidence to scale. They are compared with templates of :meth:`features`: a label agrees
        with a candidate as far as that candidate finds it likelier than the candidates do on the whole.

        Args:
            answers: to the queries of k views.
            first: number of the first of them.
        """
        residual = answers - self.mean[first : first + len(answers)]
        residual[~answers.any(-1)] = 0.0
        out: Floats = residual.reshape(*answers.shape[:2], -1).astype(np.float32)
        return out


__all__ = ["EDGES", "Scaling", "even_spread", "without_floor"]
