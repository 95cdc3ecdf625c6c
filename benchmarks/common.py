"""What the op benchmarks share: who runs, how it is timed, and that the result is right."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import pytest
import torch

from uapfast import testing
from uapfast.ops._registry import AUTO, OPS

NEEDED = {"cpu": "cpu-extension", "cuda": "cuda-extension", "triton": "triton"}
ROUNDS = int(os.environ.get("UAPFAST_BENCH_ROUNDS", "15"))  # fewer in a rehearsal
COLD = 1 << 30  # bytes
Peer = Callable[..., Any]


def implementations(op: str) -> list[Any]:
    """Every backend of the op, then the peers: plain torch, and the same compiled."""
    return [*(b.name for b in OPS[op].backends), "eager", "compile"]


@functools.cache
def _compiled(peer: Peer) -> Peer:
    return torch.compile(peer, fullgraph=True, dynamic=False)  # type: ignore[no-any-return]


def callable_for(op: str, implementation: str, args: Sequence[Any], peer: Peer) -> Callable[[], Any]:
    """What to time; skips the benchmark with the reason where it cannot run."""
    if implementation == "eager":
        return lambda: peer(*args)
    if implementation == "compile":
        compiled = _compiled(peer)
        start = time.perf_counter()
        try:
            compiled(*args)
        except Exception as exc:  # no C++ compiler or Triton here, or a graph that inductor does not take
            pytest.skip(f"compile: {type(exc).__name__}: {str(exc).strip().splitlines()[0]}")
        seconds = time.perf_counter() - start

        def again() -> Any:
            return compiled(*args)

        again.compile_s = seconds  # type: ignore[attr-defined]
        return again
    found = next(b for b in OPS[op].backends if b.name == implementation)
    off = found.why_off()
    if off and implementation in NEEDED:  # a benchmark that has to have it must not pass by leaving it out
        testing.skip(NEEDED[implementation], off)
    reason = off or found.refuses(*args)
    if reason:
        pytest.skip(f"{implementation}: {reason}")

    def work() -> Any:
        return OPS[op].call(*args, implementation)

    work.chosen = OPS[op].choose(AUTO, args).name == implementation  # type: ignore[attr-defined]
    return work


def cuda_ms(work: Callable[[], Any], repeats: int = 50) -> float:
    """Median over launches, by events: a clock on the host would time the wait.

    Before each a large buffer is zeroed: caches are cold, and the host has given the launches before the
    device gets to them, so that what a call costs the host is not in it.
    """
    buffer = torch.empty(COLD, dtype=torch.uint8, device="cuda")
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        buffer.zero_()
        start.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return median(start.elapsed_time(end) for start, end in events)


def measure(
    benchmark: Any,
    work: Callable[[], Any],
    check: Callable[[Any], None],
    *,
    nbytes: int,
    flops: int = 0,
    product: str = "",
) -> None:
    """Time ``work`` after a warm-up and check what it returned.

    Args:
        benchmark: the pytest-benchmark fixture.
        work: what is timed.
        check: raises if the result of the last round is wrong.
        nbytes: the fewest bytes that must move: every input read once, every output written once.
        flops: the operations that must be done.
        product: dtype of the measured matrix product whose rate is the ceiling of ``flops``.
    """
    result = work()
    on_cuda = any(t.is_cuda for t in _tensors(result))
    if on_cuda:
        torch.cuda.synchronize()
        benchmark.extra_info["event_ms"] = cuda_ms(work)
    benchmark.extra_info.update(bytes=nbytes, flops=flops, product=product, threads=torch.get_num_threads())
    benchmark.extra_info["chosen"] = getattr(work, "chosen", False)
    if hasattr(work, "compile_s"):
        benchmark.extra_info["compile_s"] = round(work.compile_s, 2)
    result = benchmark.pedantic(work, rounds=ROUNDS, iterations=1, warmup_rounds=min(2, ROUNDS - 1))
    check(result)
    if benchmark.stats is None:  # --benchmark-disable: run and checked once, not timed
        return
    seconds = benchmark.extra_info.get("event_ms", benchmark.stats.stats.median * 1e3) / 1e3
    benchmark.extra_info["GB/s"] = round(nbytes / seconds / 1e9, 2)
    if flops:
        benchmark.extra_info["GFLOP/s"] = round(flops / seconds / 1e9, 2)


def _tensors(result: Any) -> list[torch.Tensor]:
    items = result if isinstance(result, tuple | list) else [result]
    return [t for t in items if isinstance(t, torch.Tensor)]


def size_of(*tensors: torch.Tensor) -> int:
    """Bytes that the tensors hold."""
    return sum(t.numel() * t.element_size() for t in tensors)
