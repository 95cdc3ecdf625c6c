"""From answers to features: one confidence and class balance for all, roots, residuals, softly clipped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from uapfast import _native
from uapfast.ops import _args, _triton
from uapfast.ops._registry import AUTO, Backend, define, native_backends

NAME = "features"
STEPS = 6  # alternations of temperature (two of Newton's steps) and biases
LEAST = 1e-30  # probability: its logarithm is finite
RANGE = (0.05, 20.0)  # inverse temperatures; answers without any spread would take an infinite one
BIAS = 5.0  # largest, either way
LARGEST_STEP = 0.7  # of the logarithm of the inverse temperature
FLAT = 1e-9  # slope below which there is none


def features(
    answers: Tensor,
    target: Tensor,
    prior: Tensor,
    origin: Tensor,
    groups: Sequence[int],
    *,
    floor: float,
    root: float,
    clip: float,
    backend: str = AUTO,
) -> Tensor:
    """Residuals of roots of probabilities that were brought to one confidence and class balance.

    softmax(t log p + b) with t and b of each model, group of views and block, fitted by a few alternating
    steps so that the mean largest probability and the mean probability of each class are those wanted
    (bias-corrected temperature scaling: Alexandari et al., ICML 2020; here fitted to these figures, not to
    labels). Where no t in 0.05..20 reaches the target (answers without spread), the nearest. Of a point's
    probabilities q, r = max(q, floor)^(1 / root) - origin, and out = r / sqrt(|r|^2 + clip^2). In one pass:
    answers are read once.

    Args:
        answers: ``[M, V, B, n, K]`` floating, K >= 1, >= 0: M models, V views of n points in B blocks. A row
            of zeros is no answer: it has no say, and its features are zeros.
        target: ``[G, B]`` float64, the mean largest probability wanted.
        prior: ``[G, B, K]`` float64, the mean probability wanted of each class; positive, sums of 1.
        origin: ``[V, B, n, K]`` float32.
        groups: G numbers of consecutive views that are fitted together; their sum is V.
        floor: least probability, 0..1.
        root: 3 for cube roots.
        clip: length of a residual from which it counts hardly more; ``math.inf``: residuals as they are.
        backend: ``cpu``, ``scalar``, ``avx2``, ``avx512``, ``triton``, ``reference``; left out, the fastest
            that applies.

    Returns:
        ``[M, V, B, n, K]`` contiguous; float32, or float64 for float64. A model's group and block that has
        NaN is NaN. Not differentiable. A model's features depend on no other model's answers.

    Raises:
        InputError: an argument breaks the above.
    """
    _check_values(target, prior)
    out: Tensor = _OP.call(
        answers, target, prior, origin, list(groups), float(floor), float(root), float(clip), backend
    )
    return out


def _check_values(target: Tensor, prior: Tensor) -> None:
    """What :func:`_check` cannot see: a fake tensor has no values."""
    if torch.compiler.is_compiling() or isinstance(prior, FakeTensor) or isinstance(target, FakeTensor):
        return
    if prior.device.type != "cpu":  # a wait for the device, for what was checked on the host
        return
    for name, tensor in (("target", target), ("prior", prior)):
        low = float(tensor.min()) if tensor.numel() else 1.0  # NaN where there is one
        _args.need(low > 0, NAME, name, "of positive numbers", low)


def _check(
    answers: Tensor, target: Tensor, prior: Tensor, origin: Tensor, groups: list[int], *rest: float
) -> None:
    _args.need_tensor(NAME, "answers", answers, "M, V, B, n, K")
    _, views, blocks, _, classes = answers.shape
    _args.need(classes >= 1, NAME, "answers", "of at least one class, [M, V, B, n, K >= 1]", answers)
    whole = sum(groups) == views and all(g >= 1 for g in groups)
    _args.need(whole, NAME, "groups", f"positive, of {views} views together", groups)
    _args.need_like(NAME, "target", target, (len(groups), blocks), torch.float64, answers)
    _args.need_like(NAME, "prior", prior, (len(groups), blocks, classes), torch.float64, answers)
    _args.need_like(NAME, "origin", origin, tuple(answers.shape[1:]), torch.float32, answers)
    floor, root, clip = rest
    _args.need(0 <= floor <= 1, NAME, "floor", "a probability", floor)
    for name, value in (("root", root), ("clip", clip)):
        _args.need(value > 0, NAME, name, "positive", value)


def _fake(answers: Tensor, *_: object) -> Tensor:
    """An unwritten result of the right shape."""
    dtype = torch.float64 if answers.dtype == torch.float64 else torch.float32
    return answers.new_empty(answers.shape, dtype=dtype)


def reference(
    answers: Tensor, target: Tensor, prior: Tensor, origin: Tensor, groups: list[int], *rest: float
) -> Tensor:
    """The op in float64 and plain torch; any device."""
    (floor, root, clip), out = rest, _fake(answers)
    bounds = itertools.pairwise([0, *itertools.accumulate(groups)])
    for (first, end), wanted, balance in zip(bounds, target, prior, strict=True):
        part = answers[:, first:end].double().transpose(1, 2)  # [M,B,v,n,K]
        found = _rescaled(part.flatten(2, 3), wanted, balance).view(part.shape).transpose(1, 2)
        residual = found.clamp(min=floor) ** (1.0 / root) - origin[first:end]
        if not math.isinf(clip):
            residual = residual / (residual.square().sum(-1, keepdim=True) + clip**2).sqrt()
        out[:, first:end] = residual.masked_fill((answers[:, first:end] == 0).all(-1, keepdim=True), 0.0)
    return out


def _rescaled(p: Tensor, target: Tensor, prior: Tensor) -> Tensor:
    """Probabilities float64 ``[M,B,N,K]`` at a confidence ``[B]`` and a class balance ``[B,K]``."""
    answered = (p != 0).any(-1)
    rows = answered.sum(-1, keepdim=True).clamp(min=1).double()  # [M,B,1]
    weight = answered.double()
    logs = p.clamp(min=LEAST).log()
    classes, wanted = p.shape[-1], target[:, None]
    t, b = torch.ones_like(rows), torch.zeros_like(prior).expand(len(p), *prior.shape)
    for _ in range(STEPS):
        for _ in range(2):
            bent = t[..., None] * logs + b[:, :, None]
            found = bent.softmax(-1)
            high, top = found.amax(-1), bent.argmax(-1, keepdim=True)
            away = logs.gather(-1, top)[..., 0] - (found * logs).sum(-1)
            slope = t * (weight * high * away).sum(-1, keepdim=True) / rows  # of the mean confidence in log t
            step = (wanted - (weight * high).sum(-1, keepdim=True) / rows) / slope.clamp(min=FLAT)
            t = (t * step.clamp(-LARGEST_STEP, LARGEST_STEP).exp()).clamp(*RANGE)
        mass = (weight[..., None] * (t[..., None] * logs + b[:, :, None]).softmax(-1)).sum(2)
        # one uniform row is added on both sides: a step of few rows stays short
        b = b + ((rows * prior + 1 / classes) / (mass + 1 / classes)).log()
        b = (b - b.mean(-1, keepdim=True)).clamp(-BIAS, BIAS)
    return (t[..., None] * logs + b[:, :, None]).softmax(-1)


def _native_run(
    level: int,
    answers: Tensor,
    target: Tensor,
    prior: Tensor,
    origin: Tensor,
    groups: list[int],
    *rest: float,
) -> Tensor:
    source = answers.contiguous()
    out = torch.empty(source.shape, dtype=torch.float32, device="cpu")
    sizes = torch.tensor(groups, dtype=torch.int64, device="cpu")
    held = (source, target.contiguous(), prior.contiguous(), origin.contiguous(), sizes, out)
    _native.cpu().features(
        *(t.data_ptr() for t in held),
        *source.shape,
        len(groups),
        *(STEPS, LEAST, *RANGE, BIAS, *rest),
        torch.get_num_threads(),
        level,
    )
    return out


def _native_refuses(answers: Tensor, *_: object) -> str | None:
    on_host = answers.device.type == "cpu" and answers.dtype == torch.float32
    return None if on_host else "float32 on the CPU"


def _triton_run(
    answers: Tensor, target: Tensor, prior: Tensor, origin: Tensor, groups: list[int], *rest: float
) -> Tensor:
    out = _fake(answers)
    given = (t.contiguous() for t in (answers, target, prior, origin))
    _triton.kernels(NAME).features(*given, groups, rest, (STEPS, LEAST, *RANGE, BIAS), out)
    return out


def _triton_refuses(answers: Tensor, *_: object) -> str | None:
    if answers.dtype != torch.float32:
        return "float32"
    return None if answers.shape[-1] <= MOST_CLASSES else f"at most {MOST_CLASSES} classes"


MOST_CLASSES = 128  # that a row of the kernel's tiles holds; answers are cut to 33 (method/fingerprint.py)

_OP = define(
    NAME,
    "Tensor answers, Tensor target, Tensor prior, Tensor origin, int[] groups, "
    "float floor, float root, float clip -> Tensor",
    check=_check,
    fake=_fake,
    backends=[
        *native_backends(_native_run, _native_refuses, ("scalar", "avx2", "avx512")),
        _triton.backend(_triton_run, _triton_refuses),
        Backend("reference", reference),
    ],
)
