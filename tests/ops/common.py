"""What the tests of all ops share."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import pytest
import torch

from uapfast.ops import _triton
from uapfast.ops._registry import OPS

ON_A_DEVICE = {"cuda"} if _triton.INTERPRETED else {"cuda", "triton"}
"""Backends that take no tensors on the CPU, with which these tests are made; tests/gpu has theirs."""


def skip_if_refused(op: str, backend: str, *args: object) -> None:
    """Skip where a forced backend does not take such arguments; others cover them."""
    found = next(b for b in OPS[op].backends if b.name == backend)
    reason = found.refuses(*args)
    if reason is not None:
        pytest.skip(f"{backend} takes only {reason}")


ODD = (0, 1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 1025)


def backends(op: str) -> list[object]:
    """Every backend of ``op`` as a parameter; one that is off here is skipped with the reason."""
    found = []
    for backend in OPS[op].backends:
        why = backend.why_off()
        if why is None and backend.name in ON_A_DEVICE:
            why = "takes tensors on a device, see tests/gpu"
        marks = []
        if why is not None:
            name = next(
                (n for n in ("cuda", "triton", "avx512", "avx2") if n in backend.name), "cpu-extension"
            )
            marks = [pytest.mark.needs(name), pytest.mark.skip(why)] if name != "cpu-extension" else []
        found.append(pytest.param(backend.name, marks=marks, id=backend.name))
    return found


def on_host(op: str) -> list[object]:
    """The backends that take tensors on the CPU: for tests of messages, addresses and hosts."""
    return [p for p in backends(op) if p.id != "cuda"]  # type: ignore[attr-defined]


def far_apart(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` with its rows more than 2^31 elements apart, on memory that is never touched in between."""
    stride = 2**31 + 5
    length = ((len(tensor) - 1) * stride + tensor[0].numel()) * tensor.element_size()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    base = torch.frombuffer(mmap.mmap(-1, length, flags=flags), dtype=tensor.dtype)
    return base.as_strided(tensor.shape, (stride, *tensor.stride()[1:])).copy_(tensor)


def to_device(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` on the GPU with its strides, gaps included."""
    base = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return base.cuda().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def through_device(op: Callable[..., Any]) -> Callable[..., Any]:
    """``op`` that runs backend ``cuda`` on copies on the GPU and returns its results on the CPU.

    float64, which that backend refuses, goes there to what the op chooses.
    """

    def moved(value: Any) -> Any:
        return to_device(value) if isinstance(value, torch.Tensor) else value

    def run(*args: Any, backend: str = "", **named: Any) -> Any:
        if backend != "cuda":
            return op(*args, backend=backend, **named)
        double = any(
            isinstance(a, torch.Tensor) and a.dtype == torch.float64 for a in (*args, *named.values())
        )
        there = {name: moved(value) for name, value in named.items()}
        out = op(*map(moved, args), backend="" if double else backend, **there)
        return tuple(o.cpu() for o in out) if isinstance(out, tuple) else out.cpu()

    return run
