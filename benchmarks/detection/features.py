"""What becomes of answers before they are compared: the default and what it is made of, for the ablation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.detection.plan import Item
from uapfast.method.decision import Assessment
from uapfast.method.fingerprint import reduce_classes
from uapfast.method.lineage import LineageScorer
from uapfast.method.scaling import CLIP, ROOT, Scaling
from uapfast.reference import Reference

Floats = NDArray[np.float32]
Way = Callable[[Floats], Floats]  # probabilities [V,B,n,R] to feature rows [V,B,n*R]
Judge = Callable[[Item, Tensor], "Assessment | None"]  # of a suspect and its answers [V,B,n,K]


def ways(reference: Reference) -> dict[str, Way]:
    """Features by name, each a function of one model's answers."""
    candidates = reference.answers[[r.relation in ("victim", "twin") for r in reference.records]].numpy()
    scaling = Scaling.of(candidates)
    plain = np.mean([_roots(one) for one in candidates], axis=0)

    def scaled(answers: Floats) -> Floats:
        return _rows(scaling.roots(answers).numpy())

    def clipped(answers: Floats) -> Floats:
        return _clipped(_roots(answers) - plain)

    def square_roots(answers: Floats) -> Floats:
        return _clipped(_squares(scaling, answers) - by_squares)

    by_squares = np.mean([_squares(scaling, one) for one in candidates], axis=0)
    return {
        "cube roots": lambda answers: _rows(_roots(answers)),
        "clipped": clipped,
        "scaled": scaled,
        "scaled and clipped": lambda answers: scaling.features(answers).numpy(),
        "the same of square roots": square_roots,
    }


def _roots(answers: Floats) -> NDArray[np.float64]:
    out: NDArray[np.float64] = answers.astype(np.float64) ** (1.0 / ROOT)
    return out


def _squares(scaling: Scaling, answers: Floats) -> NDArray[np.float64]:
    """Square roots of scaled probabilities."""
    out: NDArray[np.float64] = scaling.roots(answers).double().numpy() ** (ROOT / 2)
    return out


def _clipped(residual: NDArray[np.float64]) -> Floats:
    return _rows(residual / np.sqrt(np.square(residual).sum(-1, keepdims=True) + CLIP**2))


def _rows(values: NDArray[np.floating]) -> Floats:
    out: Floats = values.reshape(*values.shape[:2], -1).astype(np.float32)
    return out


def judges(reference: Reference) -> dict[str, Judge]:
    """The lineage score on features of each way."""
    pool, out = reference.answers.numpy(), {}
    for name, way in ways(reference).items():
        scorer = LineageScorer(np.stack([way(one) for one in pool]), reference.roster())
        out[name] = partial(_judge, scorer, way, reference.keep)
    return out


def _judge(scorer: LineageScorer, way: Way, keep: Tensor | None, item: Item, answers: Tensor) -> Assessment:
    return scorer.assess(way(reduce_classes(answers, keep).numpy()))
