"""Images as they are given, kept and computed with: what they may be, as bytes and as floats in 0..1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from uapfast.errors import DataError, InputError

SLACK = 1e-6  # beyond 0..1: rounding
ROWS = 64  # images looked at at a time


def check_images(
    images: Any,
    where: str,
    argument: str = "images",
    error: type[InputError] = DataError,
    planes: bool = False,
) -> Tensor:
    """Images as a tensor, uint8 or float in 0..1, of the dtype and on the device on which they came.

    Args:
        images: ``[N,C,H,W]``, none of them 0; an array or a tensor.
        where: who asks, for the error.
        argument: its name, for the error.
        error: what is raised.
        planes: ``[N,H,W]`` is taken too, for one channel.

    Raises:
        InputError: ``error``: no array, another shape or dtype, NaN, or more than rounding out of 0..1.
    """
    try:
        x = torch.as_tensor(np.ascontiguousarray(images) if isinstance(images, np.ndarray) else images)
    except (TypeError, ValueError, RuntimeError) as exc:
        got = f"{type(images).__name__} ({exc})"
        raise error(where, argument, "an array of numbers", got) from exc
    x = x.detach()
    if x.ndim == 3 and planes:
        x = x[:, None]
    if x.ndim != 4 or 0 in x.shape:
        rule = "[N,C,H,W] or [N,H,W], not empty" if planes else "[N,C,H,W], not empty"
        raise error(where, argument, rule, list(x.shape))
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise error(where, argument, "uint8, or float in 0..1", str(x.dtype).removeprefix("torch."))
    low, high = (float(found) for found in x.aminmax())  # NaN where there is any
    if not (np.isfinite(low) and np.isfinite(high)):
        raise error(where, argument, "finite", "NaN or infinity")
    if low < -SLACK or high > 1.0 + SLACK:
        hint = "divide by 255?" if 1.5 < high <= 255 and low >= 0 else "normalisation belongs into the model"
        raise error(where, argument, "in 0..1", f"{low:g}..{high:g} ({hint})")
    return x


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
    return images.to(torch.float32) / 255.0 if images.dtype == torch.uint8 else images.to(torch.float32)


__all__ = ["SLACK", "check_images", "floats", "packed"]
