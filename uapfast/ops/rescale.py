"""Answers brought to one confidence and one class balance, so that what is left can be compared."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from uapfast import _native
from uapfast.ops import _args
from uapfast.ops._registry import AUTO, Backend, define, native_backends

NAME = "rescale"
STEPS = 6  # alternations of temperature (two of Newton's steps) and biases
LEAST = 1e-30  # probability: its logarithm is finite
RANGE = (0.05, 20.0)  # inverse temperatures; answers without any spread would take an infinite one
BIAS = 5.0  # largest, either way
LARGEST_STEP = 0.7  # of the logarithm of the inverse temperature
FLAT = 1e-9  # slope below which there is none


def rescale(probabilities: Tensor, target: Tensor, prior: Tensor, *, backend: str = AUTO) -> Tensor:
    """Probabilities brought to a mean confidence and to class frequencies, by one temperature and biases.

    softmax(t log p + b) with t and b of each item, fitted by a few alternating steps so that the mean largest
    probability and the mean probability of each class are those wanted (bias-corrected temperature scaling:
    Alexandari et al., ICML 2020; here fitted to these figures, not to labels). Where no t in 0.05..20 reaches
    the target (answers without spread), the nearest.

    Args:
        probabilities: ``[L, N, K]`` floating, K >= 1, >= 0: L items of N rows.
        target: ``[L]`` float64, the mean largest probability wanted.
        prior: ``[L, K]`` float64, the mean probability wanted of each class; positive, sums of 1.
        backend: ``cpu``, ``scalar``, ``avx2``, ``avx512``, ``reference``; left out, the fastest that applies.

    Returns:
        ``[L, N, K]`` contiguous; float32, or float64 for float64. An item that has NaN is NaN. Not
        differentiable.

    Raises:
        InputError: an argument breaks the above.
    """
    _check_values(target, prior)
    out: Tensor = _OP.call(probabilities, target, prior, backend)
    return out


def _check_values(target: Tensor, prior: Tensor) -> None:
    """What :func:`_check` cannot see: a fake tensor has no values."""
    if torch.compiler.is_compiling() or isinstance(prior, FakeTensor) or isinstance(target, FakeTensor):
        return
    for name, tensor in (("target", target), ("prior", prior)):
        low = float(tensor.min()) if tensor.numel() else 1.0  # NaN where there is one
        _args.need(low > 0, NAME, name, "of positive numbers", low)


def _check(probabilities: Tensor, target: Tensor, prior: Tensor) -> None:
    _args.need_tensor(NAME, "probabilities", probabilities, "L, N, K")
    items, _, classes = probabilities.shape
    _args.need(classes >= 1, NAME, "probabilities", "of at least one class, [L, N, K >= 1]", probabilities)
    _args.need_tensor(NAME, "target", target, "L", (torch.float64,))
    _args.need(target.shape[0] == items, NAME, "target", f"[{items}], one an item", target)
    _args.need_tensor(NAME, "prior", prior, "L, K", (torch.float64,))
    _args.need(prior.shape == (items, classes), NAME, "prior", f"[{items}, {classes}]", prior)
    for name, tensor in (("target", target), ("prior", prior)):
        on = probabilities.device
        _args.need(tensor.device == on, NAME, name, f"on {on}, as probabilities", tensor)


def empty_result(probabilities: Tensor, target: Tensor, prior: Tensor) -> Tensor:
    """An unwritten result of the right shape."""
    dtype = torch.float64 if probabilities.dtype == torch.float64 else torch.float32
    return probabilities.new_empty(probabilities.shape, dtype=dtype)


def reference(probabilities: Tensor, target: Tensor, prior: Tensor) -> Tensor:
    """The op in float64 and plain torch; any device."""
    empty = empty_result(probabilities, target, prior)
    if not probabilities.numel():
        return empty
    logs = probabilities.double().clamp(min=LEAST).log()
    rows, classes = logs.shape[1:]
    wanted, prior = target[:, None], prior[:, None]
    t, b = torch.ones_like(wanted), torch.zeros_like(prior)
    for _ in range(STEPS):
        for _ in range(2):
            bent = t[..., None] * logs + b
            found = bent.softmax(-1)
            high, top = found.max(-1).values, bent.argmax(-1, keepdim=True)
            away = logs.gather(-1, top)[..., 0] - (found * logs).sum(-1)
            slope = t * (high * away).mean(-1, keepdim=True)  # of the mean confidence in log t
            step = (wanted - high.mean(-1, keepdim=True)) / slope.clamp(min=FLAT)
            t = (t * step.clamp(-LARGEST_STEP, LARGEST_STEP).exp()).clamp(*RANGE)
        mass = (t[..., None] * logs + b).softmax(-1).sum(1, keepdim=True)
        # one uniform row is added on both sides: a step of few rows stays short
        b = b + ((rows * prior + 1 / classes) / (mass + 1 / classes)).log()
        b = (b - b.mean(-1, keepdim=True)).clamp(-BIAS, BIAS)
    return (t[..., None] * logs + b).softmax(-1).to(empty.dtype)


def _native_run(level: int, probabilities: Tensor, target: Tensor, prior: Tensor) -> Tensor:
    source, target, prior = probabilities.contiguous(), target.contiguous(), prior.contiguous()
    out = torch.empty(source.shape, dtype=torch.float32, device="cpu")
    addresses = [t.data_ptr() for t in (source, target, prior, out)]
    limits = (STEPS, LEAST, *RANGE, BIAS)
    _native.cpu().rescale(*addresses, *source.shape, *limits, torch.get_num_threads(), level)
    return out


def _refuses(probabilities: Tensor, target: Tensor, prior: Tensor) -> str | None:
    on_host = probabilities.device.type == "cpu" and probabilities.dtype == torch.float32
    return None if on_host else "float32 on the CPU"


_OP = define(
    NAME,
    "Tensor probabilities, Tensor target, Tensor prior -> Tensor",
    check=_check,
    fake=empty_result,
    backends=[
        *native_backends(_native_run, _refuses, ("scalar", "avx2", "avx512")),
        Backend("reference", reference),
    ],
)
