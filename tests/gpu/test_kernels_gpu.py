"""What holds of every compiled GPU backend: streams, graphs, the second device, layouts, sizes, buffers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.ops.common import ODD, to_device
from uapfast import testing
from uapfast.ops._registry import OPS
from uapfast.ops.deepfool_step import reference as step_reference
from uapfast.ops.project_lp import reference as project_reference

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poison")]
SINGLE = [torch.float32, torch.float16, torch.bfloat16]
MEAN, STD = [0.1, 0.2, 0.3], [0.3, 0.4, 0.5]


def case(op: str, device: str = "cuda") -> tuple[Any, ...]:
    """Arguments of an op, of a size that takes more than one block."""
    if op == "project_lp":
        return (torch.randn(9, 50_001, device=device), 20.0, 1.0)
    if op == "deepfool_step":
        return (
            torch.randn(5, 70, device=device),
            torch.randn(5, 70, 9001, device=device),
            torch.arange(5, device=device),
            2.0,
        )
    if op == "build_queries":
        images = torch.rand(33, 3, 17, 19, device=device)
        uaps = torch.randn(4, 3, 17, 19, device=device) * 0.1
        return (images, uaps, None, 0.5, MEAN, STD, torch.float32, True, True)
    if op == "features":
        p = torch.randn(3, 3, 1, 501, 33, device=device).softmax(-1)
        fit = torch.full((2, 1), 0.7), torch.full((2, 1, 33), 1 / 33)
        origin = torch.rand(3, 1, 501, 33, device=device)
        return (p, *(t.double().to(device) for t in fit), origin, [1, 2], 1e-4, 3.0, 0.4)
    return (torch.randn(150, 20, 333, device=device), torch.randn(20, 90, 333, device=device))


def gpu_backends() -> list[Any]:
    """Every op with the backends meant for a GPU."""
    return [
        pytest.param(name, b.name, id=f"{name}-{b.name}")
        for name in ("project_lp", "deepfool_step", "build_queries", "features", "inner_products")
        for b in OPS[name].backends
        if b.name in ("cuda", "triton")
    ]


every_gpu_backend = pytest.mark.parametrize(("name", "backend"), gpu_backends())


def run(name: str, backend: str, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    op = OPS[name]
    found = next(b for b in op.backends if b.name == backend)
    off = found.why_off()
    if off:
        testing.skip("cuda-extension" if backend == "cuda" else "triton", off)
    reason = found.refuses(*args)
    assert reason is None, f"{name}, {backend}: refuses {reason}"
    out = op.call(*args, backend)
    return out if isinstance(out, tuple) else (out,)


def same(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(a, b, strict=True))


@every_gpu_backend
def test_the_same_bits_in_every_run(name: str, backend: str) -> None:
    args = case(name)
    first = run(name, backend, args)
    assert all(same(first, run(name, backend, args)) for _ in range(20))


@every_gpu_backend
def test_runs_on_the_stream_of_the_caller(name: str, backend: str) -> None:
    """Behind work that takes long there; on another stream the inputs would still be old."""
    args = case(name)
    want = run(name, backend, args)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = [torch.zeros_like(a) if isinstance(a, torch.Tensor) else a for a in args]
        torch.cuda._sleep(200_000_000)
        for new, old in zip(late, args, strict=True):
            if isinstance(new, torch.Tensor):
                new.copy_(old)
        got = run(name, backend, tuple(late))
        assert not stream.query(), "the call waited for the device"
    stream.synchronize()
    assert same(got, want)


@every_gpu_backend
def test_a_captured_graph_follows_its_inputs(name: str, backend: str) -> None:
    args, other = case(name), case(name)
    want = run(name, backend, other)
    run(name, backend, args)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run(name, backend, args)
    for mine, new in zip(args, other, strict=True):
        if isinstance(mine, torch.Tensor):
            mine.copy_(new)
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    assert same(got, want)


@every_gpu_backend
def test_on_the_second_device(name: str, backend: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    args = case(name)
    there = tuple(a.to("cuda:1") if isinstance(a, torch.Tensor) else a for a in args)
    got = run(name, backend, there)
    assert all(g.device == torch.device("cuda:1") for g in got) and torch.cuda.current_device() == 0
    assert same(got, run(name, backend, args))


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("dtype", SINGLE, ids=str)
def test_project_lp_over_sizes_types_and_strides(dtype: torch.dtype, p: float) -> None:
    room = torch.finfo(dtype).eps
    for size in (*ODD, 3072, 18_001, 76_001, 150_528, 460_001, 500_003):
        x = (torch.randn(3, size) * 0.1).to(dtype)
        eps = {1.0: 0.01 * max(size, 10), 2.0: 0.02 * size**0.5, math.inf: 8 / 255}[p]
        want = project_reference(x.double(), eps, p)
        padded = torch.zeros(3, size + 3, dtype=dtype)
        padded[:, :size] = x
        first = run("project_lp", "cuda", (x.cuda(), eps, p))[0]
        for layout in (padded[:, :size], x.T.contiguous().T):
            assert torch.equal(run("project_lp", "cuda", (to_device(layout), eps, p))[0], first)
        assert torch.equal(run("project_lp", "cuda", (x[1:2].cuda(), eps, p))[0], first[1:2])
        tight = 2e-7 * max(eps, 1) if dtype == torch.float32 else room
        torch.testing.assert_close(first.cpu().double(), want, rtol=2 * room, atol=tight)


@pytest.mark.parametrize("p", [2.0, math.inf])
@pytest.mark.parametrize("dtype", SINGLE, ids=str)
def test_deepfool_step_over_sizes_types_and_strides(dtype: torch.dtype, p: float) -> None:
    shapes = [(3, 5, d) for d in ODD] + [
        (200, 10, 784),
        (140, 10, 3072),
        (2, 1000, 3072),
        (2, 3001, 65),
        (1, 9, 150_528),
    ]
    for batch, classes, size in shapes:
        logits, grads = torch.randn(batch, classes).to(dtype), torch.randn(batch, classes, size).to(dtype)
        labels = logits.float().argmax(1)
        want, nearest = step_reference(logits.double(), grads.double(), labels, p)
        swapped = grads.transpose(0, 1).contiguous().transpose(0, 1)
        first = run("deepfool_step", "cuda", (logits.cuda(), grads.cuda(), labels.cuda(), p))
        again = run("deepfool_step", "cuda", tuple(map(to_device, (logits, swapped, labels))) + (p,))
        assert same(first, again)
        assert torch.equal(first[1].cpu(), nearest)
        room = torch.finfo(dtype).eps
        scale = float(want.abs().max()) if want.numel() else 0.0
        torch.testing.assert_close(first[0].cpu().double(), want, rtol=4 * room, atol=4 * room * scale)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_the_core_writes_only_its_target(p: float) -> None:
    from uapfast import _native

    for size in (1, 33, 1025, 30_001):
        source = testing.Canary(torch.randn(3, size, device="cuda"))
        target = testing.Canary(torch.full((3, size), math.nan, device="cuda"), margin=65)
        _native.cuda().project_lp(
            source.tensor.data_ptr(), target.tensor.data_ptr(), 0, 3, size, size, size, 0.5, p, 0,
            torch.cuda.current_stream().cuda_stream,
        )  # fmt: skip
        torch.cuda.synchronize()
        assert source.intact() and target.intact() and bool(target.tensor.isfinite().all())


def test_more_than_two_to_the_31_elements() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 20 << 30:
        pytest.skip(f"needs 20 GB of GPU memory, {free >> 30} GB are free")
    size = 2**31 + 24
    x = torch.zeros(1, size, dtype=torch.float16, device="cuda")
    x[0, -1], x[0, 2**31] = 3.0, -4.0
    for p, last in ((1.0, 0.0), (2.0, 3 / 5), (math.inf, 1.0)):
        got = run("project_lp", "cuda", (x, 1.0, p))[0]
        assert float(got[0, -1]) == pytest.approx(last, abs=2e-3)
        assert float(got[0, 2**31]) == pytest.approx({1.0: -1.0, 2.0: -4 / 5}.get(p, -1.0), abs=2e-3)
        del got
    rows = x.view(-1)[: 2**31].view(8, -1)
    rows[7, -1] = 5.0
    assert float(run("project_lp", "cuda", (rows, 1.0, 2.0))[0][7, -1]) == pytest.approx(1.0, abs=2e-3)
    del rows, x
    grads = torch.zeros(2, 3, 2**29, dtype=torch.float16, device="cuda")
    grads[1, 2, -1] = 1.0
    logits, labels = (
        torch.tensor([[1.0, 0, 0.5]] * 2, dtype=torch.float16).cuda(),
        torch.zeros(2).long().cuda(),
    )
    step, nearest = run("deepfool_step", "cuda", (logits, grads, labels, 2.0))
    assert nearest.tolist() == [0, 2] and float(step[1, -1]) == 0.5 and float(step[0].abs().max()) == 0
