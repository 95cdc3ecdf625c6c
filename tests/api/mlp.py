"""A small network, trained in a moment, for tests that need real answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uapfast.models.registry import resolve_arch


def train(x: Tensor, y: Tensor, seed: int, width: int = 48, steps: int = 150) -> nn.Module:
    """An MLP with one hidden layer on 8x8 images; ``y`` holds labels or probabilities."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    return fit(model, x, y, steps)


def shipped(arch: str, x: Tensor, y: Tensor, seed: int, steps: int = 60) -> nn.Module:
    """A shipped network, ``arch`` its SPEC."""
    torch.manual_seed(seed)
    return fit(resolve_arch(arch)(), x, y, steps)


def fit(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> nn.Module:
    """The same, trained; torch's own generator draws the batches."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
