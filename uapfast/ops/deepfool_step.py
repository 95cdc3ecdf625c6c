"""The smallest step to the nearest linearised decision boundary."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from uapfast import _native
from uapfast.ops import _args
from uapfast.ops._registry import AUTO, Backend, cuda_backend, define, native_backends

NAME = "deepfool_step"
NORMS = (2.0, math.inf)


def deepfool_step(
    logits: Tensor, grads: Tensor, labels: Tensor, p: float = 2.0, *, backend: str = AUTO
) -> tuple[Tensor, Tensor]:
    """Minimal step, in the Lp norm, over the nearest boundary of the linearised classifier.

    With ``w_k = grads[b,k] - grads[b,y]``, ``f_k = logits[b,k] - logits[b,y]``, ``y = labels[b]`` and
    ``1/p + 1/q = 1`` the nearest class minimises ``|f_k| / ||w_k||_q``, the first of equals. The step is
    ``|f| / ||w||_2^2 * w`` for p = 2 and ``|f| / ||w||_1 * sign(w)`` for p = inf. It ends on the boundary;
    overshooting is the caller's (LTS4 multiply the sum of all steps by 1.02). As in the paper, ``y`` is
    meant to be the class of the largest logit: of a sample that has left ``y`` the step leads away.

    A class with ``w_k = 0`` cannot be reached; if none can, the step is 0 and the nearest class ``y``.
    A sample with a value that is not finite gets a step of NaN and the nearest class -1.

    Args:
        logits: ``[B, K]`` floating, K >= 2: outputs of the K classes considered.
        grads: ``[B, K, D]``, same dtype and device: gradient of each of them by the input, flattened.
        labels: ``[B]`` int64 in 0..K-1: index within K of the class to be left. Checked on the CPU; on
            a GPU, where that would wait for the device, one outside makes its sample NaN.
        p: norm that the step is minimal in: 2 or inf.
        backend: ``cpu``, ``scalar``, ``avx2``, ``cuda``, ``reference``; left out, the fastest that applies.

    Returns:
        ``step [B, D]`` (dtype of ``grads``) and ``nearest [B]`` int64. Same bits for any thread count;
        on a GPU, for a sample in any batch and with any strides.

    Raises:
        InputError: an argument breaks the above.

    Source: Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool", CVPR 2016, algorithm 2 and equation 11.
    """
    step, nearest = _OP.call(logits, grads, labels, float(p), backend)
    return step, nearest


def _check(logits: Tensor, grads: Tensor, labels: Tensor, p: float) -> None:
    _args.need_tensor(NAME, "grads", grads, "B, K, D")
    _args.need(grads.shape[1] >= 2, NAME, "grads", "of at least 2 classes, [B, K >= 2, D]", grads)
    _args.need_tensor(NAME, "logits", logits, "B, K", (grads.dtype,))
    if logits.shape != grads.shape[:2] or logits.device != grads.device:
        rule = f"{list(grads.shape[:2])}, as grads say, on {grads.device}"
        _args.need(False, NAME, "logits", rule, logits)
    _args.need_tensor(NAME, "labels", labels, "B", (torch.int64,))
    if labels.shape[0] != grads.shape[0] or labels.device != grads.device:
        rule = f"[{grads.shape[0]}], one per row of grads, on {grads.device}"
        _args.need(False, NAME, "labels", rule, labels)
    _args.need_norm(NAME, p, NORMS)


def _fake(logits: Tensor, grads: Tensor, labels: Tensor, p: float) -> tuple[Tensor, Tensor]:
    batch, _, size = grads.shape
    return grads.new_empty((batch, size)), torch.empty_like(labels, memory_format=torch.contiguous_format)


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.device.type == "cpu" and labels.numel():
        low, high = (int(v) for v in labels.aminmax())
        bad = low if low < 0 else high
        _args.need(0 <= bad < classes, NAME, "labels", f"in 0..{classes - 1}", bad)


def reference(logits: Tensor, grads: Tensor, labels: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The op in float64 and plain torch; any device."""
    batch, classes, size = grads.shape
    _check_labels(labels, classes)
    if batch == 0:
        return grads.new_empty((0, size)), labels.clone()
    valid = (labels >= 0) & (labels < classes)
    own = labels.clamp(0, classes - 1)
    here = torch.arange(batch, device=grads.device)
    f = logits.double()
    w = grads.double()
    w = w - w[here, own].unsqueeze(1)
    gap = (f - f[here, own].unsqueeze(1)).abs()
    norm = torch.linalg.vector_norm(w, ord=2 if p == 2 else 1, dim=2)
    finite = (norm.isfinite() & gap.isfinite()).all(dim=1) & valid
    reachable = (norm > 0) & (torch.arange(classes, device=grads.device) != own.unsqueeze(1))
    distance = torch.where(reachable, gap / norm, math.inf)
    nearest = distance.argmin(dim=1)  # the first of equals
    best = distance[here, nearest]
    none = best.isinf()
    w, norm = w[here, nearest], norm[here, nearest]
    step = (best / norm).unsqueeze(1) * w if p == 2 else best.unsqueeze(1) * w.sign()
    step = torch.where(none.unsqueeze(1), 0.0, step)
    step = torch.where(finite.unsqueeze(1), step, math.nan)
    nearest = torch.where(finite, torch.where(none, own, nearest), -1)
    return step.to(grads.dtype), nearest


