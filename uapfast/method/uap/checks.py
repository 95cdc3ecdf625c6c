"""What ``universal_perturbation`` refuses, before any work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from uapfast.config import check
from uapfast.errors import DataError, InputError, ModelError
from uapfast.images import check_images, floats
from uapfast.method.uap.common import WHERE, grid_eps
from uapfast.models.model import Model

LEAST_IMAGES = 8


@dataclass(frozen=True)
class Arguments:
    """The plain arguments of ``universal_perturbation``, as given."""

    eps: float
    norm: str
    method: str
    fooling: float
    min_fooling: float
    max_passes: int | None
    batch_size: int | None
    holdout: float
    wire_safe: bool
    top_k: int
    overshoot: float
    target: int | Sequence[int | None] | None
    count: int
    seed: int
    has_models: bool
    has_move: bool
    has_spare: bool
    form: str
    graph: bool
    precision: str

    def targets(self, classes: int) -> tuple[int | None, ...]:
        """One target class or None per perturbation; raises ``InputError`` for a class that is not there."""
        given = self.target
        if given is None:
            return (None,) * self.count
        each = (given,) * self.count if isinstance(given, int) else tuple(given)
        check(
            len(each) == self.count, WHERE, "target", f"one class or {self.count}, one per count", list(each)
        )
        for t in each:
            good = t is None or (_is_whole(t) and 0 <= t < classes)
            check(good, WHERE, "target", f"a class in 0..{classes - 1}", repr(t))
        return each


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_arguments(a: Arguments) -> None:
    """Raise ``InputError`` for the first argument that breaks its contract."""

    def need(ok: bool, name: str, rule: str) -> None:
        check(ok, WHERE, name, rule, repr(getattr(a, name)))

    need(_is_number(a.eps) and a.eps > 0, "eps", "a finite number > 0")
    need(a.norm in ("linf", "l2"), "norm", "linf or l2")
    need(a.method in ("deepfool", "margin", "contrastive"), "method", "deepfool, margin or contrastive")
    need(_is_number(a.fooling) and 0 < a.fooling <= 1, "fooling", "a rate in 0..1, > 0")
    need(_is_number(a.min_fooling) and 0 <= a.min_fooling <= 1, "min_fooling", "a rate in 0..1")
    need(_is_number(a.holdout) and 0 < a.holdout < 1, "holdout", "a share in 0..1, neither 0 nor 1")
    need(_is_number(a.overshoot) and a.overshoot >= 0, "overshoot", "a finite number >= 0")
    for name, least in (("top_k", 2), ("count", 1), ("seed", 0)):
        need(_is_whole(getattr(a, name)) and getattr(a, name) >= least, name, f"a whole number >= {least}")
    for name in ("max_passes", "batch_size"):
        value = getattr(a, name)
        need(value is None or (_is_whole(value) and value >= 1), name, "None or a whole number >= 1")
    forms = ("auto", "loop", "alone", "streams", "stacked")
    need(a.form in forms, "form", "one of " + ", ".join(forms))
    need(a.precision in ("float32", "bf16"), "precision", "float32 or bf16")
    if a.method != "margin":
        need(a.form in ("auto", "loop"), "form", "auto or loop unless method is margin")
    if a.method != "margin" or a.form == "loop":
        need(a.precision == "float32", "precision", "float32 unless method is margin and form is not loop")
    if a.wire_safe:
        need(grid_eps(a.eps) > 0, "eps", "at least 1/255 with wire_safe")
    if a.method == "contrastive":
        check(not a.has_models, WHERE, "models", "None with contrastive (one lineage a call)", "given")
    else:
        need(a.target is None, "target", "None unless method is contrastive")
        given = "move" if a.has_move else "spare"
        check(not (a.has_move or a.has_spare), WHERE, given, "None unless method is contrastive", "given")


def to_images(images: Any) -> Tensor:
    """float32 (or float64, if given so) ``[N,C,H,W]`` in 0..1; raises ``DataError``."""
    x = check_images(images, WHERE)
    if len(x) < LEAST_IMAGES:
        raise DataError(WHERE, "images", f"at least {LEAST_IMAGES} images", len(x))
    return x if x.dtype == torch.float64 else floats(x)


def white_box(model: Any, name: str) -> nn.Module:
    """The module in ``model``; raises ``ModelError`` for anything without gradients."""
    if isinstance(model, Model):
        if model.module is None:
            raise ModelError(WHERE, name, "white-box (an nn.Module)", f"the callable {model.name}")
        return model.module
    if not isinstance(model, nn.Module):
        raise ModelError(WHERE, name, "an nn.Module or a Model of one", type(model).__name__)
    return model


def modules_of(
    model: Any,
    models: Sequence[Any] | None,
    move: Sequence[Any] | None,
    spare: Sequence[Any] | None,
    method: str,
) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
    """(victims, others to move, those to spare); raises ``InputError``."""
    movers = [white_box(m, "move") for m in move or ()]
    spared = [white_box(m, "spare") for m in spare or ()]
    if model is not None and models is not None:
        raise InputError(WHERE, "model", "left out where models are given", "both")
    if models is not None:
        if len(models) == 0:
            raise InputError(WHERE, "models", "at least one model", 0)
        return [white_box(m, "models") for m in models], [], []
    if model is None and method == "contrastive" and movers:
        model = movers[0]
    if model is None:
        raise InputError(WHERE, "model", "an nn.Module (or give models)", None)
    victim = white_box(model, "model")
    both = {id(m) for m in spared} & {id(m) for m in [victim, *movers]}
    if both:
        raise InputError(WHERE, "spare", "disjoint from model and move", f"{len(both)} model(s) in both")
    return [victim], [m for m in movers if m is not victim], spared
