"""Every configuration of a Triton kernel gives the same bits: a choice by time must not change a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from uapfast.ops import _triton
from uapfast.ops._registry import OPS

pytestmark = [
    pytest.mark.needs("triton"),
    pytest.mark.skipif(not _triton.INTERPRETED, reason="for test_triton_interpreter"),
]  # fmt: skip


def queries(last: bool, assigned: bool) -> tuple[Any, ...]:
    images = torch.randint(0, 256, (9, 3, 37, 31), dtype=torch.uint8)
    assign = torch.randint(0, 2, (9,)) if assigned else None
    return (
        images,
        torch.randn(2, 3, 37, 31) * 0.1,
        assign,
        0.7,
        [0.5] * 3,
        [0.2] * 3,
        torch.float32,
        last,
        True,
    )


def answers(classes: int, clip: float) -> tuple[Any, ...]:
    p = (3 * torch.randn(2, 3, 1, 21, classes)).softmax(-1)
    fit = torch.full((2, 1), 0.7).double(), torch.full((2, 1, classes), 1 / classes).double()
    return p, *fit, torch.rand(3, 1, 21, classes), [1, 2], 1e-4, 3.0, clip


CASES: dict[str, tuple[str, Callable[[], tuple[Any, ...]]]] = {
    "queries, pairs": ("build_queries", lambda: queries(False, True)),
    "queries, all, channels last": ("build_queries", lambda: queries(True, False)),
    "features of 10": ("features", lambda: answers(10, 0.4)),
    "features of 33, not clipped": ("features", lambda: answers(33, math.inf)),
    "features of 100": ("features", lambda: answers(100, 0.4)),
    "products": ("inner_products", lambda: (torch.randn(70, 2, 50), torch.randn(2, 35, 50))),
    "products, strides": ("inner_products", lambda: (torch.randn(5, 2, 50)[..., ::2], torch.randn(2, 9, 25))),
}


def each_config(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make the launches that follow use configuration 0, 1, ...; those that have fewer use their last."""
    tuned = _triton.kernels("_launch").Tuned
    for index in range(4):

        def launch(self: Any, key: Any, grid: Any, *args: Any, index: int = index, **meta: Any) -> None:
            self.launch(self.configs[min(index, len(self.configs) - 1)], grid, args, meta)

        monkeypatch.setattr(tuned, "__call__", launch)
        yield index


def in_double(a: Any, b: Any, *, dtype: Any, matmul: Any = np.matmul) -> Any:
    """What the interpreter multiplies with. BLAS rounds by the shape of a block on some CPUs."""
    return matmul(a.astype(np.float64), b.astype(np.float64)).astype(dtype)


@pytest.mark.parametrize("case", CASES)
def test_triton_configs_agree_and_are_right(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, make = CASES[case]
    args = make()
    monkeypatch.setattr(np, "matmul", in_double)
    results = []
    for _ in each_config(monkeypatch):
        got = OPS[op].call(*args, "triton")
        results.append(got if isinstance(got, tuple) else (got,))
    want = OPS[op].call(*args, "reference")
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
    for mine, exact in zip(results[0], want if isinstance(want, tuple) else (want,), strict=True):
        torch.testing.assert_close(mine, exact, rtol=2e-6, atol=2e-6)


def test_a_configuration_too_large_for_the_device_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton
    from triton.runtime.errors import OutOfResources

    tuned = _triton.kernels("_launch").Tuned(None, [triton.Config({"BLOCK": n}) for n in (4, 2, 1)])

    def launch(config: Any, *_: Any) -> None:
        if config.kwargs["BLOCK"] == 4:
            raise OutOfResources(200_000, 100_000, "shared memory")

    def timed(work: Callable[[], None], **_: Any) -> float:
        work()
        return 1.0

    monkeypatch.setattr(tuned, "launch", launch)
    monkeypatch.setattr(triton.testing, "do_bench", timed)
    assert tuned._fastest(None, (), {}).kwargs == {"BLOCK": 2}
