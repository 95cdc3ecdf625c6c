"""What the UAP algorithms share: the frozen victim, fooling rates, the ball, the 1/255 grid."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from uapfast import ops
from uapfast.errors import InputError, ModelError
from uapfast.models.answers import unpack
from uapfast.models.batches import most_at_once

WHERE = "universal_perturbation"
EVALUATION_BATCH = 256
# A rate over 1000 points is known to +-2.5 % (95 %) at 0.8; more points cost more than they tell.
HOLDOUT_CAP = 1000
GRID = 255


@dataclass
class Counter:
    """Samples sent through the model, forward and backward."""

    forwards: int = 0
    backwards: int = 0


@contextlib.contextmanager
def frozen(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put ``modules`` in eval mode with no gradients to parameters; undo both at the end."""
    distinct = list({id(m): m for m in modules}.values())
    # a frozen TorchScript module has no mode
    modes = [(part, part.training) for m in distinct for part in m.modules() if hasattr(part, "training")]
    wants = [(p, p.requires_grad) for m in distinct for p in m.parameters()]
    try:
        for m in distinct:
            m.eval()
        for parameter, _ in wants:  # TorchScript has no requires_grad_ for all
            parameter.requires_grad_(False)
        yield
    finally:
        for part, training in modes:
            part.training = training
        for parameter, requires in wants:
            parameter.requires_grad_(requires)


def device_of(module: nn.Module) -> torch.device:
    """Where the first parameter or buffer lives; the CPU for a module without any."""
    for tensor in [*module.parameters(), *module.buffers()]:
        return tensor.device
    return torch.device("cpu")


def dtype_of(module: nn.Module) -> torch.dtype:
    """The floating type of the first floating parameter; float32 for a module without any."""
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


class Query:
    """A frozen white-box model, asked at points clamped to 0..1, every sample counted."""

    def __init__(self, module: nn.Module, counter: Counter) -> None:
        self.module, self.counter = module, counter
        self.device, self.model_dtype = device_of(module), dtype_of(module)
        # v is kept in float64 for a float64 model, else in float32 (half precision would round v away).
        self.dtype = torch.float64 if self.model_dtype == torch.float64 else torch.float32

    def logits(self, points: Tensor) -> Tensor:
        """``[B,K]`` logits at clamp(``points`` ``[B,C,H,W]``); differentiable in ``points``."""
        self.counter.forwards += len(points)
        out = unpack(self.module(points.clamp(0, 1).to(self.model_dtype)), WHERE, len(points))
        return out.to(self.dtype)

    def checked(self, points: Tensor) -> Tensor:
        """As :meth:`logits`, without gradients; raises ``ModelError`` for unusable answers."""
        with torch.no_grad():
            parts = []
            at_once = min(EVALUATION_BATCH, most_at_once(points.shape, self.device))
            for batch in torch.split(points, at_once):
                self.counter.forwards += len(batch)
                out = unpack(self.module(batch.clamp(0, 1).to(self.model_dtype)), WHERE, len(batch))
                parts.append(check_logits(out, len(batch)).to(self.dtype))
        return torch.cat(parts)

    def labels(self, points: Tensor) -> Tensor:
        """int64 ``[B]`` labels, checked."""
        return self.checked(points).argmax(1)

    def check_gradient(self, points: Tensor) -> None:
        """Raise ``ModelError`` if the answers cannot be differentiated in the images; not counted."""
        with torch.enable_grad():
            x = points.detach().clamp(0, 1).to(self.model_dtype).requires_grad_(True)
            out = unpack(self.module(x), WHERE, len(points))
            # some have a gradient in their weights and none in the images
            if not out.requires_grad or torch.autograd.grad(out.sum(), x, allow_unused=True)[0] is None:
                self._refuse()

    def _refuse(self) -> None:
        rule = "one whose answers have a gradient (no detach, no_grad or numpy on the way, not quantised)"
        raise ModelError(WHERE, "model", rule, "answers that are cut off from the images")


def check_logits(out: object, rows: int) -> Tensor:
    """``out`` if it is a finite ``[rows, K >= 2]`` tensor; raises ``ModelError`` otherwise."""
    if not isinstance(out, Tensor) or not out.is_floating_point():
        raise ModelError(WHERE, "model", "a module that returns a float tensor of logits", type(out).__name__)
    if out.ndim != 2 or len(out) != rows or out.shape[1] < 2:
        rule = f"a module that returns logits [{rows}, K >= 2] for {rows} images"
        raise ModelError(WHERE, "model", rule, list(out.shape))
    if not bool(torch.isfinite(out).all()):
        bad = int((~torch.isfinite(out)).sum())
        raise ModelError(WHERE, "model", "a module with finite outputs", f"{bad} NaN or Inf of {out.numel()}")
    return out


