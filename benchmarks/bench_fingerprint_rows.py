"""Features of every row of logits: 64 models by 4,000 queries of 10 classes, and rows of 1,000."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common import callable_for, implementations, measure, size_of
from uapfast.ops.fingerprint_rows import reference

SHAPES = {"cpu": [(64, 4000, 10), (4, 500, 1000)], "cuda": [(1024, 4000, 10), (64, 4000, 1000)]}


def eager(logits: Tensor, top_k: int) -> tuple[Tensor, ...]:
    """What users write: log_softmax, argmax, topk, gather."""
    log_probs = logits.log_softmax(-1)
    two = logits.topk(2, dim=-1).values
    top = log_probs.topk(top_k, dim=-1)
    return log_probs, logits.argmax(-1), two[..., 0] - two[..., 1], top.values, top.indices


@pytest.mark.benchmark(group="fingerprint_rows")
@pytest.mark.parametrize("implementation", implementations("fingerprint_rows"))
@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("case", [0, 1], ids=["10", "1000"])
def bench_fingerprint_rows(benchmark: Any, device: str, case: int, top_k: int, implementation: str) -> None:
    shape = SHAPES[device.split(":")[0]][case]
    logits = torch.randn(shape, device=device) * 5
    benchmark.group = f"fingerprint_rows {list(shape)} top {top_k}"
    want = reference(logits[:1], top_k)

    def check(got: tuple[Tensor, ...]) -> None:
        for mine, exact in zip(got, want, strict=True):
            torch.testing.assert_close(mine[:1], exact, rtol=1e-5, atol=1e-5)

    work = callable_for("fingerprint_rows", implementation, (logits, top_k), eager)
    outputs = size_of(*(w for w in want)) * shape[0]
    measure(benchmark, work, check, nbytes=size_of(logits) + outputs)
