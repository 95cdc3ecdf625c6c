"""From logits to the features that fingerprints are made of."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from uapfast import _native
from uapfast.ops import _args, _triton
from uapfast.ops._registry import AUTO, Backend, define, native_backends

NAME = "fingerprint_rows"


class FingerprintRows(NamedTuple):
    """What :func:`fingerprint_rows` returns; float32, or float64 for float64 logits.

    Attributes:
        log_probs: ``[M, Q, K]`` log-softmax.
        labels: ``[M, Q]`` int64, class of the largest logit, the first of equals.
        margins: ``[M, Q]`` >= 0, largest logit minus the second largest; inf for K = 1.
        top_log_probs: ``[M, Q, top_k]`` the largest log-probabilities in falling order.
        top_classes: ``[M, Q, top_k]`` int64, their classes, the lower first among equals.
    """

    log_probs: Tensor
    labels: Tensor
    margins: Tensor
    top_log_probs: Tensor
    top_classes: Tensor


def fingerprint_rows(logits: Tensor, *, top_k: int = 0, backend: str = AUTO) -> FingerprintRows:
    """Log-softmax, label, margin and top-k of every row of logits, in one pass.

    Stable for logits of any size: the largest is taken off first. A row without a log-softmax (NaN,
    +inf, or nothing above -inf) gets NaN features and -1 for its classes.

    Args:
        logits: ``[M, Q, K]`` floating, K >= 1: M models asked Q queries.
        top_k: classes to list in falling order, 0..K.
        backend: ``cpu``, ``scalar``, ``avx2``, ``avx512``, ``triton``, ``reference``; left out, the fastest
            that applies.

    Returns:
        A :class:`FingerprintRows` on the device of ``logits``. Not differentiable.

    Raises:
        InputError: an argument breaks the above.
    """
    return FingerprintRows(*_OP.call(logits, int(top_k), backend))


def _check(logits: Tensor, top_k: int) -> None:
    _args.need_tensor(NAME, "logits", logits, "M, Q, K")
    classes = logits.shape[2]
    _args.need(classes >= 1, NAME, "logits", "of at least one class, [M, Q, K >= 1]", logits)
    _args.need(0 <= top_k <= classes, NAME, "top_k", f"in 0..{classes}", top_k)


def result_dtype(logits: Tensor) -> torch.dtype:
    """Of the features: float64 for float64 logits, else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def empty_result(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Unwritten results of the right shapes."""
    rows, dtype = logits.shape[:2], result_dtype(logits)
    return (
        logits.new_empty(logits.shape, dtype=dtype),
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=dtype),
        logits.new_empty((*rows, top_k), dtype=dtype),
        logits.new_empty((*rows, top_k), dtype=torch.int64),
    )


def reference(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The op in float64 and plain torch; any device."""
    x, dtype = logits.double(), result_dtype(logits)
    log_probs = torch.log_softmax(x, dim=-1)
    valid = log_probs.isnan().logical_not().all(dim=-1)
    log_probs = torch.where(valid.unsqueeze(-1), log_probs, math.nan)
    # Order by the logits, not by their log-softmax, whose rounding makes ties of near equals.
    values, classes = x.sort(dim=-1, descending=True, stable=True)
    classes = torch.where(valid.unsqueeze(-1), classes, -1)
    margins = values[..., 0] - values[..., 1] if x.shape[-1] > 1 else torch.full_like(x[..., 0], math.inf)
    margins = torch.where(valid, margins, math.nan)
    top = log_probs.gather(-1, classes.clamp(min=0))[..., :top_k]
    return (
        log_probs.to(dtype),
        classes[..., 0].contiguous(),
        margins.to(dtype),
        top.to(dtype, copy=True).contiguous(),
        classes[..., :top_k].clone(memory_format=torch.contiguous_format),
    )


def _native_run(level: int, logits: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    source = logits.contiguous()
    models, queries, classes = source.shape
    rows = (models, queries)
    out = (
        torch.empty(source.shape, dtype=torch.float32, device="cpu"),
        torch.empty(rows, dtype=torch.int64, device="cpu"),
        torch.empty(rows, dtype=torch.float32, device="cpu"),
        torch.empty((*rows, top_k), dtype=torch.float32, device="cpu"),
        torch.empty((*rows, top_k), dtype=torch.int64, device="cpu"),
    )
    addresses = [t.data_ptr() for t in (source, *out)]
    _native.cpu().fingerprint_rows(
        *addresses, models * queries, classes, top_k, torch.get_num_threads(), level
    )
    return out


def _refuses(logits: Tensor, top_k: int) -> str | None:
    return None if logits.dtype == torch.float32 and logits.device.type == "cpu" else "float32 on the CPU"


def _triton_run(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    out = empty_result(logits, top_k)
    _triton.kernels(NAME).fingerprint_rows(logits, top_k, out)
    return out


def _triton_refuses(logits: Tensor, top_k: int) -> str | None:
    if logits.dtype == torch.float64:
        return "float32, float16 or bfloat16"
    return None if top_k <= 64 else "top_k <= 64; more are a sort"


_OP = define(
    NAME,
    "Tensor logits, SymInt top_k -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    check=_check,
    fake=empty_result,
    backends=[
        *native_backends(_native_run, _refuses, ("scalar", "avx2", "avx512")),
        _triton.backend(_triton_run, _triton_refuses),
        Backend("reference", reference),
    ],
)
