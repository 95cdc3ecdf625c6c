"""Weights as a test writes and reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from uapfast.models.checkpoint import read_weights

FORMATS = [pytest.param(True, id="zip"), pytest.param(False, id="legacy")]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    flat = [t.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8) for t in (a, b)]
    return flat[0].equal(flat[1])


def check(path: Path, right: dict[str, torch.Tensor]) -> None:
    found = read_weights(path)
    assert found.keys() == right.keys()
    for name, value in right.items():
        assert same(found[name], value.detach()), name


def put(folder: Path, blob: bytes, name: str = "w.pt") -> Path:
    (folder / name).write_bytes(blob)
    return folder / name
