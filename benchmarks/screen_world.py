"""A reference and a population of checkpoints for the benchmark of ``screen``; made once in a folder."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import uapfast
from uapfast.data import load_data
from uapfast.files import make_folder
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.pool import attacks
from uapfast.pool.recipe import default_recipe
from uapfast.pool.train import fresh_model

EVERY = 20  # of how many checkpoints one is stolen
NETWORKS = ("resnet", "vgg", "depthwise", "cnn")


@dataclass(frozen=True)
class Task:
    """Data and sizes of one world.

    Attributes:
        data: DATA spec.
        side: of the images, px.
        owner: images of victim and twins; as many more are the others'.
        epochs: of every training.
        twins: of the victim.
        innocents: of the pool.
        honest: models of the population that derive from nobody.
        points: query points a view; 20 views.
    """

    data: str
    side: int
    owner: int
    epochs: int
    twins: int = 9
    innocents: int = 20
    honest: int = 12
    points: int = 50

    def arch(self, network: str) -> str:
        return f"uapfast:{network}-small?channels=1&classes=10&size={self.side}"


TASKS = {
    "digits": Task("digits", 8, 800, 8, honest=8, points=40),
    "fashion": Task("fashion-mnist:train", 28, 6000, 3, points=200),
}


@dataclass(frozen=True)
class World:
    """Where everything lies: the victim's reference, and the bases of populations.

    Attributes:
        stolen: of the victim's architecture, a residual one, as are those of ``honest``.
        pooling: honest ones of a VGG-like architecture.
    """

    task: Task
    reference: Path
    victim: Path
    stolen: tuple[Path, ...]
    honest: tuple[Path, ...]
    pooling: tuple[Path, ...]

    @property
    def bases(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Stolen and honest checkpoints of the usual population."""
        return self.stolen, self.honest


def make_world(name: str, folder: Path) -> World:
    """Train what is missing; about a minute (digits) or five (fashion) on two cores."""
    task, place = TASKS[name], make_folder(folder / name)
    loaded = load_data(task.data)
    x, y = loaded.x(slice(0, 2 * task.owner)), loaded.labels[: 2 * task.owner]
    own, other = slice(0, task.owner), slice(task.owner, 2 * task.owner)
    residual = task.arch("resnet")

    def train(label: str, arch: str, part: slice, seed: int) -> nn.Module:
        path = place / f"{label}.safetensors"
        if not path.exists():
            model = default_recipe(fresh_model(arch, seed), x[part], y[part], seed, epochs=task.epochs)
            save_weights(model, path)
        module = load_model(arch, path).module
        assert module is not None
        return module

    victim = train("victim", residual, own, 0)
    reference = place / "victim.uapref"
    if not reference.exists():
        twins = [train(f"twin-{s}", residual, own, s) for s in range(1, task.twins + 1)]
        pool = [
            train(f"pool-{s}", task.arch(NETWORKS[s % 4]), (own, other)[s % 2], 100 + s)
            for s in range(task.innocents)
        ]
        made = uapfast.Pool.from_models(twins=twins, homologous=pool)
        config = uapfast.GenerateConfig(points=task.points, uap_images=300, min_fooling=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            uapfast.generate(victim, x[own], y[own], pool=made, config=config).save(reference)
    for s in range(task.honest):  # one architecture: files of one size
        train(f"honest-{s}", residual, (own, other)[s % 2], 200 + s)
    for s in range(4):
        train(f"vgg-{s}", task.arch("vgg"), (own, other)[s % 2], 300 + s)
    _steal(place, victim, x[other], y[other])
    return World(
        task,
        reference,
        place / "victim.safetensors",
        tuple(sorted(place.glob("stolen-*.safetensors"))),
        tuple(sorted(place.glob("honest-*.safetensors"))),
        tuple(sorted(place.glob("vgg-*.safetensors"))),
    )


def _steal(place: Path, victim: nn.Module, images: Tensor, labels: Tensor) -> None:
    ways = {
        "pruned": lambda: attacks.prune(victim, 0.3),
        "rounded": lambda: attacks.quantise(victim, 6),
        "tuned": lambda: attacks.fine_tune(victim, images[:500], labels[:500], seed=0, epochs=1),
    }
    for how, make in ways.items():
        path = place / f"stolen-{how}.safetensors"
        if not path.exists():
            save_weights(make(), path)


def populate(
    bases: tuple[tuple[Path, ...], tuple[Path, ...]], folder: Path, count: int, *, pickled: bool = False
) -> Path:
    """``count`` checkpoints, no two alike (noise far below what a decision sees).

    ``bases`` are stolen and honest ones; every twentieth is stolen, if there are such. ``pickled`` writes
    each as ``torch.save`` does as well (``.pt``), in a folder beside.
    """
    place = make_folder(folder)
    other = make_folder(folder.with_name(folder.name + "-pt")) if pickled else None
    stolen, honest = ([load_file(p) for p in paths] for paths in bases)
    for i in range(count):
        path = place / f"{i:06d}.safetensors"
        if path.exists() and (other is None or (other / f"{path.stem}.pt").exists()):
            continue
        generator = torch.Generator().manual_seed(i)
        some = stolen if stolen and i % EVERY == EVERY - 1 else honest
        base = some[i % len(some)]
        state = {
            k: v * (1 + 1e-4 * torch.randn(v.shape, generator=generator)) if v.is_floating_point() else v
            for k, v in base.items()
        }
        save_file(state, path)
        if other is not None:
            torch.save(state, other / f"{path.stem}.pt")
    return place


if __name__ == "__main__":
    start = time.perf_counter()
    print(make_world("digits", Path("bench-screen")), f"{time.perf_counter() - start:.0f} s")
