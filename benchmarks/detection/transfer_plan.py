"""What the transfer world holds: everybody may have begun at the same public backbone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmarks.detection.plan import ALL_ARCHS, FASHION, Item, Size, _modifications
from uapfast.pool.plan import TUNING_RATE, job_seed
from uapfast.pool.recipe import LEARNING_RATE

VICTIM = "lite0"
TUNED = ("lite0", "lite1")  # architectures that begin at public weights
KEPT = (
    "finetune-all-2", "finetune-last-8", "retrain-last-10", "prune-20", "prune-40-tuned", "quantise-8",
    "quantise-4", "noise-0.05", "noise-0.15",
)  # fmt: skip
SCRATCH = 8  # epochs of networks from scratch: small ones, on few images


def spec_of(name: str) -> str:
    """SPEC of a function of ``transfer_nets``, relative to where the command runs, as stamps keep it."""
    return f"{os.path.relpath(Path(__file__).with_name('transfer_nets.py'))}:{name}"


@dataclass(frozen=True)
class Transfer(Size):
    """The extent of the transfer world.

    Attributes:
        heldout: images that are asked, at most.
    """

    heldout: int

    keeps_answers: ClassVar[bool] = True

    def spec(self, arch: str) -> str:
        """SPEC of a backbone, at its public weights, or of a shipped network."""
        return spec_of(arch) if arch in TUNED else super().spec(arch)

    def unseen(self, images: int) -> int:
        """How many of the held-out images are used."""
        return min(images, self.heldout)

    def recipe(self, arch: str) -> Callable[..., nn.Module]:
        """The default recipe; for backbones with the back alone, at the rate of fine-tunings."""
        return _tune if arch in TUNED else super().recipe(arch)

    def items(self) -> list[Item]:
        """Copies of the one victim, and honest models of every origin."""
        return [*_copies(self), *_honest(self)]


def _tune(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seed: int,
    *,
    epochs: int,
    learning_rate: float = LEARNING_RATE,
) -> nn.Module:
    from benchmarks.detection.transfer_nets import finetune  # needs packages that only this world needs

    rate = TUNING_RATE * learning_rate
    return finetune(model, images, labels, seed, epochs=epochs, learning_rate=rate)


def _copies(size: Transfer) -> list[Item]:
    rows: list[tuple[str, str, str, str, dict[str, Any]]] = [
        (name, group, how, VICTIM, settings)
        for name, group, how, settings in _modifications(size.tune)
        if name in KEPT
    ]
    few, _, many = size.budgets
    for labels in ("soft", "hard"):
        for arch, images, times in (
            (VICTIM, many, 1), (VICTIM, many, 2), (VICTIM, few, 1), ("lite1", many, 1),
            ("vgg-small", many, 1), ("resnet-small", many, 1), ("vgg-small", few, 1),
        ):  # fmt: skip
            epochs = times * (size.student if arch in TUNED else SCRATCH)
            settings: dict[str, Any] = {"labels": labels, "images": images, "epochs": epochs}
            name = f"extract-{labels}-{arch.removesuffix('-small')}-{images}-{epochs}"
            rows.append((name, labels, "extract", arch, settings))
    return [
        Item(f"{VICTIM}-{name}", group, VICTIM, arch, how, settings, job_seed(1, f"transfer/{name}"))
        for name, group, how, arch, settings in rows
    ]


def _honest(size: Transfer) -> list[Item]:
    """A third from the victim's backbone, some from another, the rest from scratch."""
    found = []
    archs = [VICTIM] * 12 + ["lite1"] * 5 + [a for a in ALL_ARCHS for _ in range(3)]
    for i, arch in enumerate(archs):
        epochs = size.student if arch in TUNED else SCRATCH
        settings: dict[str, Any] = {
            "images": ("owner", "thief")[i % 2],
            "share": (1.0, 1.0, 1.0, 0.4)[i // 2 % 4],
            "epochs": max(1, round(epochs * (1.0, 1.0, 1.5)[i // 2 % 3])),
            "recipe": ("default", "slow", "augmented")[(i + i // 2) % 3],
        }
        name = f"innocent-{i:02d}-{arch.removesuffix('-small')}"
        found.append(Item(name, "innocent", None, arch, "train", settings, job_seed(2, f"transfer/{name}")))
    return found


TRANSFER = Transfer(
    **FASHION,
    owner=2_500,
    thief=2_500,
    epochs={VICTIM: 3},
    student=3,
    budgets=(800, 1_600, 2_500),
    tune=1_000,
    twins=4,
    surrogates=0,
    homologous=34,
    innocents=32,
    heldout=3_000,
)
