"""A small case for the tests of ``screen``: two references and some suspects, on scikit-learn's digits."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import uapfast
from tests.api.mlp import shipped
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.screening.listing.entry import Entry

MLP, CNN, RESIDUAL = (f"uapfast:{n}-small?size=8" for n in ("mlp", "cnn", "resnet"))
# of the reference "first"; the first innocent is a twin
COPY = "victim-1"
INNOCENTS = ("victim-2", "honest-1", "honest-2", "honest-3", "honest-4", "honest-5")
CONFIG = uapfast.GenerateConfig(points=30, views=20, uap_images=200, eps=0.2, min_fooling=0.0, seed=0)


@dataclass(frozen=True)
class World:
    """Files of the case; ``references`` by name."""

    folder: Path
    references: dict[str, uapfast.Reference]
    suspects: tuple[Entry, ...]

    def suspect(self, name: str) -> Entry:
        return next(s for s in self.suspects if s.name == name)

    def verify(self, reference: str, name: str, alpha: float = 1e-3) -> uapfast.Verdict:
        """What ``uapfast.verify`` says of a suspect."""
        s = self.suspect(name)
        model = load_model(s.arch, s.path, mean=s.mean, std=s.std, name=s.name)
        return uapfast.verify(self.references[reference], model, alpha=alpha)


def make_world(folder: Path) -> World:
    """Two victims of one recipe (MLP) with common twins and innocents; suspects of three architectures."""
    torch.set_num_threads(1)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    own, other = slice(0, 800), slice(800, 1600)
    models = [shipped(MLP, x[own], y[own], s) for s in range(10)]
    homologous = [
        shipped((MLP, CNN)[s % 2], x[(own, other)[s % 3 == 0]], y[(own, other)[s % 3 == 0]], 20 + s)
        for s in range(14)
    ]
    references = {}
    for number, name in enumerate(("first", "second")):
        twins = models[2:] + [models[1 - number]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pool = uapfast.Pool.from_models(twins=twins, homologous=homologous)
            references[name] = uapfast.generate(models[number], x[own], y[own], pool=pool, config=CONFIG)
        references[name].save(folder / f"{name}.uapref")
    suspects = [_save(folder, "victim-1", MLP, models[0]), _save(folder, "victim-2", MLP, models[1])]
    pruned = shipped(MLP, x[own], y[own], 0)
    with torch.no_grad():
        for p in pruned.parameters():
            p[p.abs() < 0.3 * p.abs().median()] = 0
    suspects.append(_save(folder, "pruned-1", MLP, pruned))
    for s, arch in enumerate((MLP, CNN, RESIDUAL, MLP, CNN, RESIDUAL)):
        suspects.append(_save(folder, f"honest-{s}", arch, shipped(arch, x[other], y[other], 60 + s)))
    half = load_model(CNN, suspects[4].path).module
    assert half is not None
    suspects.append(_save(folder, "half", CNN, half.half()))
    shifted = Entry(suspects[5].path, RESIDUAL, "shifted", mean=(0.3,), std=(0.7,))
    return World(folder, references, (*suspects, shifted))


def with_preprocessing(reference: uapfast.Reference, mean: float, std: float) -> uapfast.Reference:
    """The same, of a victim that is said to take images behind this mean and std."""
    told = reference.settings | {"preprocessing": {"mean": [mean], "std": [std]}}
    return dataclasses.replace(reference, settings=told, _cache={})


def _save(folder: Path, name: str, arch: str, module: nn.Module) -> Entry:
    path = folder / f"{name}.safetensors"
    save_weights(module, path)
    return Entry(str(path), arch, name)
