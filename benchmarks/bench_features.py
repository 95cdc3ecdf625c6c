"""Answers to features: one suspect's 4,000 rows, one view's 200, a batch's, and 1,000 classes cut to 33.

On a GPU a batch is 2,000 suspects: fewer would not fill it. Not compiled: the passes are unrolled, and one
view's 18 took a compiler more than five minutes of a busy machine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common import callable_for, implementations, measure, size_of
from uapfast.ops.features import BIAS, FLAT, LARGEST_STEP, LEAST, RANGE, STEPS, reference

GROUPS = [1, 1, 3, 5, 10]
SHAPES = {
    "cpu": [(1, GROUPS, 200, 10), (1, [1], 200, 10), (64, GROUPS, 200, 10), (1, GROUPS, 200, 33)],
    "cuda": [(1, GROUPS, 200, 10), (1, [1], 200, 10), (2_000, GROUPS, 200, 10), (500, GROUPS, 200, 33)],
}


def eager(
    answers: Tensor, target: Tensor, prior: Tensor, origin: Tensor, groups: list[int], *how: float
) -> Tensor:
    """What users write: the steps of the reference, in float32."""
    floor, root, clip = how
    parts = torch.split(answers, groups, 1)
    return torch.cat([
        _part(p, target[g].float(), prior[g].float(), o, floor, root, clip)
        for g, (p, o) in enumerate(zip(parts, torch.split(origin, groups), strict=True))
    ], 1)  # fmt: skip


def _part(
    p: Tensor, target: Tensor, prior: Tensor, origin: Tensor, floor: float, root: float, clip: float
) -> Tensor:
    shape = p.shape
    logs = p.reshape(shape[0], -1, shape[-1]).clamp(min=LEAST).log()
    rows, classes = logs.shape[1:]
    t, b = torch.ones_like(logs[:, :1, :1]), torch.zeros_like(logs[:, :1])
    for _ in range(STEPS):
        for _ in range(2):
            bent = t * logs + b
            found = bent.softmax(-1)
            high, top = found.max(-1, keepdim=True)
            away = logs.gather(-1, top) - (found * logs).sum(-1, keepdim=True)
            slope = (t * (high * away).mean(1, keepdim=True)).clamp(min=FLAT)
            step = ((target - high.mean(1, keepdim=True)) / slope).clamp(-LARGEST_STEP, LARGEST_STEP)
            t = (t * step.exp()).clamp(*RANGE)
        mass = (t * logs + b).softmax(-1).sum(1, keepdim=True)
        b = b + ((rows * prior + 1 / classes) / (mass + 1 / classes)).log()
        b = (b - b.mean(-1, keepdim=True)).clamp(-BIAS, BIAS)
    found = (t * logs + b).softmax(-1).view(shape)
    residual = found.clamp(min=floor) ** (1 / root) - origin
    return residual / (residual.square().sum(-1, keepdim=True) + clip**2).sqrt()


@pytest.mark.benchmark(group="features")
@pytest.mark.parametrize("implementation", [i for i in implementations("features") if i != "compile"])
@pytest.mark.parametrize("case", range(4), ids=["suspect", "view", "batch", "33"])
def bench_features(benchmark: Any, device: str, case: int, implementation: str) -> None:
    models, groups, points, classes = SHAPES[device.split(":")[0]][case]
    p = (3 * torch.randn(models, sum(groups), 1, points, classes, device=device)).softmax(-1)
    target = torch.full((len(groups), 1), 0.8, device=device).double()
    prior = torch.full((len(groups), 1, classes), 1 / classes, device=device).double()
    args = (p, target, prior, torch.rand(p.shape[1:]).to(device), groups, 1e-3 / classes, 3.0, 0.4)
    benchmark.group = f"features [{models}, {sum(groups)}, 1, {points}, {classes}]"
    want = reference(*args)

    def check(got: Tensor) -> None:
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)

    work = callable_for("features", implementation, args, eager)
    measure(benchmark, work, check, nbytes=2 * size_of(p))
