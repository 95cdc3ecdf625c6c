"""The owner's images and labels, checked as they come."""

from __future__ import annotations

from typing import Any

import torch

from uapfast.data import ImageFiles, Images
from uapfast.errors import DataError
from uapfast.images import check_images


def owners_images(where: str, images: Any) -> Images:
    """The owner's images, which become float32 ``[N,C,H,W]`` in 0..1; raises ``DataError``."""
    return Images(images if isinstance(images, ImageFiles) else check_images(images, where, planes=True))


def check_labels(labels: Any, rows: int) -> None:
    """The owner's labels, if any: ``[N]`` integers of two classes at least; raises ``DataError``."""
    if labels is None:
        return
    y = torch.as_tensor(labels)
    if y.ndim != 1 or len(y) != rows or y.dtype.is_floating_point:
        raise DataError("generate", "labels", f"[{rows}] integers", f"{list(y.shape)} {y.dtype}")
    if len(torch.unique(y)) < 2:
        raise DataError("generate", "labels", "of at least 2 classes", f"{len(torch.unique(y))} class")


__all__ = ["check_labels", "owners_images"]
