"""A reference and suspects of made-up answers, of any size, for what scoring costs: no network is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from uapfast.method.fingerprint import QueryPlan, kept_classes, reduce_classes
from uapfast.reference import Record, Reference

NUISANCE = 3  # directions in which architectures differ


@dataclass(frozen=True)
class Size:
    """Of a reference: 10 candidates, 30 innocents and 20 surrogates, 4,000 queries of 10 classes."""

    candidates: int = 10
    innocents: int = 30
    kinds: int = 2
    views: int = 20
    points: int = 200
    classes: int = 10

    @property
    def models(self) -> int:
        return self.candidates * (1 + self.kinds) + self.innocents


class World:
    """Logits: the task, some directions that innocent models differ in, and what is a model's own."""

    def __init__(self, size: Size, seed: int = 0) -> None:
        self.size, self._generator = size, torch.Generator().manual_seed(seed)
        shape = (size.views, 1, size.points, size.classes)
        right = torch.randint(size.classes, (*shape[:-1], 1), generator=self._generator)
        sure = 4.0 + math.log(size.classes / 10)
        self._task = self._noise(*shape) + sure * torch.nn.functional.one_hot(right, size.classes)[..., 0, :]
        self._ways = self._noise(NUISANCE, *shape)
        candidates = [self._task + 0.5 * self._noise(*shape) for _ in range(size.candidates)]
        self.victim = candidates[0]
        innocents = [self.innocent() for _ in range(size.innocents)]
        surrogates = [self.copy(c, 0.7) for _ in range(size.kinds) for c in candidates]
        self.reference = self._reference(torch.stack([*candidates, *innocents, *surrogates]).softmax(-1))

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.float32)

    def innocent(self) -> Tensor:
        """Logits ``[V,1,n,K]`` of one more honest model."""
        way = torch.tensordot(0.5 * self._noise(NUISANCE), self._ways, 1)
        sure = 0.7 + 0.6 * float(torch.rand((), generator=self._generator))
        return sure * (self._task + way + 0.7 * self._noise(*self._task.shape))

    def copy(self, model: Tensor, keep: float) -> Tensor:
        """Logits of a model that keeps a share of what is particular to another."""
        return self.innocent() + keep * (model - self._task)

    def suspects(self, count: int, every: int = 20) -> Iterator[Tensor]:
        """Logits ``[Q,K]`` as a network gives them; some of copies of the victim."""
        for i in range(count):
            found = self.innocent() if i % every else self.copy(self.victim, 0.6)
            yield found.reshape(-1, self.size.classes)

    def _records(self) -> Iterator[Record]:
        for c in range(self.size.candidates):
            yield Record(f"candidate-{c}", "twin" if c else "victim", None, "", None)
        for i in range(self.size.innocents):
            yield Record(f"innocent-{i}", "homologous", None, "", None)
        for k in range(self.size.kinds):
            for c in range(self.size.candidates):
                yield Record(f"kind-{k}-{c}", "piracy", f"candidate-{c}", f"kind-{k}", None)

    def _reference(self, answers: Tensor) -> Reference:
        size, first = self.size, self.size.candidates + self.size.innocents
        keep = kept_classes(torch.cat([answers[: size.candidates], answers[first:]]))
        queries = size.views * size.points
        assign = torch.zeros(1, queries, dtype=torch.int64)
        plan = QueryPlan(torch.zeros(queries, 1, 1, 1), torch.empty(0, 1, 1, 1), assign, (0.0,), size.views)
        shown = reduce_classes(answers, keep)
        records = tuple(self._records())
        return Reference(
            plan, records, shown, shown.argmax(-1), keep, size.classes, "lineage", {}, {"scale": [0.0]}
        )
