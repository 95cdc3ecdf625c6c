"""Images in 0..1 that lie on the 1/255 grid, kept as bytes: a quarter of the memory, and nothing is lost."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 64  # images looked at at a time


def packed(images: Tensor) -> Tensor:
    """The same images as uint8, if :func:`floats` gives every value back; else as they are.

    Args:
        images: ``[N,C,H,W]``, uint8, or float32 in 0..1.
    """
    if images.dtype == torch.uint8:
        return images
    out = torch.empty(images.shape, dtype=torch.uint8)
    for at in range(0, len(images), ROWS):
        part = images[at : at + ROWS]
        steps = (part * 255.0).round()
        on_grid = bool(((steps >= 0) & (steps <= 255) & (steps / 255.0 == part)).all())
        if not on_grid:
            return images
        out[at : at + ROWS] = steps.to(torch.uint8)
    return out


def floats(images: Tensor) -> Tensor:
    """float32 in 0..1 of images of either form, ``[...,C,H,W]``."""
    return images.to(torch.float32) / 255.0 if images.dtype == torch.uint8 else images


__all__ = ["floats", "packed"]
