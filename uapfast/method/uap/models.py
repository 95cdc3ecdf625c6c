"""Several models asked in one call, so that what is done around them is done once for all."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from uapfast.method.uap.common import Query

# Images above this are worked on model by model: the gradients of many models together take memory and win
# nothing where the networks themselves take the time (docs/kernels.md).
GROUP_ELEMENTS = 4096
GROUP = 16  # models in one call at most


class Models:
    """Frozen models of as many classes, asked together: sample i is put to model ``owner[i]``.

    Each is called as it is. Stacked weights (``torch.func``) were measured and lost: docs/kernels.md.
    """

    def __init__(self, queries: Sequence[Query]) -> None:
        self.queries, self.counter = list(queries), queries[0].counter

    def logits(self, points: Tensor, owner: Tensor) -> Tensor:
        """``[B,K]`` logits at clamp(``points``), in their order; ``owner`` int64 ``[B]`` ascending."""
        if len(self.queries) == 1:
            return self.queries[0].logits(points)
        counts = torch.bincount(owner, minlength=len(self.queries)).tolist()
        parts = zip(self.queries, torch.split(points, counts), strict=True)
        return torch.cat([query.logits(part) for query, part in parts if len(part)])


def model_groups(kinds: Sequence[Hashable], elements: int) -> list[list[int]]:
    """Places of the models that are asked together: those of one kind, for images of ``elements`` numbers."""
    if elements > GROUP_ELEMENTS:
        return [[i] for i in range(len(kinds))]
    alike: dict[Hashable, list[int]] = {}
    for i, kind in enumerate(kinds):
        alike.setdefault(kind, []).append(i)
    return [places[k : k + GROUP] for places in alike.values() for k in range(0, len(places), GROUP)]
