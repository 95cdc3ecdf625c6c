"""From answers to features: what is left once confidence and class frequencies are set aside.

How sure a model is on the whole, and which classes it prefers, says how it was trained (epochs, data, loss,
normalisation) and little of whom it descends from; yet both bend every answer, in a way that no projection
of residuals undoes. So the answers of every model, suspect or pool, are first brought to the same mean
confidence and the same class frequencies, in each block of each group of views, by one temperature and one
bias a class (bias-corrected temperature scaling: Alexandari et al., ICML 2020; fitted to these two figures,
not to labels). A feature is the difference of cube roots of probabilities from the candidates' mean, softly
clipped point by point: a suspect that is plainly wrong somewhere says nothing more about its descent there.

The two targets and the mean are those of the candidates, each counted alike, and a model's features depend on
its own answers and on them alone: what makes both sides of the decision exact stays (docs/verdicts.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Array = NDArray[np.float64]

# Views between these are fitted together: one view has few points to know a bias for every class by, and what
# is asked between two looks (method/sequential.py) must not depend on whether more will be asked.
EDGES = (1, 2, 5, 10)
ROOT = 3  # of probabilities; docs/method.md
CLIP = 0.4  # length of a point's residual of cube roots from which it counts hardly more; docs/method.md
STEPS = 6  # alternations of temperature and bias
LEAST = 1e-30  # probability: its logarithm is finite
FLOOR = 1e-3  # share of an even answer, after scaling: less than that, an answer of few digits does not show
RANGE = (0.05, 20.0)  # inverse temperatures; answers without any spread would take an infinite one
BIAS = 5.0


def _exponentials(logits: Array) -> tuple[Array, Array]:
    """exp(logits - largest) of ``[...,R,n]``, made in place, and their sums ``[...,1,n]``.

    One over a sum is the largest softmax. Classes come before points: reductions over them are then fast.
    """
    logits -= np.maximum.reduce(logits, -2, keepdims=True)
    np.exp(logits, out=logits)
    return logits, np.add.reduce(logits, -2, keepdims=True)


def confidence(p: Array) -> Array:
    """Mean largest probability of the points ``[...,n,R]``: ``[...]``."""
    out: Array = p.max(-1).mean(-1)
    return out


def rescale(p: Array, target: Array, prior: Array) -> Array:
    """Probabilities brought to a mean confidence and to class frequencies.

    Args:
        p: ``[...,n,R]`` probabilities.
        target: ``[...]`` mean largest probability wanted.
        prior: ``[...,R]`` mean probability of each class wanted; positive.

    Returns:
        ``[...,n,R]``: softmax(t log p + b) with t and b of each leading index; where no t in ``RANGE``
        reaches the target (answers without spread), the nearest.
    """
    shape = (*p.shape[:-2], p.shape[-1], p.shape[-2])
    logs = np.log(np.maximum(np.ascontiguousarray(p.swapaxes(-1, -2)), LEAST)).reshape(-1, *shape[-2:])
    lead, classes, count = logs.shape
    wanted, prior = target.reshape(lead, 1, 1), prior.reshape(lead, classes, 1)
    t, b = np.ones((lead, 1, 1)), np.zeros((lead, classes, 1))
    row, column = np.arange(lead)[:, None], np.arange(count)[None]
    # bare ufuncs: one view is so small that what np.mean and np.clip do besides would take as long again
    for _ in range(STEPS):
        for _ in range(2):
            bent = t * logs
            bent += b
            top = logs[row, bent.argmax(-2), column][:, None]
            e, total = _exponentials(bent)
            high = 1.0 / total
            away = top - np.add.reduce(e * logs, -2, keepdims=True) * high
            slope = t * (
                np.add.reduce(high * away, -1, keepdims=True) / count
            )  # of the mean confidence in log t
            missing = wanted - np.add.reduce(high, -1, keepdims=True) / count
            step = np.minimum(np.maximum(missing / np.maximum(slope, 1e-9), -0.7), 0.7)
            t = np.minimum(np.maximum(t * np.exp(step), RANGE[0]), RANGE[1])
        bent = t * logs
        bent += b
        e, total = _exponentials(bent)
        e /= total
        mean = np.add.reduce(e, -1, keepdims=True) / count
        # one uniform point is added on both sides: a step of few points stays short
        b = b + np.log((count * prior + 1 / classes) / (count * mean + 1 / classes))
        b -= np.add.reduce(b, -2, keepdims=True) / classes
        b = np.minimum(np.maximum(b, -BIAS), BIAS)
    bent = t * logs
    bent += b
    e, total = _exponentials(bent)
    e /= total
    return np.ascontiguousarray(e.reshape(shape).swapaxes(-1, -2))


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

    def roots(self, answers: Array, first: int) -> Array:
        """Cube roots of rescaled probabilities, as :meth:`features` takes them and of the same shape."""
        out = np.empty_like(answers)
        for part in groups(first, len(answers)):
            views, blocks, count, classes = answers[part].shape
            where = slice(first + part.start, first + part.stop)
            joined = answers[part].swapaxes(0, 1).reshape(blocks, views * count, classes)
            found = rescale(joined, self.target[where].mean(0), self.prior[where].mean(0))
            out[part] = found.reshape(blocks, views, count, classes).swapaxes(0, 1)
        return np.asarray(np.maximum(out, FLOOR / out.shape[-1]) ** (1.0 / ROOT))

    def features(self, answers: Floats, first: int = 0) -> Floats:
        """Feature rows float32 ``[k,B,n*R]`` of one model's probabilities ``[k,B,n,R]``.

        Args:
            answers: to the queries of k views. Between two edges the views are fitted together, so that
                models can be compared only if asked the same ones.
            first: number of the first of them; 0 or one of ``EDGES``.
        """
        residual = self.roots(answers.astype(np.float64), first) - self.origin[first : first + len(answers)]
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
        out: Floats = residual.reshape(*answers.shape[:2], -1).astype(np.float32)
        return out


__all__ = ["EDGES", "Scaling", "rescale"]
