"""What the zoo holds: every model with a name, a group (its row of the table) and a seed of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from uapfast.pool.plan import job_seed
from uapfast.pool.recipe import default_recipe

GROUPS = {
    "modified": "direct modification (fine-tuned, pruned, quantised, noise)",
    "retrained": "last layer drawn anew",
    "adversarial": "adversarial training of the victim",
    "soft": "extraction, soft labels",
    "hard": "extraction, hard labels",
    "ood": "extraction, out-of-distribution queries",
    "jacobian": "extraction, Jacobian-augmented queries",
    "laundered": "distilled, then modified",
    "innocent": "innocent",
}


@dataclass(frozen=True)
class Size:
    """One zoo's extent.

    Attributes:
        data: DATA spec of training images; ``test`` that of held-out images.
        owner: images of the victims and twins; ``thief`` those of the attackers.
        epochs: of each victim architecture.
        student: epochs of extraction to convergence.
        budgets: queries of an extraction, three of them.
        tune: images of a fine-tuning.
        twins: per victim, m.
        surrogates: piracy models of every candidate in its pool.
        homologous: innocents of a pool.
        innocents: suspects that derive from nobody.
        side: of the images, px.
    """

    data: str
    test: str
    owner: int
    thief: int
    epochs: dict[str, int]
    student: int
    budgets: tuple[int, int, int]
    tune: int
    twins: int
    surrogates: int
    homologous: int
    innocents: int
    side: int

    def spec(self, arch: str) -> str:
        """SPEC of a shipped network for these images."""
        return f"uapfast:{arch}?channels=1&classes=10&size={self.side}"

    # What another world does otherwise (``transfer_plan``). No fields: stamps stay as they are.
    keeps_answers: ClassVar[bool] = False  # of suspects to held-out images, beside their weights

    def unseen(self, images: int) -> int:
        """How many of the held-out images are used."""
        return images

    def recipe(self, arch: str) -> Callable[..., nn.Module]:
        """``(model, images, labels, seed, epochs=, learning_rate=) -> model`` of an architecture."""
        return default_recipe

    def items(self) -> list[Item]:
        """Every suspect."""
        return [item for victim in self.epochs for item in piracy(self, victim)] + innocents(self)


FASHION = {"data": "fashion-mnist:train", "test": "fashion-mnist:test", "side": 28}
SIZES = {
    "full": Size(
        **FASHION,
        owner=30_000,
        thief=30_000,
        epochs={"resnet-small": 5, "vgg-small": 5, "cnn-small": 10},
        student=5,
        budgets=(3_000, 10_000, 30_000),
        tune=5_000,
        twins=16,
        surrogates=2,
        homologous=40,
        innocents=60,
    ),
    "small": Size(
        **FASHION,
        owner=12_000,
        thief=12_000,
        epochs={"resnet-small": 4, "vgg-small": 4, "cnn-small": 6},
        student=4,
        budgets=(1_500, 4_000, 12_000),
        tune=2_500,
        twins=8,
        surrogates=2,
        homologous=40,
        innocents=24,
    ),
    "digits": Size(
        data="digits:train",
        test="digits:test",
        owner=450,
        thief=450,
        epochs={"resnet-small": 25, "vgg-small": 25, "cnn-small": 30},
        student=30,
        budgets=(100, 200, 450),
        tune=150,
        twins=16,
        surrogates=2,
        homologous=40,
        innocents=60,
        side=8,
    ),
}
ALL_ARCHS = ("resnet-small", "vgg-small", "depthwise-small", "cnn-small", "mlp-small")


@dataclass(frozen=True)
class Item:
    """One suspect.

    Attributes:
        name: also of its file.
        group: key of ``GROUPS``.
        victim: architecture of the victim that it derives from, or None.
        arch: its own.
        how: function of ``make.py``.
        settings: its arguments; JSON types.
        seed: of initialisation, order and draws.
    """

    name: str
    group: str
    victim: str | None
    arch: str
    how: str
    settings: dict[str, Any]
    seed: int


def _modifications(tune: int) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(name, group, how, settings) of what is done to the victim itself."""
    found: list[tuple[str, str, str, dict[str, Any]]] = []
    for layers in ("all", "last"):
        for epochs, lr in ((2, 1e-3), (8, 3e-3)):
            settings = {"layers": layers, "epochs": epochs, "lr": lr, "images": tune, "redraw": False}
            found.append((f"finetune-{layers}-{epochs}", "modified", "tune", settings))
            settings = settings | {"epochs": 10 * epochs // 2, "redraw": True}
            found.append((f"retrain-{layers}-{settings['epochs']}", "retrained", "tune", settings))
    for percent in (20, 40, 60, 80):
        settings = {"share": percent / 100, "epochs": 0, "images": tune}
        found.append((f"prune-{percent}", "modified", "prune", settings))
        found.append((f"prune-{percent}-tuned", "modified", "prune", settings | {"epochs": 2}))
    found += [(f"quantise-{bits}", "modified", "quantise", {"bits": bits}) for bits in (8, 4)]
    found += [(f"noise-{s:g}", "modified", "noise", {"scale": s}) for s in (0.05, 0.15)]
    for eps, epochs in ((0.03, 2), (0.1, 2), (0.1, 5)):
        settings = {"eps": eps, "epochs": epochs, "images": 2 * tune}
        found.append((f"adversarial-{eps:g}-{epochs}", "adversarial", "adversarial", settings))
    return found


def _extractions(size: Size, victim: str) -> list[tuple[str, str, str, str, dict[str, Any]]]:
    """(name, group, how, architecture, settings) of students."""
    others = [a for a in ALL_ARCHS if a != victim]
    few, middle, many = size.budgets
    found: list[tuple[str, str, str, str, dict[str, Any]]] = []

    def add(group: str, arch: str, how: str = "extract", tag: str = "", **settings: Any) -> None:
        settings = {"labels": "soft", "images": many, "epochs": size.student} | settings
        shown = f"{tag or how}-{settings['labels']}-{arch.removesuffix('-small')}"
        name = f"{shown}-{settings['images']}-{settings['epochs']}"
        found.append((name, group, how, arch, settings))

    for labels in ("soft", "hard"):
        for i, images in enumerate(size.budgets):
            add(labels, victim, labels=labels, images=images)
            add(labels, others[i], labels=labels, images=images)
        add(labels, others[3], labels=labels)
        add(labels, victim, labels=labels, epochs=1)
        add(labels, victim, labels=labels, epochs=2 * size.student)
        add("ood", victim, "extract_ood", labels=labels, images=middle)
        add("jacobian", victim, "extract_jacobian", labels=labels, images=few // 2)
    for then in ("tune", "prune", "adversarial", "quantise"):
        add("laundered", victim, "launder", f"launder-{then}", images=middle, then=then)
        add("laundered", others[0], "launder", f"launder-{then}", images=middle, then=then)
    return found


def piracy(size: Size, victim: str) -> list[Item]:
    """At least 40 models that derive from one victim."""
    rows = [(n, g, h, victim, s) for n, g, h, s in _modifications(size.tune)]
    rows += _extractions(size, victim)
    short = victim.removesuffix("-small")
    return [
        Item(f"{short}-{name}", group, victim, arch, how, settings, job_seed(1, f"{victim}/{name}"))
        for name, group, how, arch, settings in rows
    ]


def innocents(size: Size) -> list[Item]:
    """Models trained on true labels: architectures x images x recipe, none of them a pool's."""
    found = []
    for i in range(size.innocents):
        arch = ALL_ARCHS[i % len(ALL_ARCHS)]
        turn = i // len(ALL_ARCHS)
        settings: dict[str, Any] = {
            "images": ("owner", "thief", "mixed")[turn % 3],
            "share": (1.0, 1.0, 0.4)[(turn // 3 + i) % 3],
            "epochs": max(1, round(size.student * (1.0, 0.5, 1.5)[(turn // 2 + i) % 3])),
            "recipe": ("default", "sgd", "augmented", "slow")[(turn + i) % 4],
        }
        name = f"innocent-{i:02d}-{arch.removesuffix('-small')}"
        found.append(Item(name, "innocent", None, arch, "train", settings, job_seed(2, name)))
    return found


def all_items(size: Size) -> list[Item]:
    """Every suspect of a zoo; names are unique."""
    items = size.items()
    names = [item.name for item in items]
    assert len(set(names)) == len(names)
    return items
