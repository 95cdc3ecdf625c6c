"""Data sets by DATA spec: ``FILE.npz``, ``fashion-mnist``, ``digits``, or a folder of class folders."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from uapfast.data.dataset import Dataset, Images, image_keys, labelled, make_dataset
from uapfast.data.folder import ImageFiles, read_folder
from uapfast.data.pictures import Framing, bad_data
from uapfast.data.unlabelled import stored_images
from uapfast.errors import DataError, fault

FASHION_FOLDER = "/usr/share/datasets/fashion-mnist"  # where Debian's dataset-fashion-mnist puts it
FASHION_PACKAGE = "Debian's package dataset-fashion-mnist, or set UAPFAST_DATA to the folder of its idx files"
SPLITS = ("train", "test")
RULE = "FILE.npz, fashion-mnist, digits, or a folder of class folders"


def load_data(spec: str, framing: Framing | None = None) -> Dataset:
    """Load a data set.

    Args:
        spec: ``FILE.npz`` with ``x`` and ``y``; ``fashion-mnist`` or ``digits``, whole, or with ``:train``
            or ``:test``; a folder of class folders of images (classes in sorted order; names that begin
            with a dot are passed over). 8-bit images give uint8, those of 16 bits or of floats float32;
            palettes and CMYK become RGB, EXIF orientation is applied, opaque alpha is dropped, grayscale
            beside colour is repeated to three channels (``DataWarning``). Transparency, several frames, and
            classes without images are refused. A folder of more than ``folder.HELD`` bytes of pixels is read
            as it is indexed.
        framing: what brings pictures of a folder to one size; they have to have one if None.

    Raises:
        DataError: the spec names nothing, or what it names cannot be used.
        MissingDependency: Pillow is needed for image folders.
    """
    if not isinstance(spec, str) or not spec:
        raise bad_data("DATA", RULE, repr(spec))
    name, _, split = spec.partition(":")
    if framing not in (None, Framing()) and not Path(spec).is_dir():
        raise bad_data("size and crop", "given for a folder of pictures only", repr(spec))
    if name in _NAMED:
        if split not in ("", *SPLITS):
            raise bad_data("DATA", f"{name}, {name}:train or {name}:test", repr(spec))
        return _NAMED[name](spec, split)
    path = Path(spec)
    if path.is_dir():
        return labelled(*read_folder(path, framing or Framing()), str(path))
    if path.suffix == ".npz":
        return _npz(path)
    raise bad_data("DATA", RULE, repr(spec))


def _npz(path: Path) -> Dataset:
    if not path.is_file():
        raise bad_data("DATA", "an existing file", path)
    try:
        with np.load(path, allow_pickle=False) as found:
            if not {"x", "y"} <= set(found.files):
                raise bad_data(
                    "DATA", f"an .npz with arrays x and y ({path})", ", ".join(found.files) or "none"
                )
            x, y = found["x"], found["y"]
    except DataError:
        raise
    except Exception as exc:  # zip, deflate and header errors of many kinds, and arrays too large
        raise bad_data("DATA", f"a whole .npz of plain arrays ({path})", fault(exc)) from exc
    return make_dataset(x, y, str(path))


def _idx(folders: list[Path], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One idx file of unsigned bytes, plain or gzipped (LeCun's: magic, big-endian sizes, data)."""
    files = [p for f in folders for p in (f / f"{name}.gz", f / name) if p.is_file()]
    if not files:
        raise bad_data("fashion-mnist", FASHION_PACKAGE, f"no {name}.gz in {' or '.join(map(str, folders))}")
    path = files[0]
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            blob = stream.read()
    except (OSError, EOFError, zlib.error) as exc:
        raise bad_data("fashion-mnist", "whole idx files", f"{type(exc).__name__}: {exc} ({path})") from exc
    rank = blob[3] if len(blob) >= 4 and blob[:3] == b"\0\0\x08" else 0
    shape = [int.from_bytes(blob[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    if not rank or len(blob) != 4 + 4 * rank + math.prod(shape):
        raise bad_data("fashion-mnist", "whole idx files of unsigned bytes", path)
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


_NAMED: dict[str, Callable[[str, str], Dataset]] = {"fashion-mnist": _fashion, "digits": _digits}

__all__ = [
    "Dataset",
    "Framing",
    "ImageFiles",
    "Images",
    "image_keys",
    "load_data",
    "make_dataset",
    "stored_images",
]
