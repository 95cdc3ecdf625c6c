"""Inner products of models' features with a pool's, view by view, on the float64 tensor cores.

Products of float32 are exact in float64, and what scoring takes of them are differences of nearly equal
models: no digits may be lost. Both sides are read as float32, where a library's product would first write
    float64 copies of
the suspects, twice their bytes, and read them again.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from uapfast.kernels._launch import Tuned, size_class


@triton.jit
def inner_products_kernel(
    rows, pool, out, suspects, views, models, row_strides, pool_strides,
    SIZE: tl.constexpr, SUSPECTS: tl.constexpr, MODELS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``SUSPECTS`` x ``MODELS`` products of one view; strides of model, view and element."""
    view = tl.program_id(2).to(tl.int64)
    suspect = tl.program_id(0).to(tl.int64) * SUSPECTS + tl.arange(0, SUSPECTS)
    model = tl.program_id(1).to(tl.int64) * MODELS + tl.arange(0, MODELS)
    depth = tl.arange(0, DEPTH)
    left = rows + view * row_strides[1] + suspect * row_strides[0]
    right = pool + view * pool_strides[1] + model * pool_strides[0]
    total = tl.zeros([SUSPECTS, MODELS], tl.float64)
    square = tl.zeros([SUSPECTS], tl.float64)
    for begin in range(0, SIZE, DEPTH):
        at = begin + depth
        a = tl.load(
            left[:, None] + at[None, :] * row_strides[2],
            mask=(suspect < suspects)[:, None] & (at < SIZE)[None, :],
            other=0.0,
        ).to(tl.float64)
        b = tl.load(
            right[None, :] + at[:, None] * pool_strides[2],
            mask=(model < models)[None, :] & (at < SIZE)[:, None],
            other=0.0,
        ).to(tl.float64)
        total = tl.dot(a, b, total, out_dtype=tl.float64)
        square += tl.sum(a * a, 1)
    target = out + (suspect * views + view) * (models + 1)
    keep = (suspect < suspects)[:, None] & (model < models)[None, :]
    tl.store(target[:, None] + model[None, :], total, mask=keep)
    if tl.program_id(1) == 0:
        tl.store(target + models, square, mask=suspect < suspects)


def _config(suspects: int, models: int, warps: int, stages: int) -> triton.Config:
    tile = {"SUSPECTS": suspects, "MODELS": models, "DEPTH": 32}
    return triton.Config(tile, num_warps=warps, num_stages=stages)


LAUNCH = Tuned(inner_products_kernel, [_config(32, 64, 4, 2), _config(16, 32, 4, 3), _config(64, 64, 8, 2)])


def inner_products(rows: Tensor, pool: Tensor, out: Tensor) -> None:
    """Fill ``out``, as ``uapfast.ops.inner_products`` has it; float32, any strides of the inputs.

    On the current stream and device.
    """
    suspects, views, size = rows.shape
    models = pool.shape[1]
    if not out.numel():
        return
    LAUNCH(
        (size, size_class(suspects), size_class(models)),
        lambda m: (triton.cdiv(suspects, m["SUSPECTS"]), max(1, triton.cdiv(models, m["MODELS"])), views),
        *(rows, pool, out, suspects, views, models, rows.stride()),
        (pool.stride(1), pool.stride(0), pool.stride(2)),
        SIZE=size,
    )  # fmt: skip
