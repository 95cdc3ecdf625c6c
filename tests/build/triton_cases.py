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


def features(classes: int, points: int = 200, clip: float = 0.4) -> Callable[[], None]:
    def work() -> None:
        shape = (10, 1, points, classes)
        given = meta(60, *shape), meta(1, 1, dtype=torch.float64), meta(1, 1, classes, dtype=torch.float64)
        _triton.kernels("features").features(
            *given, meta(*shape), [10], (1e-4, 3.0, clip), (6, 1e-30, 0.05, 20.0, 5.0), meta(60, *shape)
        )

    return work


def products(suspects: int, models: int, size: int, strided: bool = False) -> Callable[[], None]:
    def work() -> None:
        a, b = meta(suspects, 20, size * (1 + strided)), meta(20, models, size)
        out = meta(suspects, 20, models + 1, dtype=torch.float64)
        _triton.kernels("inner_products").inner_products(a[..., :: 1 + strided], b, out)

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
    **{f"features {k}": features(k) for k in (10, 33, 100)},
    "features one point, not clipped": features(2, 1, float("inf")),
    "products": products(64, 60, 2000),
    "products ragged, strides": products(3, 91, 6599, strided=True),
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
