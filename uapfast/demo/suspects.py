"""The demo's suspects: copies of the victim and honest models, none of which is in the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from uapfast.pool import attacks
from uapfast.pool.recipe import default_recipe
from uapfast.pool.train import fresh_model
from uapfast.report import SuspectRow
from uapfast.report.data import Truth
from uapfast.types import Verdict

RESIDUAL, VGG, DEPTHWISE, CNN, MLP = (
    f"uapfast:{name}-small?classes=10&channels=1&size=8"
    for name in ("resnet", "vgg", "depthwise", "cnn", "mlp")
)


@dataclass(frozen=True, slots=True)
class Split:
    """Who has which images: float32 ``[N,1,8,8]`` in 0..1 and int64 labels."""

    owner: tuple[Tensor, Tensor]
    thief: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class DemoSuspect:
    """How to make one suspect; ``make`` trains and takes a second or two."""

    name: str
    made: str
    truth: Truth
    group: str
    arch: str
    make: Callable[[], nn.Module]

    def row(self, verdict: Verdict, accuracy: float) -> SuspectRow:
        """The suspect's line in the report."""
        return SuspectRow(self.name, self.made, verdict, self.truth, self.group, accuracy)


def train_honest(arch: str, data: tuple[Tensor, Tensor], seed: int, epochs: int) -> nn.Module:
    """An honest model."""
    return default_recipe(fresh_model(arch, seed), data[0], data[1], seed, epochs=epochs)


def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of right answers, 0..1."""
    with torch.no_grad():
        return float((model(data[0]).argmax(1) == data[1]).float().mean())


def copies(victim: nn.Module, split: Split, epochs: int, seed: int) -> Iterator[DemoSuspect]:
    """Modified and extracted copies. The thief has images of the task, and may ask the victim."""
    images, labels = split.thief
    tune = partial(attacks.fine_tune, victim, images, labels, seed=seed)

    def student(arch: str, kind: attacks.LabelKind, number: int) -> nn.Module:
        recipe = partial(default_recipe, epochs=2 * epochs)
        return attacks.extract(
            lambda x: victim(x).softmax(1),
            fresh_model(arch, seed + number),
            images,
            labels=kind,
            recipe=recipe,
            seed=seed + number,
        )

    modified: list[tuple[str, str, Callable[[], nn.Module]]] = [
        ("tuned-all", "fine-tuned, all layers", partial(tune, layers="all", epochs=3, lr=3e-4)),
        ("tuned-last", "last layer drawn anew and trained", partial(tune, layers="last", epochs=10, lr=1e-2)),
        ("pruned-30", "smallest 30 % of weights removed", partial(attacks.prune, victim, 0.3)),
        ("pruned-60", "smallest 60 % of weights removed", partial(attacks.prune, victim, 0.6)),
        ("4-bit", "weights rounded to 4 bits", partial(attacks.quantise, victim, 4)),
    ]
    for name, made, make in modified:
        yield DemoSuspect(name, made, "piracy", "modified", RESIDUAL, make)
    students: list[tuple[str, str, str, attacks.LabelKind]] = [
        ("soft-same", "learned its probabilities, same network", RESIDUAL, "soft"),
        ("soft-vgg", "learned its probabilities, VGG-like", VGG, "soft"),
        ("soft-cnn", "learned its probabilities, plain CNN", CNN, "soft"),
        ("hard-same", "learned its labels, same network", RESIDUAL, "hard"),
        ("hard-vgg", "learned its labels, VGG-like", VGG, "hard"),
    ]
    for number, (name, made, arch, kind) in enumerate(students):
        yield DemoSuspect(name, made, "piracy", "extracted", arch, partial(student, arch, kind, number))


def honest(split: Split, epochs: int, seed: int) -> Iterator[DemoSuspect]:
    """Models that never met the victim: other seeds, networks and images, the owner's included."""
    both = (torch.cat([split.owner[0], split.thief[0]]), torch.cat([split.owner[1], split.thief[1]]))
    half = (split.owner[0][::2], split.owner[1][::2])
    data = {"owner's images": split.owner, "half of them": half, "other images": split.thief, "both": both}
    networks = {"resnet": RESIDUAL, "vgg": VGG, "depthwise": DEPTHWISE, "cnn": CNN, "mlp": MLP}
    for number, (short, arch) in enumerate((s, a) for s, a in networks.items() for _ in range(3)):
        words = list(data)[(number + number // 4) % 4]
        longer = epochs if number % 2 else epochs + epochs // 2
        make = partial(train_honest, arch, data[words], seed + number, longer)
        name = f"honest-{number + 1:02d}"
        yield DemoSuspect(name, f"{short}, {words}, {longer} epochs", "innocent", "innocent", arch, make)
