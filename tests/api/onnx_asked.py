"""A small network and its ONNX file, for the tests that ask it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

runs = pytest.mark.needs("onnxruntime")


def net(channels: int = 1, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 10),
    ).eval().requires_grad_(False)  # fmt: skip


def put(folder: Path, data: bytes, name: str = "m.onnx") -> Path:
    (folder / name).write_bytes(data)
    return folder / name
