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

import math

import torch
import triton
from torch import Tensor

from uapfast.kernels._launch import Tuned, generation, size_class
from uapfast.kernels._similarity import DOUBLE, RAW, SPLIT, centred_kernel, crossed_kernel, paired_kernel

DEEPEST = 128  # elements of a view that are multiplied at once; more go in parts
LOOSE = {0: 32, 1: 16, 2: 16}  # where views begin anywhere: each element's own address takes registers
HELD = 640  # elements of views that a row holds: 80 KB of shared memory with 64 rows of 2 bytes
HELD_IN_REGISTERS = 256  # where tensor cores do not read both sides from shared memory
FROM_MEMORY = (9, 10)  # compute capabilities of those that do


def _tiles(*shapes: tuple[int, int, int, int]) -> list[triton.Config]:
    """Rows (candidates, or shares of them), suspects, warps and stages of each."""
    return [
        triton.Config({"BLOCK_R": r, "BLOCK_S": s}, num_warps=warps, num_stages=stages)
        for r, s, warps, stages in shapes
    ]


# Two blocks a multiprocessor: while one multiplies the other sums.
LAUNCH = {
    RAW.value: Tuned(
        crossed_kernel, _tiles((64, 64, 4, 2), (64, 32, 4, 3), (64, 128, 8, 2), (128, 64, 8, 2))
    ),
    SPLIT.value: Tuned(crossed_kernel, _tiles((64, 32, 4, 1), (128, 32, 8, 1))),
}
LOOSE_LAUNCH = {  # one or both sides are read again for every product, or an element at a time
    RAW.value: Tuned(crossed_kernel, _tiles((64, 32, 4, 3))),
    SPLIT.value: Tuned(crossed_kernel, _tiles((64, 16, 4, 1))),
}
PAIRED_LAUNCH = {
    RAW.value: Tuned(paired_kernel, _tiles((64, 64, 4, 3), (64, 32, 4, 3), (64, 128, 8, 3))),
    DOUBLE.value: Tuned(paired_kernel, _tiles((32, 64, 4, 2), (32, 32, 4, 2), (64, 64, 8, 2))),
}
LOOSE_PAIRED_LAUNCH = {
    RAW.value: Tuned(paired_kernel, _tiles((64, 32, 4, 3))),
    DOUBLE.value: Tuned(paired_kernel, _tiles((32, 32, 4, 1))),
}
CENTRED_LAUNCH = Tuned(centred_kernel, [triton.Config({"BLOCK": 128}, num_warps=4)])


def _depth(size: int, most: int = DEEPEST) -> int:
    """Elements multiplied at once: a power of two that the tensor cores take."""
    return min(most, max(16, triton.next_power_of_2(size)))


def _align(*tensors: Tensor) -> int:
    """Elements that may be read at once: what divides the strides of models and of views."""
    if any(t.stride(-1) != 1 for t in tensors):
        return 1
    return math.gcd(16, *(s for t in tensors for s in (t.stride(0), t.stride(-2))))


def _deepest(size: int, align: int, halves: int) -> int:
    """Elements of a view that are multiplied at once where all pairs are."""
    most = DEEPEST
    if halves == 2 and generation() not in FROM_MEMORY:
        most = 64 if size <= 64 else 32
    return _depth(size, most if align >= 4 else LOOSE[halves - 1])


def _shares(views: int, halves: int) -> int:
    """Rows that a candidate's views are dealt to; of their number alone, which it divides."""
    four = views % 4 == 0
    if halves == 2:
        return 2 if four else 1
    return 4 if four else 2 - views % 2


def _held(views: int, depth: int, size: int, halves: int) -> int:
    """Views of a row that are held: few idle places in the last group, few passes over the suspects."""
    if size > depth:
        return 1
    room = HELD if generation() in FROM_MEMORY else HELD_IN_REGISTERS
    most = min(2, room // depth) if halves == 2 else min(8, room // depth)  # more halves spill registers
    return min(range(1, most + 1), key=lambda h: triton.cdiv(views, h) * (h + 0.25))


def _paired(a: Tensor, b: Tensor, alone: bool, mean: Tensor, variance: Tensor) -> None:
    """Pairs of the same view; ``alone``: all of a's with the first of b's."""
    suspects, views, size = a.shape
    candidates, double = b.shape[0], a.dtype == torch.float32
    strides = (*a.stride(), b.stride(0), 0 if alone else b.stride(1), b.stride(2))

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(suspects, meta["BLOCK_S"]) * triton.cdiv(candidates, meta["BLOCK_R"]),)

    kind, align = (DOUBLE if double else RAW).value, _align(a, b)
    launch = (LOOSE_PAIRED_LAUNCH if align < 4 else PAIRED_LAUNCH)[kind]
    depth = _depth(size, (LOOSE[kind] if align < 4 else DEEPEST // (4 if double else 2)))
    constants = {"KIND": kind, "V": views, "D": size, "ALIGN": align, "BLOCK_K": depth}
    key = (*constants.values(), alone, a.dtype, size_class(suspects), size_class(candidates))
    launch(key, grid, a, b, mean, variance, suspects, candidates, *strides, **constants)


def _crossed(
    a: Tensor, b: Tensor, depth: int, scales: tuple[Tensor, ...], results: tuple[Tensor, Tensor, Tensor]
) -> None:
    """All pairs of views. With ``scales``, b is ``[R, 2, W, padded]``, halves of the centred views."""
    suspects, views, size = a.shape
    candidates, others = b.shape[0], b.shape[-2]
    halves = 2 if scales else 1
    shares, plane = _shares(others, halves), b.stride(1) if scales else 0
    strides = (*a.stride(), b.stride(0), *b.stride()[-2:], plane)

    def grid(meta: dict[str, int]) -> tuple[int]:
        tiles = triton.cdiv(candidates * shares, meta["BLOCK_R"])
        return (triton.cdiv(suspects, meta["BLOCK_S"]) * tiles,)

    kind, align = (SPLIT if scales else RAW).value, _align(a, b)
    roomy = size <= depth and align >= 4 and generation() != 10  # there the larger tiles spill
    launch = (LAUNCH if roomy else LOOSE_LAUNCH)[kind]
    constants = {
        "KIND": kind,
        "V": views,
        "W": others,
        "D": size,
        "ALIGN": align,
        "SHARE": shares,
        "HELD": _held(others // shares, depth, size, halves),
        "BLOCK_K": depth,
    }
    key = (*constants.values(), a.dtype, size_class(suspects), size_class(candidates))
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
    if size == 0:
        mean.zero_()
        variance.zero_()
    elif pairs == "same" or others == 1:
        _paired(a, b, others == 1, mean, variance)
    elif a.dtype != torch.float32:
        _crossed(a, b, _deepest(size, _align(a, b), 1), (), (mean, variance, variance))
    else:
        depth = _deepest(size, _align(a), 2)
        padded = triton.cdiv(max(size, 1), depth) * depth
        centre = a.new_empty((candidates, 1, size), dtype=torch.float64)
        halves = a.new_empty((candidates, 2, others, padded), dtype=torch.float16)
        left, right = a.new_empty(suspects), a.new_empty(candidates)
        along = torch.empty_like(variance)
        _centred(b, centre, halves, right, True)
        _centred(a, centre, halves, left, False)
        _paired(a, centre, True, mean, along)
        _crossed(a, halves, depth, (left, right), (mean, variance, along))
