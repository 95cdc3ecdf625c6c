"""What a suspect lets one see: full probabilities, less, or nothing that can be used."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _top3(p: Tensor) -> Tensor:
    kept = p.topk(3, dim=-1)
    return torch.zeros_like(p).scatter(-1, kept.indices, kept.values)


def _noise(p: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(p.shape, generator=generator).softmax(-1)


def _refusing(p: Tensor) -> Tensor:
    """Every second query is refused with the flat answer."""
    out = p.clone()
    out[::2] = 1.0 / p.shape[-1]
    return out


ACCESS: dict[str, Callable[[Tensor], Tensor]] = {
    "probabilities": lambda p: p,
    "top 3": _top3,
    "two digits": lambda p: (p * 100).round() / 100,
    "labels": lambda p: torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).float(),
    "noise": _noise,
    "refuses half": _refusing,
}
