"""Universal adversarial perturbations (UAPs), batched over samples, models and seeds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from uapfast.config import Norm, Precision, UapForm, UapMethod
from uapfast.errors import FoolingRateError, FoolingRateWarning, ModelError
from uapfast.method.uap.checks import Arguments, check_arguments, modules_of, to_images
from uapfast.method.uap.common import (
    WHERE,
    Counter,
    Query,
    Victim,
    device_of,
    frozen,
    grid_eps,
    sizes,
    to_grid_in_ball,
)
from uapfast.method.uap.contrastive import ContrastSettings, run_contrastive
from uapfast.method.uap.deepfool import DeepFoolSettings, run_deepfool
from uapfast.method.uap.margin import MarginSettings, run_margin
from uapfast.method.uap.resident import UapJob
from uapfast.method.uap.stopping import check_classes, make_runs
from uapfast.method.uap.together import make_together, uap_form
from uapfast.models.batches import most_at_once
from uapfast.models.model import Duplicate
from uapfast.types import UniversalPerturbation

__all__ = ["complain", "universal_perturbation"]

BATCH: dict[str, int] = {"deepfool": 32, "margin": 64, "contrastive": 64}
PASSES: dict[str, int] = {"deepfool": 10, "margin": 20}
CONTRAST_STEPS = 60
TINY = 1e-3  # share of the ball's radius below which a perturbation is none


@dataclass
class _Made:
    """One perturbation, ready for the report."""

    v: Tensor
    rate: float
    noise: float
    size: float
    passes: int


def universal_perturbation(
    model: Any = None,
    images: Any = None,
    *,
    models: Sequence[Any] | None = None,
    eps: float,
    norm: Norm = "linf",
    method: UapMethod = "margin",
    fooling: float = 0.8,
    min_fooling: float = 0.0,
    strict: bool = False,
    max_passes: int | None = None,
    batch_size: int | None = None,
    holdout: float = 0.25,
    wire_safe: bool = False,
    top_k: int = 10,
    overshoot: float = 0.02,
    target: int | Sequence[int | None] | None = None,
    move: Sequence[Any] | None = None,
    spare: Sequence[Any] | None = None,
    count: int = 1,
    seed: int = 0,
    device: str | torch.device | None = None,
    form: UapForm = "auto",
    graph: bool = True,
    precision: Precision = "float32",
) -> UniversalPerturbation:
    """Make a universal perturbation of a model, or a batch of them.

    The model is always queried at clamp(x + v, 0, 1); v itself is never clipped to the image range. Meanwhile
    the model's parameters are frozen; afterwards its modes are restored (do not train it at the same time).

    Args:
        model: an ``nn.Module`` (images in 0..1 to logits ``[B,K]``), or a ``Model`` that wraps one.
        images: ``[N >= 8,C,H,W]`` float in 0..1 or uint8, torch or numpy; labels are not needed.
        models: several models instead of ``model``: one v for each, the same as the model would get alone (up
            to rounding).
        eps: radius of the ball of v, input units; finite, > 0.
        norm: ``linf`` or ``l2``.
        method: ``margin`` (mini-batch margin hinge, Adam; fast), ``deepfool`` (Moosavi-Dezfooli, the
            paper's; ``batch_size=1`` is the published algorithm, more is faster) or ``contrastive``.
        fooling: held-out fooling rate at which to stop; ``contrastive`` makes all its passes.
        min_fooling: warn (``FoolingRateWarning``) below this held-out rate.
        strict: raise ``FoolingRateError`` below ``min_fooling``.
        max_passes: most passes over the images (default: margin 20, deepfool 10, contrastive as many as
            make 60 steps).
        batch_size: images per update of v (default: margin and contrastive 64, deepfool 32; fewer where
            images are so large that more would not fit, :func:`uapfast.models.batches.most_at_once`).
        holdout: share of the images on which fooling is measured and nothing is trained; at most 1000 images.
            They also decide when to stop, so the reported rate is slightly too high.
        wire_safe: keep v on the 1/255 grid, inside the ball, so that it survives 8-bit upload.
        top_k: ``deepfool``: classes considered per sample.
        overshoot: ``deepfool``: share added to each sample's total step.
        target: ``contrastive``: class to which answers are moved, one for all or one per ``count``; None: any
            other.
        move: ``contrastive``: models whose answers are to change, besides ``model``; the first is the victim
            if ``model`` is left out.
        spare: ``contrastive``: models whose answers are not to change.
        count: perturbations per model, made with the seeds ``seed``, ``seed + 1``, ...
        seed: decides split, order and signs; the same seed, model and images give the same v.
        device: device to which a copy of the models is moved; None: where the model is.
        form: ``margin``: how steps are made. ``loop``: from the host, model after model. The others keep
            everything on the device: ``alone`` model after model, ``streams`` side by side, ``stacked`` the
            weights of models of one architecture as one network's. ``auto``: ``loop`` on a CPU; on a GPU by
            size and kind of the networks (never by the clock, which would not repeat).
        graph: record a step that is on the device as a CUDA graph; where that cannot be, it runs as it is.
        precision: ``margin``, of the networks in steps that are on the device: ``float32`` (convolutions in
            TF32 if torch is set so, its default) or ``bf16`` (autocast). v and the reported rates are
            float32 in any case.

    Returns:
        ``v`` float32 ``[C,H,W]`` on the model's device, and plain numbers; with ``models`` or ``count``
        > 1 ``[P,C,H,W]`` (model by model, seed by seed) and tuples of length P.

    Gradients are turned on within, whatever the caller's mode (``no_grad``, ``inference_mode``).

    Raises:
        InputError: an argument breaks the above (``ModelError`` for a model's, also if its answers have no
            gradient; ``DataError`` for images).
        FoolingRateError: with ``strict``.

    Example:
        >>> u = uapfast.universal_perturbation(model, images, eps=0.3, max_passes=1)
        >>> tuple(u.v.shape), bool(u.v.abs().max() <= 0.3)
        ((1, 8, 8), True)
        >>> 0 <= u.random_sign_rate <= 1  # the share that random signs of the same size change
        True
    """
    batched = models is not None or count != 1
    asked = Arguments(
        eps, norm, method, fooling, min_fooling, max_passes, batch_size, holdout, wire_safe, top_k, overshoot,
        target, count, seed, models is not None, move is not None, spare is not None, form, graph, precision,
    )  # fmt: skip
    check_arguments(asked)
    x = to_images(images)
    victims, movers, spared = modules_of(model, models, move, spare, method)
    # whoever calls may have turned gradients off; what was made in inference mode has none until it is copied
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone() if x.is_inference() else x
        victims, movers, spared = ([_placed(m, device) for m in part] for part in (victims, movers, spared))
        with frozen([*victims, *movers, *spared]):
            jobs = _jobs(victims, x, asked)
            made = _made_of(jobs, movers, spared, asked)
    _warn_of_none(made, eps)
    complain(min(m.rate for m in made), min_fooling, strict)
    return _result(made, batched, asked, _total(jobs))


def _placed(module: nn.Module, device: str | torch.device | None) -> nn.Module:
    here = device is None or device_of(module) == torch.device(device)
    if here and not any(t.is_inference() for t in [*module.parameters(), *module.buffers()]):
        return module
    made = Duplicate(module).module
    return made if here else made.to(device)


def _jobs(modules: list[nn.Module], x: Tensor, a: Arguments) -> list[tuple[UapJob, int]]:
    """The models with their images and seeds, and how many classes each has; images once a device."""
    placed: dict[tuple[torch.device, torch.dtype], Tensor] = {}
    jobs = []
    for module in modules:
        counter = Counter()
        query = Query(module, counter)
        key = query.device, query.dtype
        placed[key] = placed[key] if key in placed else x.to(*key)
        victim = Victim(module, placed[key], counter)
        runs = make_runs(victim, [a.seed + i for i in range(a.count)], a.holdout, a.fooling)
        classes = check_classes(victim, runs[0])
        query.check_gradient(victim.images[:1])
        jobs.append((UapJob(victim, runs), classes))
    return jobs


def _made_of(
    jobs: list[tuple[UapJob, int]], move: list[nn.Module], spare: list[nn.Module], a: Arguments
) -> list[_Made]:
    """All perturbations, model by model."""
    # On the grid only whole steps count: the ball of the work is the one of the result.
    eps = grid_eps(a.eps) if a.wire_safe and a.norm == "linf" else a.eps
    form = uap_form([job for job, _ in jobs], a)
    first = jobs[0][0].runs[0]
    images = jobs[0][0].victim.images
    usual = min(BATCH[a.method], most_at_once(images.shape, images.device))
    batch = min(a.batch_size or usual, len(first.train))
    if a.method == "deepfool":
        passes = a.max_passes or PASSES["deepfool"]
        settings = DeepFoolSettings(eps, a.norm, passes, batch, a.top_k, a.overshoot)
        victims, runs = [job.victim for job, _ in jobs], [job.runs for job, _ in jobs]
        found = run_deepfool(victims, runs, [k for _, k in jobs], settings)
    elif form == "loop":
        found = [_make(job, move, spare, eps, batch, k, a) for job, k in jobs]
    else:
        found = make_together([job for job, _ in jobs], _margin(eps, batch, a), form, a)
    return [m for (job, _), v in zip(jobs, found, strict=True) for m in _report(job, v, a)]


def _report(job: UapJob, v: Tensor, a: Arguments) -> list[_Made]:
    """What ``v`` ``[P,C,H,W]`` of one model comes to."""
    victim = job.victim
    if a.wire_safe:
        v = to_grid_in_ball(v, a.eps, a.norm)
    if not bool(torch.isfinite(v).all()):
        raise ModelError(WHERE, "model", "one with finite gradients", "NaN or Inf in the perturbation")
    made = []
    for run, row, size in zip(job.runs, v, sizes(v, a.norm), strict=True):
        rate = run.rate
        # a check that failed may have seen only a part
        if rate is None or rate < a.fooling or a.wire_safe or a.precision != "float32":
            rate = victim.fooling_rate(run.held, row)
        noise = victim.random_sign_rate(run.held, size, a.norm, run.seed)
        made.append(_Made(row.to(torch.float32), rate, noise, size, run.passes))
    return made


def _margin(eps: float, batch: int, a: Arguments) -> MarginSettings:
    return MarginSettings(eps, a.norm, a.max_passes or PASSES["margin"], batch)


def _total(jobs: list[tuple[UapJob, int]]) -> Counter:
    counters = [job.victim.query.counter for job, _ in jobs]
    return Counter(sum(c.forwards for c in counters), sum(c.backwards for c in counters))


def _make(
    job: UapJob,
    move: list[nn.Module],
    spare: list[nn.Module],
    eps: float,
    batch: int,
    classes: int,
    a: Arguments,
) -> Tensor:
    victim, runs = job.victim, job.runs
    if a.method == "margin":
        return run_margin(victim, runs, _margin(eps, batch, a))
    targets = a.targets(classes)
    steps_a_pass = -(-len(runs[0].train) // batch)
    passes = a.max_passes or -(-CONTRAST_STEPS // steps_a_pass)
    settings = ContrastSettings(eps, a.norm, passes, batch, targets)
    counter = victim.query.counter
    movers = [victim.query, *(Query(m, counter) for m in move)]
    spared = [Query(m, counter) for m in spare]
    for query in movers[1:] + spared:
        k = query.checked(victim.images[:2]).shape[1]
        if k != classes:
            raise ModelError(WHERE, "move and spare", f"models of {classes} classes, as the victim", k)
    return run_contrastive(victim, movers, spared, runs, settings)


def _warn_of_none(made: list[_Made], eps: float) -> None:
    """Warn where nothing was found because there is nothing to go by."""
    if any(m.rate == 0 and m.size <= TINY * eps for m in made):
        warnings.warn(
            f"{WHERE}: model must be one whose answers change a little with the images, got no gradient "
            "(rounded outputs, or saturated probabilities: give logits), so v = 0 and it fools nobody",
            FoolingRateWarning,
            stacklevel=3,
        )


def complain(low: float, min_fooling: float, strict: bool) -> None:
    """Raise (``strict``) or warn if the least fooling rate is below ``min_fooling``."""
    if low >= min_fooling:
        return
    if strict:
        rule = f"at least min_fooling = {min_fooling:g} on held-out points"
        raise FoolingRateError(WHERE, "fooling rate", rule, f"{low:.3f}; try a larger eps or max_passes")
    warnings.warn(
        f"{WHERE}: fooling rate must be at least min_fooling = {min_fooling:g} on held-out points, "
        f"got {low:.3f}",
        FoolingRateWarning,
        stacklevel=3,
    )


def _result(made: list[_Made], batched: bool, a: Arguments, counter: Counter) -> UniversalPerturbation:
    def column(name: Literal["rate", "noise", "size", "passes"]) -> Any:
        values = tuple(getattr(m, name) for m in made)
        return values if batched else values[0]

    device = made[0].v.device  # models may sit on several; the batch is where the first one is
    return UniversalPerturbation(
        v=torch.stack([m.v.to(device) for m in made]) if batched else made[0].v,
        eps=float(a.eps),
        norm=a.norm,
        method=a.method,
        fooling_rate=column("rate"),
        random_sign_rate=column("noise"),
        size=column("size"),
        passes=column("passes"),
        forwards=counter.forwards,
        backwards=counter.backwards,
        seed=a.seed,
    )
