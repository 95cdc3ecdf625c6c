from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.library import opcheck

from uapfast import _native, ops
from uapfast.errors import InputError, NativeUnavailable
from uapfast.method.rounds import Rounds
from uapfast.ops._registry import OPS


def cases() -> dict[str, tuple[Any, ...]]:
    """Arguments of every registered op, without ``backend``."""
    images, uaps, assign = torch.rand(3, 2, 4, 5), torch.randn(2, 2, 4, 5), torch.tensor([0, 1, 1])
    options = (0.5, [0.1, 0.2], [0.3, 0.4], torch.float32, True, True)
    return {
        "project_lp": (torch.randn(3, 17), 0.5, 1.0),
        "deepfool_step": (torch.randn(3, 4), torch.randn(3, 4, 17), torch.tensor([0, 3, 1]), 2.0),
        "build_queries": (images, uaps, assign, *options),
        "build_queries_out": (
            images,
            uaps,
            None,
            *options,
            torch.empty(3, 3, 4, 5, 2).permute(0, 1, 4, 2, 3),
        ),
        "features": (torch.rand(2, 3, 1, 5, 4), *FIT, torch.rand(3, 1, 5, 4), [1, 2], 1e-3, 3.0, 0.4),
        "inner_products": (torch.randn(3, 2, 9), torch.randn(2, 5, 9)),
        "leave_one_out": (torch.rand(2, 3, 7).double(), list(pool_tables()), True, False, 0.01, 1e-10),
    }


FIT = torch.full((2, 1), 0.6).double(), torch.full((2, 1, 4), 0.25).double()


def pool_tables() -> ops.Tables:
    """Of 6 models, 4 of them innocents, in 3 views."""
    views = torch.randn(3, 6, 20).double()
    gram = views @ views.mT
    origin = np.array([0.5, 0.5, 0, 0, 0, 0, 0])
    parts = [(1.0, np.eye(7)[:2] - origin)]
    return Rounds(gram, np.arange(2, 6), origin, parts, freed=True)._tables


def test_every_op_has_a_case_and_ends_with_its_reference() -> None:
    assert set(OPS) == set(cases())
    assert all(op.backends[-1].name == "reference" and op.backends[-1].automatic for op in OPS.values())


@pytest.mark.parametrize("name", sorted(OPS))
def test_opcheck(name: str) -> None:
    for backend in OPS[name].backends:
        if backend.why_off() is None and backend.refuses(*cases()[name]) is None:
            opcheck(OPS[name].call, (*cases()[name], backend.name))


PUBLIC: dict[str, Callable[[], Any]] = {
    "project_lp": lambda: ops.project_lp(X * 2, 0.5, math.inf),
    "deepfool_step": lambda: ops.deepfool_step(X[:, :4] + 1, X.view(3, 4, 5), torch.tensor([0, 3, 1])),
    "build_queries": lambda: ops.build_queries(
        X.view(3, 2, 2, 5) + 0, X.view(3, 2, 2, 5), mean=[0.1, 0.2], std=[1, 2]
    ),
    "build_queries_out": lambda: ops.build_queries(X.view(3, 2, 2, 5) + 0, out=torch.zeros(1, 3, 2, 2, 5)),
    "features": lambda: ops.features(
        X.view(1, 3, 1, 5, 4).softmax(-1), *FIT, X.view(3, 1, 5, 4), [1, 2], floor=1e-3, root=3, clip=0.4
    ),
    "inner_products": lambda: ops.inner_products(X.view(3, 4, 5), X.view(4, 3, 5) * 2),
    "leave_one_out": lambda: ops.leave_one_out(
        X.reshape(-1)[:42].reshape(2, 3, 7).double(),
        POOL,
        freed=True,
        alone=False,
        shrink=0.01,
        rounding=1e-10,
    ),
}
POOL = pool_tables()
X = torch.linspace(-1, 1, 60).view(3, 20)


@pytest.mark.parametrize("name", sorted(OPS))
def test_compiles_as_one_graph(name: str) -> None:
    eager = PUBLIC[name]()
    compiled = torch.compile(PUBLIC[name], fullgraph=True, backend="aot_eager")()
    torch.testing.assert_close(compiled, eager)


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        return ops.project_lp((x * 2).sin(), 0.5, 2) + 1

    torch.testing.assert_close(torch.compile(step, fullgraph=True)(X), step(X))


@pytest.mark.parametrize("name", sorted(set(OPS) - {"build_queries_out"}))
def test_backward_raises_rather_than_returning_none(name: str) -> None:
    arguments = [a.clone().requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a
                 for a in cases()[name]]  # fmt: skip
    out = OPS[name].call(*arguments, "")
    first = out if isinstance(out, torch.Tensor) else out[0]
    with pytest.raises(NotImplementedError, match=f"uapfast::{name} has no gradient"):
        first.sum().backward()


