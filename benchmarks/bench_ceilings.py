"""What the machine can do at all, measured in the same run: every share of a limit refers to these."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.common import measure

SIZES = [8, 32, 256, 4096]  # MB; of a CPU 8 fit into a large cache, 256 into none


def _skip_large(device: str, megabytes: int) -> None:
    if megabytes in (32, 4096) and not device.startswith("cuda"):
        pytest.skip("for a GPU")


@pytest.mark.benchmark(group="ceilings")
@pytest.mark.parametrize("megabytes", SIZES)
def bench_copy(benchmark: Any, device: str, megabytes: int) -> None:
    """Bytes read plus bytes written."""
    _skip_large(device, megabytes)
    source = torch.randn(megabytes << 18, device=device)
    target = torch.empty_like(source)

    def check(_: Any) -> None:
        assert torch.equal(source, target)

    measure(benchmark, lambda: target.copy_(source), check, nbytes=2 * source.numel() * 4)


@pytest.mark.benchmark(group="ceilings")
@pytest.mark.parametrize("megabytes", SIZES)
def bench_sum(benchmark: Any, device: str, megabytes: int) -> None:
    """Reading alone: what a kernel that writes little is held against."""
    _skip_large(device, megabytes)
    source = torch.randn(megabytes << 18, device=device)

    def check(got: Any) -> None:
        assert abs(float(got) - float(source.double().sum())) < 50

    measure(benchmark, lambda: source.sum(), check, nbytes=source.numel() * 4)


@pytest.mark.benchmark(group="ceilings")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def bench_gemm(benchmark: Any, device: str, dtype: str) -> None:
    n = 8192 if device.startswith("cuda") else 768
    a, b = (torch.randn(n, n, device=device, dtype=getattr(torch, dtype)) for _ in range(2))

    def check(got: torch.Tensor) -> None:
        want = a[:4].double() @ b.double()
        assert float((got[:4].double() - want).norm() / want.norm()) < 1e-2

    measure(benchmark, lambda: a @ b, check, nbytes=3 * n * n * a.element_size(), flops=2 * n**3)
