"""A data set: images with labels, whose images may lie on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.data.folder import ImageFiles
from uapfast.data.pictures import bad_data
from uapfast.images import check_images, floats

ROWS = 64  # images that become floats at a time


@dataclass(frozen=True)
class Dataset:
    """Images with labels.

    Attributes:
        images: uint8 or float32 ``[N,C,H,W]``, float in 0..1; a tensor, or files that are read as they are
            indexed.
        labels: int64 ``[N]`` in 0..classes-1.
        name: the spec that it came from.
        classes: K.
    """

    images: Tensor | ImageFiles
    labels: Tensor
    name: str
    classes: int

    def __len__(self) -> int:
        return len(self.images)

    def x(self, index: Tensor | slice | None = None) -> Tensor:
        """float32 images in 0..1, all or those of ``index``."""
        return Images(self.images)[slice(None) if index is None else index]

    def subset(self, index: Tensor | slice) -> Dataset:
        """The data set of some rows, with the same classes."""
        images = self.images.subset(index) if isinstance(self.images, ImageFiles) else self.images[index]
        return Dataset(images, self.labels[index], self.name, self.classes)

    @property
    def sha256(self) -> str:
        """Of images and labels."""
        return self.read()[0]

    def read(self) -> tuple[str, NDArray[np.uint64]]:
        """SHA-256 of images and labels, and the key of every image (:func:`image_keys`), in one pass."""
        h, keys = hashlib.sha256(), []
        for part in (self.images, self.labels):
            h.update(f"{part.dtype}{tuple(part.shape)}".encode())
            for at in range(0, len(part), ROWS):
                rows = part[at : at + ROWS].contiguous()
                h.update(rows.numpy().tobytes())
                if part is self.images:
                    keys.append(image_keys(rows))
        return h.hexdigest(), np.concatenate(keys) if keys else np.zeros(0, np.uint64)


def image_keys(images: Tensor) -> NDArray[np.uint64]:
    """What each of ``[n,C,H,W]``, uint8 or float in 0..1, is known again by: a hash of its 8-bit values."""
    if images.dtype != torch.uint8:
        images = (images.to(torch.float32) * 255.0).round().clamp(0, 255).to(torch.uint8)
    found = [hashlib.blake2b(one.numpy().tobytes(), digest_size=8).digest() for one in images.contiguous()]
    return np.frombuffer(b"".join(found), np.uint64)


class Images:
    """Images that become float32 in 0..1 when they are indexed, never all at once.

    Args:
        source: uint8 or float ``[N,C,H,W]``, a tensor or files.
        rows: int64 indices of those that are meant; all by default.

    Attributes:
        shape: ``[N,C,H,W]``.
    """

    def __init__(self, source: Tensor | ImageFiles, rows: Tensor | None = None) -> None:
        self.source, self.rows = source, rows
        self.shape = torch.Size([len(source) if rows is None else len(rows), *source.shape[1:]])

    def __len__(self) -> int:
        return self.shape[0]

    def kept(self, index: Tensor | slice) -> Tensor:
        """Images as they are kept: uint8, or float32 in 0..1."""
        found = self.source[index if self.rows is None else self.rows[index]]
        return found if found.dtype == torch.uint8 else found.to(torch.float32).clamp(0.0, 1.0)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """float32 ``[n,C,H,W]`` in 0..1."""
        return floats(self.kept(index))

    def subset(self, index: Tensor | slice) -> Images:
        """Some of them; nothing is copied."""
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        return Images(self.source, rows[index])

    def chunks(self, size: int = ROWS) -> Iterator[Tensor]:
        """All of them, ``size`` at a time."""
        for at in range(0, len(self), size):
            yield self[at : at + size]


def make_dataset(images: Any, labels: Any, name: str) -> Dataset:
    """Check arrays and wrap them.

    Args:
        images: ``[N,C,H,W]`` or ``[N,H,W]``, uint8, or float in 0..1.
        labels: ``[N]`` integers >= 0, at least 2 classes.
        name: shown in errors.

    Raises:
        DataError: wrong shape, dtype, range or number; NaN; one class only.
    """
    x = check_images(images, "data", f"x of {name}", planes=True).cpu()
    return labelled(x if x.dtype == torch.uint8 else x.to(torch.float32), labels, name)


def labelled(images: Tensor | ImageFiles, labels: Any, name: str) -> Dataset:
    """A data set of images that are right, and of labels that are not checked yet; raises ``DataError``."""
    y = labels.numpy(force=True) if isinstance(labels, Tensor) else np.asarray(labels)
    if y.ndim != 1 or len(y) != len(images):
        raise bad_data(f"y of {name}", f"[{len(images)}], one label per image", list(y.shape))
    if y.dtype.kind not in "iu":
        raise bad_data(f"y of {name}", "integers", y.dtype)
    if int(y.min()) < 0 or int(y.max()) > 1_000_000:
        raise bad_data(f"y of {name}", "labels in 0..K-1", f"{y.min()}..{y.max()}")
    if len(np.unique(y)) < 2:
        raise bad_data(f"y of {name}", "of at least 2 classes", f"only class {y[0]}")
    return Dataset(images, torch.from_numpy(y.astype(np.int64)), name, int(y.max()) + 1)


__all__ = ["Dataset", "Images", "image_keys", "labelled", "make_dataset"]
