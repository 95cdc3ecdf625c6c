"""What is done to a victim, for suspects whose truth is known (demo, benchmarks, tests).

Every function returns a new module and leaves the given one as it was. Modules take images float32
``[N,C,H,W]`` in 0..1 and return logits ``[N,K]``. Nothing here is used to make or to read a reference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uapfast.config import check

Layers = Literal["all", "last"]
LabelKind = Literal["soft", "hard"]
TrainModel = Callable[[nn.Module, Tensor, Tensor, int], Any]
"""``(model, images, labels, seed) -> model``; labels int64 ``[N]``, or probabilities ``[N,K]``."""

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _copy(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).eval().requires_grad_(False)


def _weights(module: nn.Module) -> list[Tensor]:
    """Weights of linear and convolution layers: what pruning and quantisation touch."""
    return [m.weight for m in module.modules() if isinstance(m, WEIGHTED)]


def prune(module: nn.Module, share: float) -> nn.Module:
    """Set the smallest ``share`` (in 0..1) of all weights to 0, over the whole network."""
    check(0 <= share < 1, "prune", "share", "in [0, 1)", share)
    out = _copy(module)
    weights = _weights(out)
    sizes = torch.cat([w.detach().abs().flatten() for w in weights])
    count = round(share * len(sizes))
    if count:
        limit = sizes.kthvalue(count).values
        for w in weights:
            w.copy_(torch.where(w.abs() <= limit, torch.zeros_like(w), w))
    return out


def quantise(module: nn.Module, bits: int) -> nn.Module:
    """Round weights to ``bits`` (2..16), symmetric, one scale for each output channel; stored as float."""
    check(2 <= bits <= 16, "quantise", "bits", "in 2..16", bits)
    out = _copy(module)
    top = 2 ** (bits - 1) - 1
    for w in _weights(out):
        rows = w.flatten(1)
        step = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny) / top
        w.copy_(((rows / step).round().clamp(-top, top) * step).view_as(w))
    return out


def add_noise(module: nn.Module, scale: float, seed: int) -> nn.Module:
    """Add Gaussian noise of ``scale`` (>= 0) times the standard deviation of each weight tensor."""
    check(scale >= 0, "add_noise", "scale", ">= 0", scale)
    out = _copy(module)
    generator = torch.Generator().manual_seed(seed)
    for w in _weights(out):
        noise = torch.randn(w.shape, generator=generator, dtype=torch.float32)
        w.add_(noise.to(w) * (scale * w.std(correction=0)))
    return out


def fine_tune(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    layers: Layers = "all",
    redraw: bool = True,
    epochs: int = 3,
    lr: float = 1e-3,
    batch: int = 128,
    seed: int = 0,
) -> nn.Module:
    """Train a copy further on the thief's images.

    Args:
        module: the victim.
        images: float32 ``[N,C,H,W]`` in 0..1.
        labels: int64 ``[N]``.
        layers: ``all``, or ``last``: the last linear or convolution layer is trained alone (batch
            statistics stay those of the victim).
        redraw: ``last`` only: draw that layer anew first (retraining) instead of going on from it.
        epochs: passes over the images.
        lr: of Adam.
        batch: images a step.
        seed: of the new layer and the order.
    """
    check(layers in ("all", "last"), "fine_tune", "layers", "all or last", repr(layers))
    check(len(images) == len(labels) > 0, "fine_tune", "labels", f"[{len(images)}], not empty", len(labels))
    out = _copy(module)
    device = next(out.parameters()).device
    images, labels = images.to(device), labels.to(device)
    generator = torch.Generator().manual_seed(seed)
    if layers == "last":
        last = [m for m in out.modules() if isinstance(m, WEIGHTED)][-1].requires_grad_(True)
        if redraw:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                last.reset_parameters()
    else:
        out.requires_grad_(True).train()
    optimiser = torch.optim.Adam([p for p in out.parameters() if p.requires_grad], lr=lr)
    with torch.enable_grad():
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=generator).to(device)
            for start in range(0, len(order), batch):
                index = order[start : start + batch]
                if out.training and len(index) < 2:  # batch norm cannot normalise a single image
                    continue
                loss = F.cross_entropy(out(images[index]), labels[index])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return out.eval().requires_grad_(False)


def extract(
    ask: Callable[[Tensor], Tensor],
    student: nn.Module,
    images: Tensor,
    *,
    labels: LabelKind = "soft",
    recipe: TrainModel,
    seed: int = 0,
) -> nn.Module:
    """Train ``student`` on the victim's answers to the thief's images (Papernot et al. 1602.02697).

    Args:
        ask: the victim as the thief sees it: images to probabilities ``[N,K]``.
        student: a network with fresh weights; it is trained in place.
        images: the thief's, float32 ``[N,C,H,W]`` in 0..1.
        labels: ``soft``: learn the probabilities; ``hard``: the top class only.
        recipe: trains the student (:data:`TrainModel`).
        seed: given to the recipe.
    """
    check(labels in ("soft", "hard"), "extract", "labels", "soft or hard", repr(labels))
    with torch.no_grad():
        answers = ask(images)
    fits = answers.ndim == 2 and len(answers) == len(images)
    check(fits, "extract", "ask", f"one that answers [{len(images)},K]", list(answers.shape))
    trained = recipe(student, images, answers if labels == "soft" else answers.argmax(1), seed)
    result: nn.Module = trained if isinstance(trained, nn.Module) else student
    return result.eval().requires_grad_(False)


def adversarial_training(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = 0.05,
    epochs: int = 2,
    lr: float = 1e-3,
    batch: int = 128,
    seed: int = 0,
) -> nn.Module:
    """Train a copy further on clean and single-step adversarial images (FGSM with a random start).

    Goodfellow et al., ICLR 2015; the random start of Wong et al., "Fast is better than free", ICLR 2020.

    Args:
        module: the victim.
        images: float32 ``[N,C,H,W]`` in 0..1.
        labels: int64 ``[N]``.
        eps: Linf radius in input units.
        epochs: passes over the images.
        lr: of Adam.
        batch: images a step.
        seed: of the order and the random starts.
    """
    check(0 < eps < 1, "adversarial_training", "eps", "in (0, 1)", eps)
    fits = len(images) == len(labels) > 0
    check(fits, "adversarial_training", "labels", f"[{len(images)}], not empty", len(labels))
    out = _copy(module).requires_grad_(True).train()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(out.parameters(), lr=lr)
    with torch.enable_grad():
        for _ in range(epochs):
            for index in torch.split(torch.randperm(len(images), generator=generator), batch):
                if len(index) < 2:  # batch norm cannot normalise a single image
                    continue
                x, y = images[index], labels[index]
                noise = (torch.rand(x.shape, generator=generator) * 2 - 1) * eps
                moved = (x + noise).clamp(0, 1).requires_grad_(True)
                (slope,) = torch.autograd.grad(F.cross_entropy(out(moved), y), moved)
                step = (noise + 1.25 * eps * slope.sign()).clamp(-eps, eps)
                hard = (x + step).clamp(0, 1).detach()
                loss = F.cross_entropy(out(x), y) + F.cross_entropy(out(hard), y)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return out.eval().requires_grad_(False)


def jacobian_images(
    ask: Callable[[Tensor], Tensor],
    fresh: Callable[[], nn.Module],
    images: Tensor,
    *,
    recipe: TrainModel,
    rounds: int = 3,
    step: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """Few images, doubled each round along the student's Jacobian (Papernot et al. 1602.02697, section 4.2).

    Args:
        ask: the victim as the thief sees it: images to probabilities ``[N,K]``.
        fresh: makes a new student.
        images: the thief's seed images, float32 ``[N,C,H,W]`` in 0..1.
        recipe: trains a student on labels of the victim (:data:`TrainModel`).
        rounds: doublings; the result has ``N * 2**rounds`` images.
        step: lambda of the paper, in input units.
        seed: given to the recipe.
    """
    check(rounds >= 0 and len(images) > 0, "jacobian_images", "rounds", ">= 0, with images", rounds)
    for r in range(rounds):
        labels = ask(images).argmax(1)
        student = recipe(fresh(), images, labels, seed + r).eval()
        with torch.enable_grad():
            x = images.clone().requires_grad_(True)
            chosen = student(x).gather(1, labels[:, None]).sum()
            (slope,) = torch.autograd.grad(chosen, x)
        # alternate the sign, so that the doublings do not run out of the data's range one way
        moved = images + (step if r % 2 == 0 else -step) * slope.sign()
        images = torch.cat([images, moved.clamp(0, 1)])
    return images
