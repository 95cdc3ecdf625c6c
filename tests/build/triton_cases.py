"""Launches of every Triton kernel, in the forms that the compiler tells apart, and what they need."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from tests.build.triton_offline import compile_for, launches, resources
from uapfast.ops import _triton


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def queries(
    out: torch.dtype,
    kind: torch.dtype = torch.uint8,
    last: bool = False,
    assigned: bool = True,
    shape: tuple[int, ...] = (512, 3, 224, 224),
    swapped: bool = False,
) -> Callable[[], None]:
    def work() -> None:
        images, uaps = meta(*shape, dtype=kind), meta(13, *shape[1:])
        if swapped:
            images = meta(shape[0], *shape[2:], shape[1], dtype=kind).permute(0, 3, 1, 2)[:, :, :, ::2]
            uaps = uaps[:, :, :, ::2]
        assign = meta(shape[0], dtype=torch.int64) if assigned else None
        mean = [0.5] * shape[1]
        result = meta(2 if assigned else 14, *images.shape, dtype=out)
        _triton.kernels("build_queries").build_queries(
            images, uaps, assign, 1.0, mean, mean, last, True, result
        )

    return work


def rows(
    classes: int, top_k: int, dtype: torch.dtype = torch.float32, strided: bool = False
) -> Callable[[], None]:
    def work() -> None:
        from uapfast.ops.fingerprint_rows import empty_result

        logits = meta(64, 4000, classes * (1 + strided), dtype=dtype)[:, :, :: 1 + strided]
        _triton.kernels("fingerprint_rows").fingerprint_rows(logits, top_k, empty_result(logits, top_k))

    return work


def moments(
    s: int,
    r: int,
    v: int,
    w: int,
    d: int,
    dtype: torch.dtype = torch.bfloat16,
    pairs: str = "all",
    strided: bool = False,
) -> Callable[[], None]:
    def work() -> None:
        a, b = meta(s, v, d * (1 + strided), dtype=dtype), meta(r, w, d * (1 + strided), dtype=dtype)
        out = meta(s, r), meta(s, r)
        _triton.kernels("similarity_moments").similarity_moments(
            a[:, :, :: 1 + strided], b[:, :, :: 1 + strided], pairs, *out
        )

    return work


CASES = {
    **{
        f"build_queries {d} {last}": queries(d, last=last)
        for d in (torch.float32, torch.bfloat16)
        for last in (0, 1)
    },
    "build_queries half every": queries(torch.float16, assigned=False),
    "build_queries float images": queries(torch.float32, kind=torch.float32),
    "build_queries one grey pixel": queries(torch.float32, shape=(1, 1, 1, 1)),
    "build_queries strides": queries(torch.bfloat16, swapped=True),
    "build_queries strides, channels last": queries(torch.bfloat16, last=True, swapped=True),
    "build_queries nine channels": queries(torch.float32, last=True, shape=(7, 9, 5, 3), assigned=False),
    **{f"fingerprint_rows {k} top {top}": rows(k, top) for k in (1, 10, 100, 1000) for top in (0, 3)},
    "fingerprint_rows 32": rows(32, 0),
    "fingerprint_rows half": rows(10, 3, torch.float16),
    "fingerprint_rows bfloat16": rows(1000, 3, torch.bfloat16),
    "fingerprint_rows 4,000, top 64": rows(4000, 64),
    "fingerprint_rows in parts": rows(100_003, 3),
    "fingerprint_rows strides": rows(10, 1, strided=True),
    "fingerprint_rows strides, wide": rows(100, 1, strided=True),
    "moments": moments(10_000, 200, 20, 20, 128),
    "moments float32": moments(10_000, 200, 20, 20, 128, torch.float32),
    "moments half, same": moments(10_000, 200, 20, 20, 128, torch.float16, "same"),
    "moments float32, same": moments(2000, 50, 20, 20, 64, torch.float32, "same"),
    "moments small": moments(2000, 50, 20, 20, 64),
    "moments float32, small": moments(2000, 50, 20, 20, 64, torch.float32),
    "moments of 20": moments(2000, 50, 20, 20, 20),
    "moments ragged": moments(100, 7, 3, 5, 77),
    "moments float32, ragged": moments(100, 7, 3, 5, 77, torch.float32),
    "moments deep": moments(100, 7, 20, 20, 384),
    "moments float32, deep": moments(100, 7, 20, 20, 384, torch.float32),
    "moments strides": moments(100, 7, 3, 8, 31, strided=True),
    "moments one": moments(1, 1, 1, 1, 1, torch.float32),
}  # fmt: skip


def needed(case: str, capability: int) -> list[tuple[str, dict[str, int]]]:
    """Each launch and configuration of a case, compiled, and its resources."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for launch in launches(CASES[case], capability):
            for config in launch.tuned.configs:
                used = resources(compile_for(launch, config, capability), Path(folder))
                found.append((f"{launch.tuned.kernel.__name__} {config}", used))
    return found
