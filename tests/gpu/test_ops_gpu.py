"""Ops on a CUDA device against their float64 reference on the CPU: every backend that takes CUDA tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from uapfast import ops
from uapfast.ops._registry import OPS

pytestmark = pytest.mark.gpu


def features_case(models: int, classes: int, points: int = 40) -> tuple[Any, ...]:
    """Arguments of ``features``."""
    p = (3 * torch.randn(models, 3, 1, points, classes)).softmax(-1)
    fit = torch.full((2, 1), 0.7).double(), torch.full((2, 1, classes), 1 / classes).double()
    return p, *fit, torch.rand(3, 1, points, classes), [1, 2], 1e-4, 3.0, 0.4


CASES = {
    "project_lp": [
        (torch.randn(r, d), 0.5, p) for r in (0, 1, 5) for d in (1, 33, 5003) for p in (1.0, 2.0, math.inf)
    ],
    "deepfool_step": [
        (torch.randn(b, k), torch.randn(b, k, d), torch.randint(0, k, (b,)), p)
        for b, k, d in ((1, 2, 1), (5, 10, 33), (3, 101, 784))
        for p in (2.0, math.inf)
    ],
    "features": [features_case(m, k) for m in (0, 1, 5) for k in (1, 10, 33)],
    "inner_products": [
        (torch.randn(s, 3, d), torch.randn(3, 7, d)) for s in (0, 1, 40) for d in (1, 33, 2000)
    ],
    "build_queries": [
        (
            torch.rand(3, 3, 7, 5),
            torch.randn(2, 3, 7, 5),
            None,
            0.5,
            [0.1] * 3,
            [0.3] * 3,
            torch.float32,
            last,
            True,
        )
        for last in (False, True)
    ],
}


def backends() -> list[tuple[str, str]]:
    return [(name, b.name) for name in CASES for b in OPS[name].backends]


@pytest.mark.parametrize(("name", "backend"), backends())
def test_matches_the_reference_on_the_cpu(name: str, backend: str) -> None:
    found = next(b for b in OPS[name].backends if b.name == backend)
    for case in CASES[name]:
        device = [x.cuda() if isinstance(x, torch.Tensor) else x for x in case]
        reason = found.why_off() or found.refuses(*device)
        if reason:
            pytest.skip(f"{backend}: {reason}")
        got = OPS[name].call(*device, backend)
        want = OPS[name].call(*case, "reference")
        flat = (got, want) if isinstance(got, tuple) else ((got,), (want,))
        for mine, other in zip(*flat, strict=True):
            assert mine.is_cuda
            torch.testing.assert_close(mine.cpu(), other, rtol=2e-6, atol=2e-6)


def test_the_automatic_choice_follows_the_device() -> None:
    x = torch.randn(3, 7)
    torch.testing.assert_close(ops.project_lp(x.cuda(), 0.5, 1).cpu(), ops.project_lp(x, 0.5, 1))


def test_the_cuda_module_sees_what_torch_sees() -> None:
    from uapfast import _native

    core = _native.cuda()
    assert core.device_count() == torch.cuda.device_count()
    assert core.device_info(0)["capability"] == torch.cuda.get_device_capability(0)


def test_scores_on_a_device_are_those_on_the_host() -> None:
    """The whole of scoring: features, inner products, leave-one-out, where the answers are."""
    from benchmarks.score_world import Size, World

    world = World(Size(candidates=5, innocents=12, kinds=1, points=40))
    statistic = world.reference.statistic
    answers = torch.stack([x.softmax(-1) for x in world.suspects(6, 3)]).view(6, 20, 1, 40, 10)
    found = [
        statistic.scorer(place=place).scores(statistic.features(answers.to(place), False))
        for place in ("cpu", "cuda")
    ]
    for host, device in zip(*found, strict=True):
        assert abs(host - device).max() < 1e-5
