"""Inner products of models' features with those of a pool, view by view."""

from __future__ import annotations

import torch
from torch import Tensor

from uapfast import _native
from uapfast.ops import _args, _triton
from uapfast.ops._registry import AUTO, Backend, define, native_backends

NAME = "inner_products"


def inner_products(rows: Tensor, pool: Tensor, *, backend: str = AUTO) -> Tensor:
    """Inner products of the views of S models with the same views of a pool's M, and with themselves.

    Args:
        rows: ``[S, V, F]`` float32 or float64.
        pool: ``[V, M, F]``, same dtype and device.
        backend: ``cpu``, ``scalar``, ``avx2``, ``avx512``, ``triton``, ``reference``; left out, the fastest
            that applies.

    Returns:
        ``[S, V, M + 1]`` float64, contiguous; the last column holds the squares of ``rows`` themselves.
        Products are summed in float64: what is left of a difference of models is no rounding. A row's results
        are the same bits in any company (``reference``: as the library has it). Not differentiable.

    Raises:
        InputError: an argument breaks the above.
    """
    out: Tensor = _OP.call(rows, pool, backend)
    return out


def _check(rows: Tensor, pool: Tensor) -> None:
    _args.need_tensor(NAME, "rows", rows, "S, V, F", (torch.float32, torch.float64))
    _args.need_tensor(NAME, "pool", pool, "V, M, F", (rows.dtype,))
    _, views, size = rows.shape
    same = (pool.shape[0], pool.shape[2]) == (views, size) and pool.device == rows.device
    _args.need(same, NAME, "pool", f"[{views}, M, {size}] on {rows.device}, as rows", pool)


def _fake(rows: Tensor, pool: Tensor) -> Tensor:
    return rows.new_empty((*rows.shape[:2], pool.shape[1] + 1), dtype=torch.float64)


def reference(rows: Tensor, pool: Tensor) -> Tensor:
    """The op in float64 and plain torch; any device."""
    out, wide = _fake(rows, pool), rows.double()
    out[..., :-1] = torch.bmm(wide.transpose(0, 1), pool.double().mT).transpose(0, 1)
    out[..., -1] = wide.square().sum(-1)
    return out


def _native_run(level: int, rows: Tensor, pool: Tensor) -> Tensor:
    left, right = rows.contiguous(), pool.contiguous()
    out = torch.empty((*rows.shape[:2], pool.shape[1] + 1), dtype=torch.float64, device="cpu")
    addresses = (left.data_ptr(), right.data_ptr(), out.data_ptr())
    sizes = (*rows.shape[:2], *pool.shape[1:])
    _native.cpu().inner_products(*addresses, *sizes, torch.get_num_threads(), level)
    return out


def _native_refuses(rows: Tensor, pool: Tensor) -> str | None:
    on_host = rows.device.type == "cpu" and rows.dtype == torch.float32
    return None if on_host else "float32 on the CPU"


def _triton_run(rows: Tensor, pool: Tensor) -> Tensor:
    out = _fake(rows, pool)
    _triton.kernels(NAME).inner_products(rows, pool, out)
    return out


def _triton_refuses(rows: Tensor, pool: Tensor) -> str | None:
    if rows.dtype != torch.float32:
        return "float32"
    if rows.is_cuda and torch.cuda.get_device_capability(rows.device)[0] not in (8, 9):
        return "compute capability 8 or 9: Triton has float64 products there alone"
    return None


_OP = define(
    NAME,
    "Tensor rows, Tensor pool -> Tensor",
    check=_check,
    fake=_fake,
    backends=[
        *native_backends(_native_run, _native_refuses, ("scalar", "avx2", "avx512")),
        _triton.backend(_triton_run, _triton_refuses),
        Backend("reference", reference),
    ],
)
