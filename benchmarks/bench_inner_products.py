"""Inner products of suspects' features with a pool's 60 models, 20 views: one suspect, and a batch.

On a GPU a batch is 2,000 suspects: fewer would not fill it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common import callable_for, implementations, measure, size_of
from uapfast.ops.inner_products import reference

BATCH = {"cpu": 64, "cuda": 2_000}


def eager(rows: Tensor, pool: Tensor) -> Tensor:
    """What users write."""
    wide = rows.double()
    own = wide.square().sum(-1, keepdim=True)
    return torch.cat([torch.einsum("svf,vmf->svm", wide, pool.double()), own], -1)


@pytest.mark.benchmark(group="inner_products")
@pytest.mark.parametrize("implementation", implementations("inner_products"))
@pytest.mark.parametrize(("many", "size"), [(False, 2000), (True, 2000), (True, 6600)])
def bench_inner_products(benchmark: Any, device: str, many: bool, size: int, implementation: str) -> None:
    suspects, models = BATCH[device.split(":")[0]] if many else 1, 60
    rows, pool = torch.randn(suspects, 20, size, device=device), torch.randn(20, models, size, device=device)
    benchmark.group = f"inner_products {suspects} x {models}, 20 views of {size:,}"
    want = reference(rows, pool)

    def check(got: Tensor) -> None:
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-8)

    work = callable_for("inner_products", implementation, (rows, pool), eager)
    flops = 2 * suspects * 20 * (models + 1) * size
    measure(benchmark, work, check, nbytes=size_of(rows, pool, want), flops=flops, product="float64")
