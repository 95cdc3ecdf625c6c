"""Training recipes: the sound default, and the owner's own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from uapfast import plugins
from uapfast.config import check
from uapfast.data import Images
from uapfast.errors import InputError, ModelError
from uapfast.models.batches import most_at_once
from uapfast.models.code import source_sha256
from uapfast.models.userfile import load_function

LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.01
BATCH = 128
MUCH = 2 << 30  # bytes of float32 images in one tensor from which an owner is told of the other form
READS = ("dataset", "seed")  # names of the 2nd and 3rd parameter of a recipe that reads images as it goes


class Recipe(Protocol):
    """The owner's training: a new model in, the trained one out."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: int, **more: Path | None
    ) -> nn.Module:
        """Train ``model`` on float32 images in 0..1 ``[N,C,H,W]`` and int64 labels ``[N]``.

        With ``--branch`` it is handed ``checkpoint``, the file's path, and goes on from there: weights,
        optimiser, schedule, averages and counters as they were; order and augmentation from ``seed``; the
        final model chosen as the victim was (docs/branches.md).

        A recipe ``(model, dataset, seed)``, with these names for its second and third parameter, gets
        :class:`LabelledImages` in the place of images and labels, and no image before it asks for it.
        """
        ...


class LabelledImages(TorchDataset[tuple[Tensor, int]]):
    """Images and labels for a ``DataLoader``; pictures on disk are read as they are asked for.

    Args:
        images: that become float32 in 0..1 as they are indexed.
        labels: int64 ``[N]``.
    """

    def __init__(self, images: Images, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """float32 ``[C,H,W]`` in 0..1 and its label."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Several at once, as a ``DataLoader`` asks for a batch; raises ``IndexError`` beyond the last."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        labels: list[int] = self.labels[rows].tolist()
        return list(zip(self.images[rows], labels, strict=True))


def reads_dataset(recipe: Callable[..., Any]) -> bool:
    """Whether a recipe takes ``(model, dataset, seed)`` and not ``(model, images, labels, seed)``."""
    try:
        names = list(inspect.signature(recipe).parameters)
    except (TypeError, ValueError):  # a callable that does not say what it takes
        return False
    return tuple(names[1:3]) == READS


def run_recipe(spec: str, model: nn.Module, images: Images, labels: Tensor, seed: int, **more: Any) -> Any:
    """What the owner's recipe makes of a model, handed images in the form that it takes.

    Args:
        spec: as :func:`load_recipe`.
        model: to train.
        images: of the owner.
        labels: int64 ``[N]``.
        seed: of the model.
        more: further arguments, by name.
    """
    recipe: Callable[..., Any] = load_recipe(spec)
    if reads_dataset(recipe):
        return recipe(model, LabelledImages(images, labels), seed, **more)
    return recipe(model, images[:], labels, seed, **more)


def held_at_once(spec: str, images: Images) -> str | None:
    """What to tell the owner of a recipe that gets more than ``MUCH`` bytes in one tensor; None if fewer."""
    size = 4 * math.prod(images.shape)
    if size <= MUCH or reads_dataset(load_recipe(spec)):
        return None
    return (
        f"pool: recipe gets all images as one tensor, {size / 1e9:.1f} GB for every model trained at a time; "
        "a recipe (model, dataset, seed) gets a torch Dataset in its place that reads them as needed (README)"
    )


def training_batch(shape: Sequence[int], most: int | None = None) -> int:
    """Images a step of the default recipe: ``BATCH``, or fewer (40 of 224 px) where more would not fit.

    Args:
        shape: of the images, ``[..., H, W]``.
        most: what a forward takes at most, if the owner said; batch normalisation needs two all the same.
    """
    return min(BATCH, 2 * most_at_once(shape)) if most is None else min(BATCH, max(2, most))


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
        batch: images a step; None for :func:`training_batch`.

    Returns:
        ``model``, in eval mode.

    Raises:
        InputError: no images, fewer labels than images, or numbers out of range.
    """
    check(isinstance(epochs, int) and epochs >= 1, "recipe", "epochs", "a whole number >= 1", repr(epochs))
    batch = training_batch(images.shape) if batch is None else batch
    check(isinstance(batch, int) and batch >= 2, "recipe", "batch", "a whole number >= 2", repr(batch))
    check(0 < learning_rate < math.inf, "recipe", "learning_rate", "a finite number > 0", learning_rate)
    if len(images) == 0 or len(labels) != len(images):
        raise InputError("recipe", "labels", f"one per image, {len(images)} > 0", len(labels))
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
    """The owner's recipe: ``FILE.py:FUNCTION``, or a name that an installed package has registered.

    The file, or the package, is executed.

    Raises:
        ModelError: no such file, function or name.
    """
    path, _, function = spec.rpartition(":")
    if path.endswith(".py") and function:
        return load_function((base or Path()) / path, function, where="pool", argument="recipe")
    added = plugins.load_plugin(plugins.RECIPES, spec)
    if added is None:
        known = ", ".join(plugins.names(plugins.RECIPES))
        rule = f"FILE.py:FUNCTION, or one of {known}" if known else "FILE.py:FUNCTION"
        raise ModelError("pool", "recipe", rule, repr(spec))
    return added


def recipe_sha256(spec: str) -> str | None:
    """SHA-256 of a recipe's file with what it imports from beside itself; None where it has none to read."""
    path, _, function = spec.rpartition(":")
    file: Path | None = Path(path) if path.endswith(".py") and function else None
    if file is None:
        point = plugins.registered(plugins.RECIPES, spec)
        file = None if point is None else plugins.file_of(point)
    return source_sha256(file) if file is not None and file.is_file() else None
