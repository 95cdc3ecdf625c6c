"""The owner's images and labels, checked as they come."""

from __future__ import annotations

import math
from typing import Any

import torch

from uapfast.data import ImageFiles, Images
from uapfast.errors import DataError


def check_images(where: str, images: Any) -> Images:
    """The owner's images, which become float32 ``[N,C,H,W]`` in 0..1; raises ``DataError``."""
    if isinstance(images, ImageFiles):
        return Images(images)
    x = torch.as_tensor(images)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or 0 in x.shape:
        raise DataError(where, "images", "[N,C,H,W] or [N,H,W], not empty", list(x.shape))
    if x.dtype == torch.uint8:
        return Images(x)
    if not x.dtype.is_floating_point:
        raise DataError(where, "images", "uint8, or float in 0..1", x.dtype)
    low, high = (float(found) for found in x.aminmax())  # NaN where there is any
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(where, "images", "finite", "NaN or infinity")
    if low < -1e-6 or high > 1.0 + 1e-6:
        raise DataError(where, "images", "in 0..1 (put normalisation into the model)", f"{low:g}..{high:g}")
    return Images(x)


def check_labels(labels: Any, rows: int) -> None:
    """The owner's labels, if any: ``[N]`` integers of two classes at least; raises ``DataError``."""
    if labels is None:
        return
    y = torch.as_tensor(labels)
    if y.ndim != 1 or len(y) != rows or y.dtype.is_floating_point:
        raise DataError("generate", "labels", f"[{rows}] integers", f"{list(y.shape)} {y.dtype}")
    if len(torch.unique(y)) < 2:
        raise DataError("generate", "labels", "of at least 2 classes", f"{len(torch.unique(y))} class")


__all__ = ["check_images", "check_labels"]
