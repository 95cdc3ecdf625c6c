"""Data sets by DATA spec: ``FILE.npz``, ``fashion-mnist``, ``digits``, or a folder of class folders."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uapfast.errors import DataError, MissingDependency

FASHION_FOLDER = "/usr/share/datasets/fashion-mnist"  # where Debian's dataset-fashion-mnist puts it
FASHION_PACKAGE = "Debian's package dataset-fashion-mnist, or set UAPFAST_DATA to the folder of its idx files"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
GRAY, COLOUR = ("1", "L", "LA", "La"), ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr")
DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # of 16 bits; "I" is what Pillow makes of some of them
SPLITS = ("train", "test")
RULE = "FILE.npz, fashion-mnist, digits, or a folder of class folders"


def _bad(argument: str, rule: str, got: object) -> DataError:
    return DataError("data", argument, rule, got)


@dataclass(frozen=True)
class Dataset:
    """Images with labels.

    Attributes:
        images: uint8 or float32 ``[N,C,H,W]``; float in 0..1.
        labels: int64 ``[N]`` in 0..classes-1.
        name: the spec that it came from.
        classes: K.
    """

    images: Tensor
    labels: Tensor
    name: str
    classes: int

    def __len__(self) -> int:
        return len(self.images)

    def x(self, index: Tensor | slice | None = None) -> Tensor:
        """float32 images in 0..1, all or those of ``index``."""
        images = self.images if index is None else self.images[index]
        return images.to(torch.float32) / 255.0 if images.dtype == torch.uint8 else images

    def subset(self, index: Tensor | slice) -> Dataset:
        """The data set of some rows, with the same classes."""
        return Dataset(self.images[index], self.labels[index], self.name, self.classes)

    @property
    def sha256(self) -> str:
        """Of images and labels."""
        h = hashlib.sha256()
        for part in (self.images, self.labels):
            h.update(f"{part.dtype}{tuple(part.shape)}".encode() + part.contiguous().numpy().tobytes())
        return h.hexdigest()


def make_dataset(images: Any, labels: Any, name: str) -> Dataset:
    """Check arrays and wrap them.

    Args:
        images: ``[N,C,H,W]`` or ``[N,H,W]``, uint8, or float in 0..1.
        labels: ``[N]`` integers >= 0, at least 2 classes.
        name: shown in errors.

    Raises:
        DataError: wrong shape, dtype, range or number; NaN; one class only.
    """
    x, y = (a.numpy(force=True) if isinstance(a, Tensor) else np.asarray(a) for a in (images, labels))
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or 0 in x.shape:
        raise _bad(f"x of {name}", "[N,C,H,W] or [N,H,W], not empty", list(x.shape))
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise _bad(f"x of {name}", "finite", "NaN or infinity")
        if float(x.min()) < 0.0 or float(x.max()) > 1.0:
            raise _bad(f"x of {name}", "in 0..1 where it is float (or uint8)", f"{x.min():g}..{x.max():g}")
    elif x.dtype != np.uint8:
        raise _bad(f"x of {name}", "uint8, or float in 0..1", x.dtype)
    if y.ndim != 1 or len(y) != len(x):
        raise _bad(f"y of {name}", f"[{len(x)}], one label an image", list(y.shape))
    if y.dtype.kind not in "iu":
        raise _bad(f"y of {name}", "integers", y.dtype)
    if int(y.min()) < 0 or int(y.max()) > 1_000_000:
        raise _bad(f"y of {name}", "labels in 0..K-1", f"{y.min()}..{y.max()}")
    if len(np.unique(y)) < 2:
        raise _bad(f"y of {name}", "of at least 2 classes", f"only class {y[0]}")
    labels_out = torch.from_numpy(y.astype(np.int64))
    return Dataset(torch.from_numpy(np.ascontiguousarray(x)), labels_out, name, int(y.max()) + 1)


def load_data(spec: str) -> Dataset:
    """Load a data set.

    Args:
        spec: ``FILE.npz`` with ``x`` and ``y``; ``fashion-mnist`` or ``digits``, whole, or with ``:train``
            or ``:test``; a folder of class folders of images (one size, classes in sorted order; names that
            begin with a dot are passed over). 8-bit images give uint8, those of 16 bits or of floats float32;
            palettes and CMYK become RGB, EXIF orientation is applied, opaque alpha is dropped. Transparency,
            several frames, grayscale beside colour, and classes without images are refused.

    Raises:
        DataError: the spec names nothing, or what it names cannot be used.
        MissingDependency: Pillow is needed for image folders.
    """
    if not isinstance(spec, str) or not spec:
        raise _bad("DATA", RULE, repr(spec))
    name, _, split = spec.partition(":")
    if name in _NAMED:
        if split not in ("", *SPLITS):
            raise _bad("DATA", f"{name}, {name}:train or {name}:test", repr(spec))
        return _NAMED[name](spec, split)
    path = Path(spec)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".npz":
        return _npz(path)
    raise _bad("DATA", RULE, repr(spec))


def _npz(path: Path) -> Dataset:
    if not path.is_file():
        raise _bad("DATA", "an existing file", path)
    try:
        with np.load(path, allow_pickle=False) as found:
            if not {"x", "y"} <= set(found.files):
                raise _bad("DATA", f"an .npz with arrays x and y ({path})", ", ".join(found.files) or "none")
            x, y = found["x"], found["y"]
    except DataError:
        raise
    except Exception as exc:  # zip, deflate and header errors of many kinds, and arrays too large
        said = f"{type(exc).__name__}: {str(exc)[:200]}"
        raise _bad("DATA", f"a whole .npz of plain arrays ({path})", said) from exc
    return make_dataset(x, y, str(path))


def _idx(folders: list[Path], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One idx file of unsigned bytes, plain or gzipped (LeCun's: magic, big-endian sizes, data)."""
    files = [p for f in folders for p in (f / f"{name}.gz", f / name) if p.is_file()]
    if not files:
        raise _bad("fashion-mnist", FASHION_PACKAGE, f"no {name}.gz in {' or '.join(map(str, folders))}")
    path = files[0]
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            blob = stream.read()
    except (OSError, EOFError, zlib.error) as exc:
        raise _bad("fashion-mnist", "whole idx files", f"{type(exc).__name__}: {exc} ({path})") from exc
    rank = blob[3] if len(blob) >= 4 and blob[:3] == b"\0\0\x08" else 0
    shape = [int.from_bytes(blob[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    if not rank or len(blob) != 4 + 4 * rank + math.prod(shape):
        raise _bad("fashion-mnist", "whole idx files of unsigned bytes", path)
    return np.frombuffer(blob, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()


def _fashion(spec: str, split: str) -> Dataset:
    own = os.environ.get("UAPFAST_DATA")
    folders = [Path(own), Path(own) / "fashion-mnist"] if own else []
    folders.append(Path(FASHION_FOLDER))
    parts = {"train": ["train"], "test": ["t10k"]}.get(split, ["train", "t10k"])
    x = np.concatenate([_idx(folders, f"{p}-images-idx3-ubyte") for p in parts])
    y = np.concatenate([_idx(folders, f"{p}-labels-idx1-ubyte") for p in parts])
    return make_dataset(x, y, spec)


def _digits(spec: str, split: str) -> Dataset:
    """scikit-learn's 1,797 8x8 digits; the halves are interleaved within each class."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = (found.images / 16.0).astype(np.float32), found.target
    if split:
        rank = np.zeros(len(y), dtype=np.int64)
        for label in np.unique(y):
            rank[y == label] = np.arange((y == label).sum())
        part = rank % 2 == (0 if split == "train" else 1)
        x, y = x[part], y[part]
    return make_dataset(x, y, spec)


def _folder(path: Path) -> Dataset:
    try:
        from PIL import Image
    except ImportError as exc:
        raise MissingDependency("data: a folder of images needs Pillow (pip install pillow)") from exc
    classes = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [(f, i) for i, c in enumerate(classes) for f in _images_of(c)]
    if not files:
        raise _bad("DATA", f"a folder of class folders of images ({', '.join(SUFFIXES)})", path)
    empty = [classes[i].name for i in sorted(set(range(len(classes))) - {i for _, i in files})]
    if empty:
        rule = f"a folder whose folders are classes, each with images ({', '.join(SUFFIXES)})"
        raise _bad("DATA", rule, f"none in {', '.join(empty[:4])} of {path}")
    arrays: list[np.ndarray[Any, Any]] = []
    for file, _ in files:
        try:
            with Image.open(file) as image:
                array = _pixels(image, file)
        except DataError:
            raise
        except Exception as exc:  # Pillow raises many kinds for damaged files
            raise _bad("DATA", "images that can be read", f"{file} ({type(exc).__name__})") from exc
        if arrays and len(array) != len(arrays[0]):
            kinds = {1: "in grayscale", 3: "in colour"}
            rule = f"images that are all {kinds[len(arrays[0])]}, as {files[0][0]} is"
            raise _bad("DATA", rule, f"one {kinds[len(array)]}: {file}")
        if arrays and array.shape != arrays[0].shape:
            raise _bad(
                "DATA", f"images of one size and mode {list(arrays[0].shape)}", f"{list(array.shape)}: {file}"
            )
        arrays.append(array)
    if len({a.dtype for a in arrays}) > 1:
        arrays = [a / np.float32(255) if a.dtype == np.uint8 else a for a in arrays]
    return make_dataset(np.stack(arrays), np.array([i for _, i in files]), str(path))


def _images_of(folder: Path) -> list[Path]:
    return sorted(
        f
        for f in folder.iterdir()
        if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file()
    )


def _pixels(image: Any, file: Path) -> np.ndarray[Any, Any]:
    """``[C,H,W]`` of a picture: uint8, or float32 in 0..1 where it has more than 8 bits."""
    from PIL import ImageOps

    if getattr(image, "n_frames", 1) > 1:
        raise _bad("DATA", "images of one frame", f"{image.n_frames} frames: {file}")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode in DEEP:
        return _deep(image, file)
    if image.mode not in GRAY + COLOUR:
        raise _bad("DATA", "images in grayscale or RGB", f"mode {image.mode}: {file}")
    if "transparency" in image.info or image.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        full = image.convert("RGBA")
        if full.getchannel("A").getextrema()[0] < 255:
            raise _bad("DATA", "images without transparency (paste them on a background)", file)
        image = image if image.mode in GRAY else full
    array = np.asarray(image.convert("L" if image.mode in GRAY else "RGB"))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _deep(image: Any, file: Path) -> np.ndarray[Any, Any]:
    """Grayscale of 16 bits or of floats, which Pillow's own conversion clips to 8 bits."""
    values = np.asarray(image)
    if "transparency" in image.info and bool((values == image.info["transparency"]).any()):
        raise _bad("DATA", "images without transparency (paste them on a background)", file)
    top = 1.0 if image.mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= top):
        raise _bad("DATA", f"images of mode {image.mode} in 0..{top:g}", f"{low:g}..{high:g}: {file}")
    return (values.astype(np.float64) / top).astype(np.float32)[None]


_NAMED: dict[str, Callable[[str, str], Dataset]] = {"fashion-mnist": _fashion, "digits": _digits}
