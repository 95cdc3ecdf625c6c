"""Suspects for the detection benchmarks: files made from seeds, each in no pool."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from uapfast.data import Dataset, load_data
from uapfast.files import write_text
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.pool import attacks
from uapfast.pool.recipe import default_recipe
from uapfast.pool.train import fresh_model, predict


@dataclass(frozen=True)
class Suspect:
    """One suspect: ``group`` is direct, retrained, extracted or innocent; ``how`` names the recipe below."""

    name: str
    group: str
    arch: str
    how: str
    seed: int

    @property
    def path(self) -> str:
        return f"suspects/{self.name}.safetensors"


def plan_suspects(victim: str, others: tuple[str, ...]) -> list[Suspect]:
    """5 direct modifications, 2 with a new last layer, 4 extracted, 20 innocents."""
    direct = ["finetune-all", "finetune-last", "prune-30", "prune-60", "quantize-4"]
    plan = [Suspect(how, "direct", victim, how, 100 + i) for i, how in enumerate(direct)]
    plan += [Suspect(f"retrain-last-{e}", "retrained", victim, "retrain-last", e) for e in (2, 20)]
    for i, arch in enumerate((victim, victim, *others)):
        name = f"extracted-{arch.removeprefix('uapfast:')}-{i}"
        plan.append(Suspect(name, "extracted", arch, "extract-soft", 200 + i))
    for i in range(20):
        arch = (victim, *others)[i % (1 + len(others))]
        plan.append(
            Suspect(f"innocent-{arch.removeprefix('uapfast:')}-{i:02d}", "innocent", arch, "train", 300 + i)
        )
    return plan


def train_victim(arch: str, data: Path, path: Path, *, seed: int, epochs: int) -> None:
    """Train by the project's own recipe; weights to ``path``, test accuracy beside it."""
    owner, test = load_data(str(data)), load_data("fashion-mnist:test")
    model = default_recipe(fresh_model(arch, seed), owner.x(), owner.labels, seed, epochs=epochs)
    accuracy = float((predict(model, test.x()).argmax(-1) == test.labels).double().mean())
    save_weights(model, path)
    write_text(
        path.with_suffix(".json"), json.dumps({"test_accuracy": accuracy, "epochs": epochs, "seed": seed})
    )


def _modified(victim: nn.Module, suspect: Suspect, thief: Dataset) -> nn.Module:
    model, few = victim, thief.subset(torch.arange(5_000))
    ways: dict[str, Callable[[], nn.Module]] = {
        "finetune-all": lambda: attacks.fine_tune(model, few.x(), few.labels, seed=suspect.seed, epochs=2),
        "finetune-last": lambda: attacks.fine_tune(
            model, few.x(), few.labels, seed=suspect.seed, epochs=2, layers="last", redraw=False
        ),
        "retrain-last": lambda: attacks.fine_tune(
            model, few.x(), few.labels, seed=suspect.seed, epochs=suspect.seed, layers="last"
        ),
        "prune-30": lambda: attacks.prune(model, 0.3),
        "prune-60": lambda: attacks.prune(model, 0.6),
        "quantize-4": lambda: attacks.quantise(model, 4),
    }
    return ways[suspect.how]()


def make_suspect(suspect: Suspect, out: Path, epochs: int) -> str:
    """Make one suspect's weights file; returns its name."""
    victim = load_model("uapfast:resnet-small", out / "victim.safetensors").module
    assert victim is not None
    thief = load_data(str(out / "thief.npz"))
    if suspect.how == "train":
        owner = load_data(str(out / "owner.npz"))
        model = default_recipe(
            fresh_model(suspect.arch, suspect.seed), owner.x(), owner.labels, suspect.seed, epochs=epochs
        )
    elif suspect.how == "extract-soft":
        soft = predict(victim, thief.x())
        model = default_recipe(
            fresh_model(suspect.arch, suspect.seed), thief.x(), soft, suspect.seed, epochs=epochs
        )
    else:
        model = _modified(victim, suspect, thief)
    save_weights(model, out / suspect.path)
    return suspect.name
