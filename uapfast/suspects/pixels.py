"""Images as other sizes and as eight bits, the same for every kind of suspect."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GRID = 1e-3  # of 1/255: what rounding in float32 leaves of a value on the grid


def to_uint8(images: Tensor) -> Tensor:
    """0..1 as 0..255, uint8."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def off_grid(images: Tensor) -> float:
    """By how much eight bits miss these images at most, in steps of 1/255; 0 where they hold them."""
    steps = images * 255
    found = float((steps - steps.round()).abs().max())
    return found if found > GRID else 0.0


def resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Images in 0..1 of another size, antialiased as Pillow does it: rows first, each pass kept in 0..1."""
    if mode == "nearest":
        return nn.functional.interpolate(x, size, mode="nearest-exact")
    for step in ((x.shape[2], size[1]), size):
        x = nn.functional.interpolate(x, step, mode=mode, antialias=True, align_corners=False).clamp(0, 1)
    return x


__all__ = ["off_grid", "resized", "to_uint8"]
