"""The owner's images and labels, checked as they come."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from uapfast.data import ImageFiles, Images, image_keys
from uapfast.errors import DataError
from uapfast.images import check_images
from uapfast.verbs.findings import Findings

MANY_REPEATS = 0.1  # share of the query points; real sets of images have some
FEW_SEEN = 0.01  # share of the query points up to which duplicates need nothing of the owner


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


def check_unseen(points: Tensor, seen: Collection[int], findings: Findings) -> None:
    """Warn of query points that the victim was trained on, as far as the pool knows its images.

    Args:
        points: ``[Q,C,H,W]``, of the owner's images alone.
        seen: keys of the images that the pool was made of (:func:`uapfast.data.image_keys`).
        findings: gets the sentence.
    """
    count = sum(key in seen for key in image_keys(points).tolist()) if seen else 0
    if count:
        findings.warn(
            f"{count} of the {len(points)} query points are images that the pool was made of, and the victim "
            "most likely trained on: give images that it has not seen (--data)",
            act=count > FEW_SEEN * len(points),
        )


def check_repeated(points: Tensor, findings: Findings) -> None:
    """Warn of query points that say the same again; arguments as :func:`check_unseen`."""
    distinct = len(set(image_keys(points).tolist()))
    if distinct < (1 - MANY_REPEATS) * len(points):
        findings.warn(
            f"only {distinct} of the {len(points)} query points are different images, and repeats show "
            "nothing new: give more different images (--data)"
        )


def check_points(points: Tensor, seen: Collection[int], findings: Findings) -> None:
    """Query points that are repeats, or that the victim was trained on; arguments as :func:`check_unseen`."""
    check_repeated(points, findings)
    check_unseen(points, seen, findings)


__all__ = ["check_labels", "check_points", "check_unseen", "owners_images"]
