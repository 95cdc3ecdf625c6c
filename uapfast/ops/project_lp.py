"""Projection of a batch of perturbations onto an Lp ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from uapfast import _native
from uapfast.ops import _args
from uapfast.ops._registry import AUTO, Backend, cuda_backend, define, native_backends

NAME = "project_lp"
NORMS = (1.0, 2.0, math.inf)


def project_lp(delta: Tensor, eps: float, p: float, *, backend: str = AUTO) -> Tensor:
    """Nearest point, in the Euclidean sense, of the Lp ball of radius ``eps`` around 0; one per row.

    For float32 and float64 the result lies inside the ball in exact arithmetic and projecting it again
    returns the same bits; a row inside the ball is returned as it is. Half precision: up to rounding.
    L1 and L2: a row that holds a NaN or an infinity becomes NaN. Linf: NaN stays, infinities are clipped.

    Args:
        delta: ``[P, D]`` floating; perturbations, flattened. Not changed.
        eps: radius, in the units of ``delta`` (for images: 0..1); finite, >= 0.
        p: 1, 2 or inf.
        backend: ``cpu``, ``scalar``, ``avx2``, ``cuda``, ``reference``; left out, the fastest that applies.

    Returns:
        ``[P, D]``, dtype and device of ``delta``, contiguous. The same bits for any number of threads;
        on a GPU, the same bits for a row in any batch, with any strides, in any run.

    Raises:
        InputError: an argument breaks the above.

    Source: L1 after Duchi et al., ICML 2008 (reference) and Michelot, JOTA 1986 (compiled).
    """
    return _OP.call(delta, float(eps), float(p), backend)  # type: ignore[no-any-return]


def _check(delta: Tensor, eps: float, p: float) -> None:
    _args.need_tensor(NAME, "delta", delta, "P, D")
    _args.need(math.isfinite(eps) and eps >= 0, NAME, "eps", "finite and >= 0", eps)
    _args.need_norm(NAME, p, NORMS)


def _fake(delta: Tensor, eps: float, p: float) -> Tensor:
    return torch.empty_like(delta, memory_format=torch.contiguous_format)


def largest_not_above(eps: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that does not exceed ``eps`` >= 0."""
    near = torch.tensor(eps, dtype=dtype)
    if float(near) > eps:  # the next number towards 0 has the next smaller bit pattern
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[near.element_size()]
        near = (near.view(bits) - 1).view(dtype)
    return float(near)


def reference(delta: Tensor, eps: float, p: float) -> Tensor:
    """The op in float64 and plain torch, by sorting for L1; any device."""
    if delta.numel() == 0:
        return delta.clone(memory_format=torch.contiguous_format)
    if math.isinf(p):
        bound = largest_not_above(eps, delta.dtype)
        return delta.clamp(-bound, bound).contiguous()
    x = delta.double()
    size = torch.linalg.vector_norm(x, ord=p, dim=1, keepdim=True)
    inner = eps * (1 - torch.finfo(delta.dtype).eps)  # room for the rounding of each element
    if p == 2:
        moved = x * (inner / size)
    else:
        top = x.abs().amax(dim=1, keepdim=True)
        y = x.abs() - top  # differences of near equals: exact, so eps << |x| loses nothing
        moved = x.sign() * (y - simplex_threshold(y, inner)).clamp(min=0)
    out = torch.where(size <= eps, x, moved if eps > 0 else torch.zeros_like(x))
    return torch.where(size.isfinite(), out, math.nan).to(delta.dtype)


def simplex_threshold(y: Tensor, eps: float) -> Tensor:
    """``[P, 1]``: the tau of each row with ``sum(max(y - tau, 0)) = eps`` (Duchi et al. 2008, figure 1)."""
    ordered = y.sort(dim=1, descending=True).values
    count = torch.arange(1, y.shape[1] + 1, device=y.device, dtype=y.dtype)
    candidates = (ordered.cumsum(dim=1) - eps) / count
    last = (ordered > candidates).sum(dim=1, keepdim=True).clamp(min=1) - 1
    return candidates.gather(1, last)


def _native_run(level: int, delta: Tensor, eps: float, p: float) -> Tensor:
    source = _args.rows_of(delta)
    out = torch.empty(delta.shape, dtype=delta.dtype, device="cpu")
    rows, cols = delta.shape
    _native.cpu().project_lp(
        source.data_ptr(),
        out.data_ptr(),
        _args.DTYPE_CODES[delta.dtype],
        rows,
        cols,
        source.stride(0),
        cols,
        eps,
        p,
        torch.get_num_threads(),
        level,
    )
    return out


def _cuda_run(delta: Tensor, eps: float, p: float) -> Tensor:
    source = _args.rows_of(delta)
    out = torch.empty(delta.shape, dtype=delta.dtype, device=delta.device)
    rows, cols = delta.shape
    _native.cuda().project_lp(
        source.data_ptr(),
        out.data_ptr(),
        _args.DTYPE_CODES[delta.dtype],
        rows,
        cols,
        source.stride(0),
        cols,
        eps,
        p,
        *_args.place_of(delta),
    )
    return out


def _refuses(delta: Tensor, eps: float, p: float) -> str | None:
    return _args.cpu_floats_only(delta)


def _cuda_refuses(delta: Tensor, eps: float, p: float) -> str | None:
    return _args.cuda_floats_only(delta)


_OP = define(
    NAME,
    "Tensor delta, float eps, float p -> Tensor",
    check=_check,
    fake=_fake,
    backends=[
        *native_backends(_native_run, _refuses, ("scalar", "avx2")),
        cuda_backend(_cuda_run, _cuda_refuses),
        Backend("reference", reference),
    ],
)