def test_an_unknown_backend_is_named_with_those_there_are() -> None:
    names = "cpu, scalar, avx2, cuda, reference"
    with pytest.raises(InputError, match=f"backend must be one of {names}, or left out, got 'cdua'"):
        ops.project_lp(torch.zeros(1, 1), 1.0, 2, backend="cdua")


def test_a_backend_that_is_off_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "_load", lambda name: f"uapfast.{name} was not built; do this")
    x = torch.randn(2, 3)
    with pytest.raises(NativeUnavailable, match="backend cpu is off: uapfast._cpu was not built; do this"):
        ops.project_lp(x, 1.0, 2, backend="cpu")
    torch.testing.assert_close(ops.project_lp(x, 1.0, 2), ops.project_lp(x, 1.0, 2, backend="reference"))


def test_a_backend_that_refuses_says_why() -> None:
    with pytest.raises(InputError, match="float32 or float64"):
        ops.project_lp(torch.zeros(1, 1, dtype=torch.bfloat16), 1.0, 2, backend="cpu")


@pytest.mark.parametrize("name", ["project_lp", "deepfool_step"])
def test_cuda_is_off_with_a_reason_or_refuses_what_is_not_on_a_gpu(name: str) -> None:
    found = next(b for b in OPS[name].backends if b.name == "cuda")
    off = found.why_off()
    assert off is None or "was not built" in off or off == "no CUDA device that torch can use"
    assert found.refuses(*cases()[name]) == "tensors on a CUDA device"
    error, reason = (
        (InputError, "tensors on a CUDA device") if off is None else (NativeUnavailable, "is off: ")
    )
    with pytest.raises(error, match=reason):
        OPS[name].call(*cases()[name], "cuda")


@pytest.mark.needs("cpu-extension")
def test_the_environment_forces_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3)
    for level in _native.cpu().simd_levels():
        monkeypatch.setenv("UAPFAST_SIMD", level)
        assert _native.cpu().simd_level() == level
        ops.project_lp(x, 1.0, 1)
    monkeypatch.setenv("UAPFAST_SIMD", "mmx")
    with pytest.raises(NativeUnavailable, match="UAPFAST_SIMD must be scalar, avx2, avx512 or auto, got mmx"):
        ops.project_lp(x, 1.0, 1)


def long_calls() -> dict[str, Callable[[], Any]]:
    """Some tens of milliseconds of every op, on the compiled kernels at their slowest."""
    images, uaps = torch.zeros(256, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, 3, 64, 64)
    rows, pool = torch.randn(60, 20, 500), torch.randn(20, 60, 500)
    balance, origin = torch.full((1, 1, 10), 0.1).double(), torch.zeros(1, 1, 20_000, 10)
    products = torch.rand(2000, 3, 7).double()
    logits, grads, labels = torch.randn(400, 10), torch.randn(400, 10, 4000), torch.zeros(400).long()
    return {
        "project_lp": lambda: ops.project_lp(X0, 50.0, 1, backend="scalar"),
        "deepfool_step": lambda: ops.deepfool_step(logits, grads, labels, backend="scalar"),
        "build_queries": lambda: ops.build_queries(images, uaps, channels_last=True, backend="scalar"),
        "features": lambda: ops.features(
            P0, FIT[0][:1], balance, origin, [1], floor=1e-3, root=3, clip=0.4, backend="scalar"
        ),
        "inner_products": lambda: ops.inner_products(rows, pool, backend="scalar"),
        "leave_one_out": lambda: ops.leave_one_out(
            products, POOL, freed=True, alone=False, shrink=0.01, rounding=1e-10, backend="scalar"
        ),
    }


X0 = torch.linspace(-3, 3, 4_000_000).view(4, -1)
P0 = torch.linspace(-3, 3, 200_000).sin().view(1, 1, 1, -1, 10).softmax(-1)


@pytest.mark.needs("cpu-extension")
@pytest.mark.parametrize("name", sorted(set(OPS) - {"build_queries_out"}))
def test_other_threads_run_python_meanwhile(name: str) -> None:
    """Without the GIL released nothing could tick in the middle of a call."""
    work, ticks, done = long_calls()[name], [], threading.Event()

    def tick() -> None:
        while not done.wait(1e-4):
            ticks.append(time.perf_counter())

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        work()
        calls = 0
        for _ in range(10):
            start = time.perf_counter()
            work()
            length = time.perf_counter() - start
            calls += any(start + 0.3 * length < t < start + 0.7 * length for t in list(ticks))
    finally:
        done.set()
        ticker.join()
        torch.set_num_threads(before)
    assert calls >= 5  # what torch does around a kernel also lets others run, and a busy machine interrupts


def test_meta_tensors_give_shapes() -> None:
    assert ops.project_lp(torch.empty(3, 4, device="meta"), 1.0, 2).shape == (3, 4)
