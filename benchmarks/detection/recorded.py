"""Models as their kept answers: every one was asked every held-out image once, end to end.

References of many subsets of a pool then cost no forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.detection.make import Place, answers
from benchmarks.detection.subsets import degraded
from uapfast.files import make_folder
from uapfast.models.checkpoint import load_model
from uapfast.models.model import Model
from uapfast.pool.manifest import load_pool
from uapfast.pool.pool import PoolModel


class Images:
    """Which held-out image is which; shared by all models, however they are copied."""

    def __init__(self, x: Tensor) -> None:
        self.rows = {self.key(image): row for row, image in enumerate(x)}
        self.rows[self.key(torch.zeros_like(x[0]))] = len(x)  # batches are padded with these

    @staticmethod
    def key(image: Tensor) -> bytes:
        """Of a float image in 0..1 on the 1/255 grid."""
        return (image * 255).round().to(torch.uint8).numpy().tobytes()

    def __deepcopy__(self, memo: dict[int, Any]) -> Images:
        return self


class Recorded(nn.Module):
    """Logits that a network gave; raises ``KeyError`` for images that it was not asked."""

    logits: Tensor

    def __init__(self, images: Images, probabilities: Tensor) -> None:
        super().__init__()
        self.images = images
        log = probabilities.clamp(min=1e-30).log()
        self.register_buffer("logits", torch.cat([log, torch.zeros_like(log[:1])]))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N,C,H,W]`` to ``[N,K]``."""
        found: Tensor = self.logits[[self.images.rows[Images.key(image)] for image in x]]
        return found


def victim_of(place: Place, arch: str, images: Images) -> Model:
    """The victim."""
    return _model(images, answers(place, place.victim_path(arch)), "victim")


def pool_models(place: Place, folder: Path, images: Images) -> list[tuple[PoolModel, str]]:
    """The models of a pool but its victim, each with its architecture; named after the folder, too."""
    found = []
    for one in load_pool(folder / "manifest.csv").models:
        if one.relation == "victim":
            continue
        kept = answers(place, folder / "models" / f"{one.name}.safetensors", one.model.module)
        name = f"{folder.name}-{one.name}"
        arch = str(one.model.arch).partition("?")[0].rpartition(":")[2]
        model = _model(images, kept, name)
        found.append((PoolModel(name, one.relation, one.candidate, one.kind, model, one.parent), arch))
    return found


def suspects(place: Place, images: Images, names: list[str]) -> Iterator[tuple[str, Model]]:
    """Suspects of these names."""
    for name in names:
        yield name, _model(images, answers(place, place.suspect_path(name)), name)


def degraded_forms(place: Place, images: Images, name: str, arch: str) -> Iterator[tuple[str, Model]]:
    """How an innocent was degraded, and what it then answers (asked once, and kept)."""
    make_folder(place.out / "degraded")
    module = load_model(place.size.spec(arch), place.suspect_path(name)).module
    assert module is not None
    for how, changed in degraded(place, name, module):
        path = place.out / "degraded" / f"{name} {how}.safetensors"
        yield how, _model(images, answers(place, path, changed), name)


def _model(images: Images, probabilities: Tensor, name: str) -> Model:
    return Model(Recorded(images, probabilities), name=name, own=True)
