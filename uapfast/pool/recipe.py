"""Training recipes: the sound default, and the owner's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from uapfast.config import check
from uapfast.data import Images
from uapfast.errors import InputError, ModelError
from uapfast.models.batches import most_at_once
from uapfast.models.userfile import load_function

LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.01
BATCH = 128


class Recipe(Protocol):
    """The owner's training: a new model in, the trained one out."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: int, **more: Path | None
    ) -> nn.Module:
        """Train ``model`` on float32 images in 0..1 ``[N,C,H,W]`` and int64 labels ``[N]``.

        With ``--branch`` it is handed ``checkpoint``, the file's path, and goes on from there: weights,
        optimiser, schedule, averages and counters as they were; order and augmentation from ``seed``; the
        final model chosen as the victim was (docs/branches.md).
        """
        ...


def default_recipe(
    model: nn.Module,
    images: Tensor | Images,
    labels: Tensor,
    seed: int,
    *,
    epochs: int = 5,
    learning_rate: float = LEARNING_RATE,
    batch: int | None = None,
) -> nn.Module:
    """AdamW with a one-cycle schedule; deterministic for a seed, a machine and a thread count.

    Args:
        model: trained in place.
        images: float32 ``[N,C,H,W]`` in 0..1, or images that become so as they are indexed.
        labels: int64 ``[N]``, or float32 ``[N,K]`` probabilities (distillation).
        seed: of the order of the images.
        epochs: passes.
        learning_rate: peak of the schedule.
        batch: images a step; None for ``BATCH``, or fewer (40 of 224 px) where more would not fit.

    Returns:
        ``model``, in eval mode.

    Raises:
        InputError: no images, fewer labels than images, or numbers out of range.
    """
    check(isinstance(epochs, int) and epochs >= 1, "recipe", "epochs", "a whole number >= 1", repr(epochs))
    batch = min(BATCH, 2 * most_at_once(images.shape)) if batch is None else batch
    check(isinstance(batch, int) and batch >= 2, "recipe", "batch", "a whole number >= 2", repr(batch))
    check(0 < learning_rate < math.inf, "recipe", "learning_rate", "a finite number > 0", learning_rate)
    if len(images) == 0 or len(labels) != len(images):
        raise InputError("recipe", "labels", f"one an image, {len(images)} > 0", len(labels))
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(images) // batch)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, max(steps, 2))
        place = next((p.device for p in model.parameters()), torch.device("cpu"))
        model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(images), generator=generator), batch):
                if len(rows) < 2 and len(images) > 1:
                    continue  # batch normalisation needs two
                x, y = images[rows].to(place), labels[rows].to(place)
                loss = nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
    out: nn.Module = model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return out


def load_recipe(spec: str, base: Path | None = None) -> Recipe:
    """The owner's recipe ``FILE.py:FUNCTION``; the file is executed.

    Raises:
        ModelError: no such file or function.
    """
    path, _, function = spec.rpartition(":")
    if not path.endswith(".py") or not function:
        raise ModelError("pool", "recipe", "FILE.py:FUNCTION", repr(spec))
    return load_function((base or Path()) / path, function, where="pool", argument="recipe")
