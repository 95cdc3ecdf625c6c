"""What a company adds to uapfast: its networks, its training, and its store of models. Change all of it.

``pip install examples/plugin``; then ``--arch acme:tiny?classes=10``, ``--recipe acme-sgd`` and
``uapfast verify REF acme://NAME`` work wherever uapfast runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from uapfast import Model
from uapfast.models.checkpoint import load_model


def create(name: str, *, classes: int = 10, size: int = 8) -> nn.Module:
    """The network of ``acme:NAME?classes=...&size=...``: takes images in 0..1, returns logits."""
    widths = {"tiny": 16, "wide": 64}
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size * size, widths[name]), nn.ReLU(), nn.Linear(widths[name], classes)
    )


def train(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """The training of ``--recipe acme-sgd``: everything random follows ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(10):
        for rows in torch.randperm(len(images), generator=generator).split(100):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


def open_suspect(address: str, *, arch: str = "acme:tiny") -> Model:
    """The suspect of ``acme://NAME``: a Model, a Suspect or any function. A real store would fetch it."""
    store = Path(os.environ["ACME_STORE"])
    return load_model(arch, store / f"{address.removeprefix('acme://')}.safetensors")
