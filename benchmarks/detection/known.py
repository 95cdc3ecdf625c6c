"""Answers of a whole zoo to all images that anybody may ask: references are then a choice of rows.

A reference of clean points is a choice of images and of models; whoever compares many such references asks
every model once. ``uapfast.generate`` makes the same reference from the same choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.detection.judge import LEVELS, make_reference
from benchmarks.detection.make import Place
from uapfast.config import GenerateConfig
from uapfast.method.decision import Outcome, decide
from uapfast.method.fingerprint import QueryPlan
from uapfast.method.lineage import LineageScorer
from uapfast.method.standing import assessment
from uapfast.models.checkpoint import load_model
from uapfast.models.forms import Form
from uapfast.pool.manifest import load_pool
from uapfast.pool.train import predict
from uapfast.reference import Reference
from uapfast.verbs.entries import RecordedModel, ordered
from uapfast.verbs.points import select_points

Index = NDArray[np.int64]
CLEAN = {"ray": (0.0,)}


def asked(module: nn.Module | None, x: Tensor) -> Tensor:
    """Probabilities ``[N,K]`` of a module."""
    assert module is not None
    return predict(module, x)


@dataclass(frozen=True)
class Known:
    """One victim's pool and what it answers to all images.

    Attributes:
        base: the product's reference of clean points without a log: its records say who counts.
        entries: the pool in the reference's order.
        images: float32 ``[N,C,H,W]``.
        answers: float32 ``[M,N,K]`` of the pool.
        parts: rows of the images by the name of their set.
    """

    base: Reference
    entries: list[RecordedModel]
    images: Tensor
    answers: Tensor
    parts: dict[str, Index]

    @classmethod
    def of(cls, place: Place, arch: str, sets: dict[str, Tensor]) -> Known:
        """Ask a victim's pool all images of ``sets``."""
        victim = load_model(place.size.spec(arch), place.victim_path(arch), name="victim")
        pool = load_pool(place.out / arch / "pool" / "manifest.csv")
        base = make_reference(place, arch, CLEAN, "ours, clean answers only")
        entries = ordered(victim, pool)
        images = torch.cat(list(sets.values()))
        ends = np.cumsum([0, *map(len, sets.values())])
        parts = {name: np.arange(a, b) for name, a, b in zip(sets, ends, ends[1:], strict=False)}
        answers = torch.stack([asked(model.module, images) for _, model in entries])
        return cls(base, entries, images, answers, parts)

    @property
    def config(self) -> GenerateConfig:
        """As the reference was made."""
        given: dict[str, Any] = dict(self.base.settings["config"])
        return GenerateConfig(**(given | {"ray": tuple(given["ray"])}))

    def select(self, rows: Index, views: int) -> Index:
        """Images ``[views,n]`` out of ``rows``, as the product selects them."""
        chosen = self.answers[: 1 + self._count("twin") + self._count("homologous")][:, rows]
        return np.asarray(rows[select_points(chosen, self.entries, replace(self.config, views=views))])

    def _count(self, relation: str) -> int:
        return sum(record.relation == relation for record, _ in self.entries)

    def reference(self, rows: Index, logged: int = 0) -> Reference:
        """The reference of points ``rows`` ``[V,n]``, the first ``logged`` views out of a query log."""
        flat = rows.reshape(-1)
        shown = self.answers[:, flat].reshape(len(self.answers), len(rows), 1, rows.shape[1], -1)
        empty = torch.empty(0, *self.images.shape[1:])
        plan = QueryPlan(
            self.images[flat], empty, torch.zeros(1, len(flat), dtype=torch.int64), (0.0,), len(rows)
        )
        settings = {"log": {"views": logged}}
        return Reference(
            plan, self.base.records, shown, shown.argmax(-1), None, self.base.classes, "lineage", {}, settings
        )


@dataclass(frozen=True)
class Judge:
    """A reference, and where its points lie among all images."""

    reference: Reference
    rows: Index

    def features(self, answers: Tensor, labels: bool = False) -> NDArray[np.float32]:
        """Of one suspect that answered ``[N,K]`` to all images."""
        shown = answers[self.rows.reshape(-1)].reshape(len(self.rows), 1, self.rows.shape[1], -1)
        if labels:
            shown = torch.nn.functional.one_hot(shown.argmax(-1), shown.shape[-1]).to(torch.float32)
        return self.reference.statistic.features(shown, labels)

    def scores(self, answers: Tensor, labels: bool = False) -> tuple[NDArray[np.float64], ...]:
        """Of that suspect, and the innocents'."""
        scorer = self.reference.statistic.scorer(Form(labels=labels))
        assert isinstance(scorer, LineageScorer)
        return scorer.scores(self.features(answers, labels))

    def outcomes(self, answers: Tensor, places: Iterable[int] = (0,), labels: bool = False) -> list[Outcome]:
        """What is decided with candidates in the victim's place."""
        own, rest = self.scores(answers, labels)
        return [decide(assessment(own, rest, place=c), LEVELS[2]) for c in places]


def p_of(outcome: Outcome) -> float:
    """A conviction needs the first rank, whatever p is."""
    return outcome.p if outcome.rank == 1 else 1.0
