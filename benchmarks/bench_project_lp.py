"""Projection of a batch onto an Lp ball: [8, 150528] is eight perturbations of 224 px, RGB."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common import callable_for, implementations, measure
from uapfast.ops.project_lp import reference

SHAPES = {"cpu": [(8, 150_528), (64, 3_072)], "cuda": [(64, 150_528), (256, 3_072)]}


def eager(x: Tensor, eps: float, p: float) -> Tensor:
    """What users write: by sorting for L1 (Duchi et al.), rescaling for L2, clamp for Linf."""
    if math.isinf(p):
        return x.clamp(-eps, eps)
    if p == 2:
        norm = x.norm(dim=1, keepdim=True)
        return x * (eps / norm.clamp(min=eps))
    ordered = x.abs().sort(dim=1, descending=True).values
    count = torch.arange(1, x.shape[1] + 1, device=x.device)
    candidates = (ordered.cumsum(1) - eps) / count
    last = (ordered > candidates).sum(1, keepdim=True).clamp(min=1) - 1
    theta = candidates.gather(1, last).clamp(min=0)
    return x.sign() * (x.abs() - theta).clamp(min=0)


@pytest.mark.benchmark(group="project_lp")
@pytest.mark.parametrize("implementation", implementations("project_lp"))
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf], ids=["l1", "l2", "linf"])
@pytest.mark.parametrize("case", [0, 1], ids=["large", "small"])
def bench_project_lp(benchmark: Any, device: str, case: int, p: float, implementation: str) -> None:
    rows, cols = SHAPES[device.split(":")[0]][case]
    x = torch.randn(rows, cols, device=device) * 0.1
    eps = {1.0: 50.0, 2.0: 2.0, math.inf: 8 / 255}[p]
    benchmark.group = f"project_lp {['l1', 'l2', 'linf'][[1.0, 2.0, math.inf].index(p)]} [{rows}, {cols}]"
    want = reference(x.double(), eps, p)

    def check(got: Tensor) -> None:
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-5)

    work = callable_for("project_lp", implementation, (x, eps, p), eager)
    measure(benchmark, work, check, nbytes=2 * x.numel() * 4)