class Victim:
    """One model with the images; its labels of the clean images are asked for once, when needed."""

    def __init__(self, module: nn.Module, images: Tensor, counter: Counter) -> None:
        self.query = Query(module, counter)
        self.images = images.to(self.query.device, self.query.dtype)
        self._labels = torch.full((len(images),), -1, dtype=torch.int64, device=self.query.device)

    def clean(self, index: Tensor) -> Tensor:
        """Labels int64, the shape of ``index``, of the unperturbed images."""
        known = self._labels[index]
        if bool((known < 0).any()):
            missing = torch.unique(index[known < 0])
            self._labels[missing] = self.query.labels(self.images[missing])
            known = self._labels[index]
        return known

    def fooled(self, index: Tensor, v: Tensor) -> Tensor:
        """Bool ``[n]``: does ``v`` (``[C,H,W]``, or ``[n,C,H,W]``) change the label of ``images[index]``?"""
        return self.query.labels(self.images[index] + v) != self.clean(index)

    def fooling_rate(self, index: Tensor, v: Tensor, least: float | None = None) -> float:
        """Share of ``images[index]`` whose label changes under ``v``.

        With ``least``, stops after the first part of the points if ``least`` is out of reach (four
        standard errors), and returns the rate so far: a failed check then costs a fraction.
        """
        hits = seen = 0
        for part in torch.split(index, EVALUATION_BATCH // 2):
            hits += int(self.fooled(part, v).sum())
            seen += len(part)
            if least is not None and out_of_reach(hits, seen, least):
                break
        return hits / seen

    def random_sign_rate(self, index: Tensor, size: float, norm: str, seed: int) -> float:
        """Fooling rate of random-sign perturbations of the norm ``size``.

        Every point gets its own signs: the mean over perturbations at the price of one.
        """
        shape = (len(index), *self.images.shape[1:])
        generator = torch.Generator().manual_seed(mix(seed, -1))
        # one byte each: a thousand large images of int64 signs would be gigabytes, and go to the device
        signs = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1)
        height = size if norm == "linf" else size / math.sqrt(math.prod(shape[1:]))
        noise = (signs.to(self.images.device) * height).to(self.images)
        return float(self.fooled(index, noise).double().mean())


def out_of_reach(hits: int, seen: int, least: float) -> bool:
    """Whether ``least`` is hardly to be expected after ``hits`` of ``seen`` (four standard errors)."""
    return hits / seen < least - 2 / math.sqrt(seen)


def mix(seed: int, stream: int) -> int:
    """A seed of its own for every (seed, stream), so that streams do not repeat one another."""
    return (seed * 1_000_003 + stream * 7_919 + 12_345) % (2**63)


def visit_order(seed: int, number: int, count: int) -> Tensor:
    """int64 ``[count]``: the order in which pass ``number`` (0, 1, ...) visits the images."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(mix(seed, number + 1)))


def split(count: int, holdout: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (train, held out) of ``count`` images; at most ``HOLDOUT_CAP`` are held out."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mix(seed, 0)))
    held = min(max(2, round(count * holdout)), HOLDOUT_CAP, count - 2)
    return order[held:], order[:held]


def project(v: Tensor, eps: float, norm: str) -> Tensor:
    """``v`` ``[P,C,H,W]``, each onto its nearest point of the ball."""
    flat = ops.project_lp(v.detach().flatten(1), eps, math.inf if norm == "linf" else 2)
    return flat.view_as(v)


def sizes(v: Tensor, norm: str) -> list[float]:
    """Norm of each of ``v`` ``[P,C,H,W]``."""
    flat = v.detach().double().flatten(1)
    return (flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)).tolist()


def grid_eps(eps: float) -> float:
    """The largest multiple of 1/255 that is not above ``eps``."""
    # 1e-4 of a step: 8/255 computed in float32 must count as 8 steps.
    return math.floor(eps * GRID + 1e-4) / GRID


def to_grid_in_ball(v: Tensor, eps: float, norm: str) -> Tensor:
    """``v`` ``[P,C,H,W]`` inside the ball, on the 1/255 grid and still inside the ball.

    Linf: clipped to the largest grid radius, then to the nearest step. L2: to the nearest step;
    where that left the ball, entries that were rounded away from zero go back by one step, those
    with the largest rounding first, until v is inside.

    Raises:
        InputError: ``eps`` is below one step of the grid.
    """
    if grid_eps(eps) <= 0:
        raise InputError(WHERE, "eps", "at least 1/255 with wire_safe", eps)
    steps = v.detach().double() * GRID
    if norm == "linf":
        radius = grid_eps(eps) * GRID
        return (steps.clamp(-radius, radius).round() / GRID).to(v.dtype)
    rows = [_round_inside(row.flatten(), eps * GRID).view_as(row) for row in steps]
    return (torch.stack(rows) / GRID).to(v.dtype)


def _round_inside(steps: Tensor, radius: float) -> Tensor:
    """float64 ``[D]`` of L2 norm <= ``radius`` (to rounding): whole numbers, norm <= ``radius``."""
    size = steps.abs()
    whole = size.round()
    excess = float((whole**2).sum()) - (radius * (1 + 1e-6)) ** 2
    if excess > 0:
        up = whole - size  # > 0 where rounded away from zero; going back costs least where it is largest
        order = up.argsort(descending=True, stable=True)
        gain = ((2 * whole - 1) * (up > 0))[order].cumsum(0)
        needed = min(int((gain < excess).sum()) + 1, int((up > 0).sum()))
        whole[order[:needed]] -= 1
    return whole * steps.sign()
