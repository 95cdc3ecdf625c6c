"""The plain loop that people write (SGD-UAP, Shafahi et al., AAAI 2020): clamped loss, sign steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BATCH, CLAMP = 64, 10.0


def fooled(model: nn.Module, images: Tensor, v: Tensor) -> float:
    """Share of ``images`` whose label changes under ``v`` (clamped to 0..1)."""
    with torch.no_grad():
        before, after = model(images).argmax(1), model((images + v).clamp(0, 1)).argmax(1)
    return float((before != after).double().mean())


def sgd_uap(
    model: nn.Module,
    images: Tensor,
    held: Tensor,
    *,
    eps: float,
    fooling: float,
    passes: int = 40,
    seed: int = 0,
) -> Tensor:
    """Sign steps of eps/10 on the mean gradient, until ``fooling`` on ``held`` or ``passes`` are done."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        labels = model(images).argmax(1)
    v = torch.zeros_like(images[0])
    for _ in range(passes):
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):
            v.requires_grad_(True)
            loss = nn.functional.cross_entropy(
                model((images[rows] + v).clamp(0, 1)), labels[rows], reduction="none"
            )
            (gradient,) = torch.autograd.grad(loss.clamp(max=CLAMP).mean(), v)
            v = (v.detach() + eps / 10 * gradient.sign()).clamp(-eps, eps)
        if fooled(model, held, v) >= fooling:
            break
    return v
