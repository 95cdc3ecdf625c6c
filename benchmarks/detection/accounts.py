"""Whose questions an owner's log holds: honest customers, thieves, and models of people who never asked.

A *customer* asked the victim every image of the thief's set and trained on these images with labels of his
own; that is the honest model which a query log endangers most. A *careful* customer asked as Papernot's
attack does, with images that the answers choose, and labelled them himself.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.detection.make import Place, train
from benchmarks.detection.plan import ALL_ARCHS, Item, Size
from uapfast.models.checkpoint import save_weights
from uapfast.pool import attacks
from uapfast.pool.plan import job_seed
from uapfast.pool.recipe import default_recipe
from uapfast.pool.train import fresh_model, predict

CUSTOMERS = 60
FOLDER = "accounts"


def customers(size: Size, count: int = CUSTOMERS) -> Iterator[Item]:
    """Honest models of all logged images with true labels: architectures, recipes and lengths differ."""
    for i in range(count):
        arch, turn = ALL_ARCHS[i % len(ALL_ARCHS)], i // len(ALL_ARCHS)
        settings = {
            "images": "thief",
            "share": 1.0,
            "epochs": max(1, round(size.student * (1.0, 0.5, 1.5, 2.0)[(turn + i) % 4])),
            "recipe": ("default", "sgd", "augmented", "slow")[turn % 4],
        }
        name = f"customer-{i:02d}-{arch.removesuffix('-small')}"
        yield Item(name, "customer", None, arch, "train", settings, job_seed(5, name))


def make(place: Place, item: Item) -> str:
    """Train one customer, if it is not there."""
    path = place.out / FOLDER / f"{item.name}.safetensors"
    if not path.exists():
        save_weights(train(place, None, item), path)
    return item.name


def adaptive_log(place: Place, victim: nn.Module, arch: str, seed: int) -> tuple[Tensor, Tensor]:
    """What Papernot's attack on ``victim`` asks, with a student of ``arch``, and the true labels.

    Args:
        place: the zoo.
        victim: who answers.
        arch: the student's.
        seed: of the seeds' draw and of the student.

    Returns:
        float32 ``[N,C,H,W]``, and int64 ``[N]``: an augmented image keeps the label of its seed.
    """
    thief = place.data("thief")
    few = max(32, place.size.budgets[0] // 2 // 4)
    rows = torch.randperm(len(thief), generator=torch.Generator().manual_seed(seed))[:few]
    spec = place.size.spec(arch)
    x = attacks.jacobian_images(
        partial(predict, victim),
        lambda: fresh_model(spec, seed),
        thief.x(rows),
        recipe=partial(default_recipe, epochs=place.size.student),
        seed=seed,
    )
    return x, thief.labels[rows].repeat(-(-len(x) // few))[: len(x)]
