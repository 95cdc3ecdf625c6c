"""Ops on a CUDA device against their float64 reference on the CPU: every backend that takes CUDA tensors."""

from __future__ import annotations

import math

import pytest
import torch

from uapfast import ops
from uapfast.ops._registry import OPS

pytestmark = pytest.mark.gpu

CASES = {
    "project_lp": [
        (torch.randn(r, d), 0.5, p) for r in (0, 1, 5) for d in (1, 33, 5003) for p in (1.0, 2.0, math.inf)
    ],
    "deepfool_step": [
        (torch.randn(b, k), torch.randn(b, k, d), torch.randint(0, k, (b,)), p)
        for b, k, d in ((1, 2, 1), (5, 10, 33), (3, 101, 784))
        for p in (2.0, math.inf)
    ],
    "fingerprint_rows": [(torch.randn(2, q, k) * 9, min(2, k)) for q in (0, 1, 97) for k in (1, 10, 1000)],
    "similarity_moments": [(torch.randn(5, 20, d), torch.randn(3, 20, d), "all") for d in (1, 16, 65)],
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
            torch.testing.assert_close(mine.cpu(), other, rtol=2e-6, atol=1e-6)


def test_the_automatic_choice_follows_the_device() -> None:
    x = torch.randn(3, 7)
    torch.testing.assert_close(ops.project_lp(x.cuda(), 0.5, 1).cpu(), ops.project_lp(x, 0.5, 1))


def test_the_cuda_module_sees_what_torch_sees() -> None:
    from uapfast import _native

    core = _native.cuda()
    assert core.device_count() == torch.cuda.device_count()
    assert core.device_info(0)["capability"] == torch.cuda.get_device_capability(0)
