"""Answers brought to one confidence and class balance: one suspect's 4,000 rows, and one view's 200."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common import callable_for, implementations, measure, size_of
from uapfast.ops.rescale import BIAS, FLAT, LARGEST_STEP, LEAST, RANGE, STEPS, reference

SHAPES = [(1, 4000, 10), (1, 200, 10), (1, 2000, 100)]


def eager(probabilities: Tensor, target: Tensor, prior: Tensor) -> Tensor:
    """What users write: the steps of the reference, in float32."""
    logs = probabilities.clamp(min=LEAST).log()
    rows, classes = logs.shape[1:]
    wanted, prior = target.float()[:, None, None], prior.float()[:, None]
    t, b = torch.ones_like(wanted), torch.zeros_like(prior)
    for _ in range(STEPS):
        for _ in range(2):
            bent = t * logs + b
            found = bent.softmax(-1)
            high, top = found.max(-1, keepdim=True)
            away = logs.gather(-1, top) - (found * logs).sum(-1, keepdim=True)
            slope = (t * (high * away).mean(1, keepdim=True)).clamp(min=FLAT)
            step = ((wanted - high.mean(1, keepdim=True)) / slope).clamp(-LARGEST_STEP, LARGEST_STEP)
            t = (t * step.exp()).clamp(*RANGE)
        mass = (t * logs + b).softmax(-1).sum(1, keepdim=True)
        b = b + ((rows * prior + 1 / classes) / (mass + 1 / classes)).log()
        b = (b - b.mean(-1, keepdim=True)).clamp(-BIAS, BIAS)
    return (t * logs + b).softmax(-1)


@pytest.mark.benchmark(group="rescale")
@pytest.mark.parametrize("implementation", implementations("rescale"))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_rescale(benchmark: Any, device: str, shape: tuple[int, int, int], implementation: str) -> None:
    if device.startswith("cuda"):
        pytest.skip("no kernel of its own on a device: a suspect's answers are on the CPU by then")
    p = (3 * torch.randn(shape)).softmax(-1)
    target = torch.full((1,), 0.8).double()
    prior = torch.full((1, shape[-1]), 1 / shape[-1]).double()
    benchmark.group = f"rescale {list(shape)}"
    want = reference(p, target, prior)

    def check(got: Tensor) -> None:
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)

    work = callable_for("rescale", implementation, (p, target, prior), eager)
    measure(benchmark, work, check, nbytes=2 * size_of(p))
