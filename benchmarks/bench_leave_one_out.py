"""Leave-one-out scores before a reference of 60 models: one suspect, and a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common import callable_for, measure, size_of
from benchmarks.score_world import Size, World
from uapfast.method.lineage import LineageScorer
from uapfast.method.whitening import ROUNDING, SHRINK
from uapfast.ops._registry import OPS


@pytest.mark.benchmark(group="leave_one_out")
@pytest.mark.parametrize("implementation", [b.name for b in OPS["leave_one_out"].backends])
@pytest.mark.parametrize("suspects", [1, 32])
def bench_leave_one_out(benchmark: Any, device: str, suspects: int, implementation: str) -> None:
    world = World(Size(points=20))
    statistic, size = world.reference.statistic, world.size
    answers = torch.stack([x.softmax(-1) for x in world.suspects(suspects)])
    answers = answers.view(-1, size.views, 1, size.points, size.classes).to(device)
    scorer = statistic.scorer(place=device)
    assert isinstance(scorer, LineageScorer)
    products = scorer._products(statistic.features(answers, False))
    args = (products, list(scorer.rounds(size.views)._tables), True, False, SHRINK, ROUNDING)
    benchmark.group = f"leave_one_out {suspects} before {size.models} models, {size.views} views"
    want = OPS["leave_one_out"].call(*args, "reference")

    def check(got: Tensor) -> None:
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)

    work = callable_for("leave_one_out", implementation, args, OPS["leave_one_out"].call)
    measure(benchmark, work, check, nbytes=size_of(products, want))
