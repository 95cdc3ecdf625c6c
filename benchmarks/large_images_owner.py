"""The owner's side of ``benchmarks.large_images``: a ResNet-18 for 224 px and its training, which resumes.

The recipe takes ``(model, dataset, seed)``, so that no tensor ever holds all images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.networks import resnet

EPOCHS, BATCH, RATE = 2, 8, 1e-3
BRANCH_AT = 0.5  # of the epochs: where the checkpoint is


def resnet18() -> nn.Module:
    """At 224 px, 10 classes."""
    return resnet((2, 2, 2, 2), False)


def train(
    model: nn.Module,
    dataset: Dataset[tuple[torch.Tensor, int]],
    seed: int,
    checkpoint: Path | None = None,
    keep: Path | None = None,
) -> nn.Module:
    """Adam for ``EPOCHS`` passes, from ``checkpoint`` on if there is one; ``keep`` gets one."""
    optimiser, first = torch.optim.Adam(model.parameters(), lr=RATE), 0
    if checkpoint is not None:
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["epoch"]
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(dataset, BATCH, shuffle=True, generator=order, drop_last=True)
    model.train()
    for epoch in range(first, EPOCHS):
        if keep is not None and epoch == round(BRANCH_AT * EPOCHS):
            torch.save(
                {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch}, keep
            )
        for x, y in loader:
            loss = nn.functional.cross_entropy(model(x), y)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()
