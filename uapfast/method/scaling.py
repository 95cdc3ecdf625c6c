"""From answers to features: what is left once confidence and class frequencies are set aside.

How sure a model is on the whole, and which classes it prefers, says how it was trained (epochs, data, loss,
normalisation) and little of whom it descends from; yet both bend every answer, in a way that no projection
of residuals undoes. So the answers of every model, suspect or pool, are first brought to the same mean
confidence and the same class frequencies, in each block of each group of views, by one temperature and one
bias a class (:mod:`uapfast.ops.features`). A feature is the difference of cube roots of probabilities from
the candidates' mean, softly clipped point by point: a suspect that is plainly wrong somewhere says nothing
more about its descent there.

The two targets and the mean are those of the candidates, each counted alike, and a model's features depend on
its own answers and on them alone: what makes both sides of the decision exact stays (docs/verdicts.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast import ops

AnswerArray = Tensor | NDArray[np.float32]

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


def view_groups(first: int, count: int) -> list[slice]:
    """Views ``first .. first + count - 1`` cut at ``EDGES``, counted from ``first``."""
    cuts = [e - first for e in EDGES if first < e < first + count]
    return [slice(a, b) for a, b in pairwise([0, *cuts, count])]


@dataclass(frozen=True, eq=False)
class Scaling:
    """What every model's answers are brought to, and what residuals are taken from.

    Attributes:
        target: float64 ``[V,B]`` mean confidence.
        prior: float64 ``[V,B,R]`` class frequencies.
        origin: float32 ``[V,B,n,R]`` the candidates' mean cube root, rescaled.
        mean: float32 ``[V,B,n,R]`` the candidates' mean probability, as they answer.
    """

    target: Tensor
    prior: Tensor
    origin: Tensor
    mean: Tensor

    @classmethod
    def of(cls, candidates: AnswerArray) -> Scaling:
        """From the answers of the candidates ``[C,V,B,n,R]``."""
        p = torch.as_tensor(candidates)
        wide = p.double()
        target = wide.amax(-1).mean((0, -1))
        prior = wide.mean((0, -2)).clamp(min=1e-4)
        prior /= prior.sum(-1, keepdim=True)
        mean = wide.mean(0).float()
        bare = cls(target, prior, torch.zeros_like(mean), mean)
        return cls(target, prior, bare.roots(p).double().mean(0).float(), mean)

    def to(self, place: str | torch.device) -> Scaling:
        """The same on a device."""
        return Scaling(*(t.to(place) for t in (self.target, self.prior, self.origin, self.mean)))

    def _residuals(self, answers: AnswerArray, first: int, origin: Tensor, clip: float) -> Tensor:
        """Residuals of answers ``[...,k,B,n,R]`` from the origin of these views."""
        p = torch.as_tensor(answers)
        parts = view_groups(first, p.shape[-4])
        where = [slice(first + part.start, first + part.stop) for part in parts]
        target, prior = (torch.stack([t[one].mean(0) for one in where]) for t in (self.target, self.prior))
        sizes, floor = [part.stop - part.start for part in parts], FLOOR / p.shape[-1]
        models = p.reshape(-1, *p.shape[-4:]).float()
        found = ops.features(models, target, prior, origin, sizes, floor=floor, root=ROOT, clip=clip)
        return found.view(p.shape)

    def roots(self, answers: AnswerArray, first: int = 0) -> Tensor:
        """Roots of rescaled probabilities, as :meth:`features` takes them and of the same shape."""
        return self._residuals(
            answers, first, torch.zeros_like(self.origin[first:][: answers.shape[-4]]), math.inf
        )

    def features(self, answers: AnswerArray, first: int = 0) -> Tensor:
        """Feature rows float32 ``[...,k,B,n*R]`` of models' probabilities ``[...,k,B,n,R]``.

        Args:
            answers: to the queries of k views. Between two edges the views are fitted together, so that
                models can be compared only if asked the same ones. A query not answered (zeros) says nothing.
            first: number of the first of them; 0 or one of ``EDGES``.
        """
        origin = self.origin[first : first + answers.shape[-4]]
        return self._residuals(answers, first, origin, CLIP).flatten(-2)

    def label_features(self, answers: AnswerArray, first: int = 0) -> Tensor:
        """Feature rows float32 ``[...,k,B,n*R]`` of one-hot ``[...,k,B,n,R]``: what they add to the mean.

        There is no confidence to scale. They are compared with templates of :meth:`features`: a label agrees
        with a candidate as far as that candidate finds it likelier than the candidates do on the whole.

        Args:
            answers: to the queries of k views.
            first: number of the first of them.
        """
        p = torch.as_tensor(answers)
        residual = p - self.mean[first : first + p.shape[-4]]
        return (residual * p.sum(-1, keepdim=True)).flatten(-2).float()


__all__ = ["EDGES", "Scaling", "even_spread", "without_floor"]
