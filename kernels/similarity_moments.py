"""Moments of the similarities of suspects and candidates: a tile owns all pairs of views of its models.

The views of a pair are a loop, not an axis of the tile, so that 20 of them are not padded to 32. What is
held and what streams: the views of a tile's candidates stay in shared memory, those of its suspects pass
once; the products never leave registers. Every sum has one order, whatever the launch and whoever else is
asked about.

Half precision: exact products, float32 sums of (x - c) and (x - c)^2 about the pair's first product c.
float32: with b_j = B + y_j, B the mean view,

    variance = variance of a_i . B over i  +  mean of (a_i . y_j)^2

where both parts are >= 0 and nothing cancels: the first in float64, the second on the tensor cores.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from uapfast.kernels._launch import Tuned, size_class
from uapfast.kernels._similarity import DOUBLE, RAW, SPLIT, centred_kernel, crossed_kernel, paired_kernel

DEEPEST = 128  # elements of a view that are multiplied at once; more go in parts
HELD = 640  # elements of views that a column holds in shared memory: 80 KB with 64 columns of 2 bytes


def _tiles(*shapes: tuple[int, int, int, int]) -> list[triton.Config]:
    """Suspects, columns, warps and stages of each."""
    return [
        triton.Config({"BLOCK_S": s, "BLOCK_R": r}, num_warps=warps, num_stages=stages)
        for s, r, warps, stages in shapes
    ]


# Two blocks a multiprocessor: while one multiplies the other sums.
RAW_LAUNCH = Tuned(crossed_kernel, _tiles((64, 64, 4, 2), (64, 32, 4, 3), (128, 64, 8, 2), (64, 128, 8, 2)))
SPLIT_LAUNCH = Tuned(crossed_kernel, _tiles((64, 32, 4, 2), (64, 64, 4, 2), (128, 32, 8, 2)))
PAIRED_LAUNCH = Tuned(paired_kernel, _tiles((64, 64, 4, 3), (64, 32, 4, 3), (128, 64, 8, 3)))
DOUBLE_LAUNCH = Tuned(paired_kernel, _tiles((64, 32, 4, 2), (32, 32, 4, 2), (64, 64, 8, 2)))
CENTRED_LAUNCH = Tuned(centred_kernel, [triton.Config({"BLOCK": 128}, num_warps=4)])


def _depth(size: int, most: int = DEEPEST) -> int:
    """Elements multiplied at once: a power of two that the tensor cores take."""
    return min(most, max(16, triton.next_power_of_2(size)))


def _shares(views: int) -> int:
    """Columns that a candidate's views are dealt to; of the number of views alone."""
    return views & -views if views & 3 else 4


def _held(views: int, depth: int, size: int, halves: int) -> int:
    """Views of a column that are held, so that as few as possible are idle in the last group."""
    if size > depth:
        return 1
    groups = triton.cdiv(views, max(1, min(8, HELD // depth // halves)))
    return triton.cdiv(views, groups)


def _paired(a: Tensor, b: Tensor, alone: bool, mean: Tensor, variance: Tensor) -> None:
    """Pairs of the same view; ``alone``: all of a's with the first of b's."""
    suspects, views, size = a.shape
    candidates, double = b.shape[0], a.dtype == torch.float32
    strides = (*a.stride(), b.stride(0), 0 if alone else b.stride(1), b.stride(2))

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(suspects, meta["BLOCK_S"]) * triton.cdiv(candidates, meta["BLOCK_R"]),)

    launch, kind, most = (DOUBLE_LAUNCH, DOUBLE, 32) if double else (PAIRED_LAUNCH, RAW, 64)
    constants = {"KIND": kind, "V": views, "D": size, "BLOCK_K": _depth(size, most)}
    key = (views, size, alone, a.dtype, size_class(suspects), size_class(candidates))
    launch(key, grid, a, b, mean, variance, suspects, candidates, *strides, **constants)


def _crossed(
    a: Tensor, b: Tensor, scales: tuple[Tensor, Tensor] | None, results: tuple[Tensor, Tensor, Tensor]
) -> None:
    """All pairs of views. With ``scales``, b is ``[R, 2, W, padded]``, halves of the centred views."""
    suspects, views, size = a.shape
    candidates, others = b.shape[0], b.shape[-2]
    depth, shares = _depth(size), _shares(others)
    plane = 0 if scales is None else b.stride(1)
    strides = (*a.stride(), b.stride(0), *b.stride()[-2:], plane)

    def grid(meta: dict[str, int]) -> tuple[int]:
        tiles = triton.cdiv(candidates * shares, meta["BLOCK_R"])
        return (triton.cdiv(suspects, meta["BLOCK_S"]) * tiles,)

    kind, launch = (RAW, RAW_LAUNCH) if scales is None else (SPLIT, SPLIT_LAUNCH)
    constants = {
        "KIND": kind,
        "V": views,
        "W": others,
        "D": size,
        "SHARE": shares,
        "HELD": _held(others // shares, depth, size, 1 if scales is None else 2),
        "BLOCK_K": depth,
    }
    key = (views, others, size, a.dtype, size_class(suspects), size_class(candidates))
    pointers = (a, b, *results, *(scales or results[:2]))
    launch(key, grid, *pointers, suspects, candidates, *strides, **constants)


def _centred(x: Tensor, mean: Tensor, planes: Tensor, scales: Tensor, centre: bool) -> None:
    models, views, size = x.shape
    constants = {"CENTRE": centre, "V": views, "D": size, "PADDED": planes.shape[-1]}
    CENTRED_LAUNCH(
        (centre, views, size), lambda _: (models,), x, mean, planes, scales, *x.stride(), **constants
    )


def similarity_moments(a: Tensor, b: Tensor, pairs: str, mean: Tensor, variance: Tensor) -> None:
    """Fill ``mean`` and ``variance``, float32 ``[S, R]`` without gaps, on the current stream and device.

    ``a`` ``[S, V, d]`` and ``b`` ``[R, W, d]``, float32, float16 or bfloat16 and of any strides: read where
    they lie, never copied. Half precision takes no memory besides; float32 ``4 S (R + 1) + 4 R (W p + 2 d)``
    bytes, p being d rounded up to a power of two (above 128: to a multiple of it).
    """
    suspects, views, size = a.shape
    candidates, others = b.shape[:2]
    if suspects == 0 or candidates == 0:
        return
    if pairs == "same" or others == 1:
        _paired(a, b, others == 1, mean, variance)
    elif a.dtype != torch.float32:
        _crossed(a, b, None, (mean, variance, variance))
    else:
        depth = _depth(size)
        padded = triton.cdiv(max(size, 1), depth) * depth
        centre = a.new_empty((candidates, 1, size), dtype=torch.float64)
        halves = a.new_empty((candidates, 2, others, padded), dtype=torch.float16)
        left, right = a.new_empty(suspects), a.new_empty(candidates)
        along = torch.empty_like(variance)
        _centred(b, centre, halves, right, True)
        _centred(a, centre, halves, left, False)
        _paired(a, centre, True, mean, along)
        _crossed(a, halves, (left, right), (mean, variance, along))
