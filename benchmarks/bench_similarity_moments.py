"""Moments of the similarities of 2,000 suspects and 50 candidates, 20 views of 64 dimensions each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common import callable_for, implementations, measure, size_of
from benchmarks.memory import peak_bytes, why_not
from uapfast.ops.similarity_moments import reference

SHAPES = {
    "cpu": [(2000, 50, 20, 64), (500, 13, 20, 32)],
    "cuda": [(10_000, 200, 20, 128), (2000, 50, 20, 64)],
}
BLOCK = {"cpu": 64, "cuda": 512}  # suspects at a time in plain torch
SETUP = """
from benchmarks.bench_similarity_moments import eager
from uapfast.ops._registry import OPS
call = OPS["similarity_moments"].call
def draw(s, r):
    return (torch.nn.functional.normalize(torch.randn(n, {v}, {d}), dim=-1) for n in (s, r))
eager(*draw(9, 3), "all")
call(*draw(9, 3), "all", "{name}")
a, b = draw({s}, {r})
"""


def eager(a: Tensor, b: Tensor, pairs: str) -> tuple[Tensor, Tensor]:
    """What users write once [S, R, V, V] no longer fits: blocks of a GEMM, then var_mean in float32."""
    s, v, d = a.shape
    means, variances = [], []
    right = b.flatten(0, 1).T
    for part in a.split(BLOCK[a.device.type]):
        similarity = (part.flatten(0, 1) @ right).unflatten(1, b.shape[:2]).unflatten(0, (len(part), v))
        variance, mean = torch.var_mean(similarity.float(), dim=(1, 3), correction=0)
        means.append(mean)
        variances.append(variance)
    return torch.cat(means), torch.cat(variances)


def _bench(benchmark: Any, device: str, case: int, implementation: str, dtype: torch.dtype) -> None:
    s, r, v, d = SHAPES[device.split(":")[0]][case]
    a, b = (torch.nn.functional.normalize(torch.randn(n, v, d, device=device), dim=-1) for n in (s, r))
    a, b, name = a.to(dtype), b.to(dtype), str(dtype).removeprefix("torch.")
    benchmark.group = f"similarity_moments S={s} R={r} V={v} d={d}" + (
        "" if name == "float32" else f" {name}"
    )
    mean, variance = reference(a[:8], b, "all")
    # plain torch rounds every similarity to the dtype of the views
    loose = 50.0 if dtype != torch.float32 and implementation in ("eager", "compile") else 1.0

    def check(got: tuple[Tensor, Tensor]) -> None:
        torch.testing.assert_close(got[0][:8], mean, rtol=1e-4 * loose, atol=1e-6 * loose)
        torch.testing.assert_close(got[1][:8], variance, rtol=1e-4 * loose, atol=1e-8 * loose)

    nbytes = size_of(a, b) + 8 * s * r
    work = callable_for("similarity_moments", implementation, (a, b, "all"), eager)
    measure(benchmark, work, check, nbytes=nbytes, flops=2 * s * r * v * v * d, product=name)
    peak_of(benchmark, device, implementation, (s, r, v, d), work)


def peak_of(
    benchmark: Any,
    device: str,
    implementation: str,
    shape: tuple[int, int, int, int],
    work: Callable[[], Any],
) -> None:
    """Bytes that the call holds at its peak, results included."""
    if not benchmark.enabled:
        return
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        peak = torch.cuda.max_memory_allocated() - before
    elif implementation != "compile" and why_not() is None:
        name = "" if implementation == "eager" else implementation
        call = 'eager(a, b, "all")' if implementation == "eager" else f'call(a, b, "all", "{name}")'
        s, r, v, d = shape
        peak = peak_bytes(SETUP.format(s=s, r=r, v=v, d=d, name=name), call, torch.get_num_threads())
    else:
        return
    benchmark.extra_info["peak_MB"] = round(peak / 1e6, 2)


@pytest.mark.benchmark(group="similarity_moments")
@pytest.mark.parametrize("implementation", implementations("similarity_moments"))
@pytest.mark.parametrize("case", [0, 1], ids=["large", "small"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def bench_similarity_moments(benchmark: Any, device: str, dtype: str, case: int, implementation: str) -> None:
    if dtype == "bfloat16" and device == "cpu":
        pytest.skip("half precision is timed on a GPU alone")
    _bench(benchmark, device, case, implementation, getattr(torch, dtype))