def _native_run(level: int, logits: Tensor, grads: Tensor, labels: Tensor, p: float) -> tuple[Tensor, Tensor]:
    batch, classes, size = grads.shape
    _check_labels(labels, classes)
    logits, grads, labels = _args.rows_of(logits), _args.rows_of(grads), labels.contiguous()
    step = torch.empty((batch, size), dtype=grads.dtype, device="cpu")
    nearest = torch.empty((batch,), dtype=torch.int64, device="cpu")
    _native.cpu().deepfool_step(
        logits.data_ptr(),
        grads.data_ptr(),
        labels.data_ptr(),
        step.data_ptr(),
        nearest.data_ptr(),
        _args.DTYPE_CODES[grads.dtype],
        batch,
        classes,
        size,
        logits.stride(0),
        grads.stride(0),
        grads.stride(1),
        p,
        torch.get_num_threads(),
        level,
    )
    return step, nearest


def _cuda_run(logits: Tensor, grads: Tensor, labels: Tensor, p: float) -> tuple[Tensor, Tensor]:
    batch, classes, size = grads.shape
    logits, grads, labels = _args.rows_of(logits), _args.rows_of(grads), labels.contiguous()
    step = torch.empty((batch, size), dtype=grads.dtype, device=grads.device)
    nearest = torch.empty((batch,), dtype=torch.int64, device=grads.device)
    core, dtype, (device, stream) = _native.cuda(), _args.DTYPE_CODES[grads.dtype], _args.place_of(grads)
    needed = core.deepfool_step_workspace(dtype, batch, classes, size, device)
    workspace = torch.empty((needed,), dtype=torch.uint8, device=grads.device)
    core.deepfool_step(
        logits.data_ptr(),
        grads.data_ptr(),
        labels.data_ptr(),
        step.data_ptr(),
        nearest.data_ptr(),
        dtype,
        batch,
        classes,
        size,
        logits.stride(0),
        grads.stride(0),
        grads.stride(1),
        p,
        workspace.data_ptr(),
        needed,
        device,
        stream,
    )
    return step, nearest


def _refuses(logits: Tensor, grads: Tensor, labels: Tensor, p: float) -> str | None:
    return _args.cpu_floats_only(grads)


def _cuda_refuses(logits: Tensor, grads: Tensor, labels: Tensor, p: float) -> str | None:
    return _args.cuda_floats_only(grads)


_OP = define(
    NAME,
    "Tensor logits, Tensor grads, Tensor labels, float p -> (Tensor, Tensor)",
    check=_check,
    fake=_fake,
    backends=[
        *native_backends(_native_run, _refuses, ("scalar", "avx2")),
        cuda_backend(_cuda_run, _cuda_refuses),
        Backend("reference", reference),
    ],
)
