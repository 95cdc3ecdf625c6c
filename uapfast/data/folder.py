"""A folder of class folders of pictures, read when they are needed if they are many."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uapfast.data.pictures import Framing, PictureHeader, bad_data, pixels, read_picture_header
from uapfast.errors import DataError, DataWarning, MissingDependency

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
HELD = 1 << 30  # bytes of decoded pictures that are kept; what is beyond is read anew each time
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "eval")


class ImageFiles:
    """Pictures on disk, indexed like a tensor ``[N,C,H,W]``; the first ``HELD`` bytes of them stay in memory.

    Args:
        files: of the pictures, which are of one size once they are framed.
        shape: ``[C,H,W]`` in the end; grayscale is repeated to three channels.
        dtype: uint8, or float32 in 0..1.
        framing: what is done to each.

    Raises:
        DataError: as it is indexed, for a picture that cannot be read; it names the file.
    """

    def __init__(
        self, files: Sequence[Path], shape: tuple[int, int, int], dtype: torch.dtype, framing: Framing
    ) -> None:
        self.files, self.dtype, self.framing = list(files), dtype, framing
        self.shape = torch.Size([len(files), *shape])
        self._held: dict[Path, Tensor] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be read again."""
        return vars(self) | {"_held": {}}

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """``[n,C,H,W]``, new memory."""
        rows = torch.arange(len(self))[index].tolist()
        out = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        for place, row in enumerate(rows):
            out[place] = self._read(self.files[row])
        return out

    def subset(self, index: Tensor | slice) -> ImageFiles:
        """Some of them; nothing is read."""
        files = [self.files[i] for i in torch.arange(len(self))[index].tolist()]
        channels, height, width = self.shape[1:]
        found = ImageFiles(files, (channels, height, width), self.dtype, self.framing)
        found._held = self._held  # together as much as one
        return found

    def decoded(self) -> Tensor:
        """All of them, read once; nothing is held besides."""
        out, broken = torch.empty(self.shape, dtype=self.dtype), []
        for place, file in enumerate(self.files):
            try:
                out[place] = self._decoded(file)
            except DataError as exc:
                if not isinstance(
                    exc.__cause__, Exception
                ):  # it was read, and is of a kind that is not taken
                    raise
                broken.append((file, exc.__cause__))
        if broken:
            raise _unreadable(broken)
        return out

    def _read(self, file: Path) -> Tensor:
        found = self._held.get(file)
        if found is None:
            found = self._decoded(file)
            if (len(self._held) + 1) * found.nbytes <= HELD:
                self._held[file] = found
        return found

    def _decoded(self, file: Path) -> Tensor:
        from PIL import Image

        try:
            with Image.open(file) as image:
                array = pixels(image, file, self.framing)
        except DataError:
            raise
        except Exception as exc:  # Pillow raises many kinds for damaged files
            raise _unreadable([(file, exc)]) from exc
        if self.dtype == torch.float32 and array.dtype == np.uint8:
            array = array / np.float32(255)
        found = torch.from_numpy(np.array(array)).expand(
            tuple(self.shape[1:])
        )  # a copy: Pillow's is read-only
        return found.contiguous()

    @property
    def nbytes(self) -> int:
        """Bytes of all, decoded."""
        return self.shape.numel() * self.dtype.itemsize


def read_folder(path: Path, framing: Framing) -> tuple[Tensor | ImageFiles, list[int]]:
    """Images and labels of a folder of class folders: a tensor if they fit ``HELD``, else files.

    Raises:
        DataError: as :func:`uapfast.data.load_data`.
        MissingDependency: Pillow is needed.
    """
    try:
        import PIL  # noqa: F401
    except ImportError as exc:
        raise MissingDependency("data: a folder of images needs Pillow (pip install pillow)") from exc
    files, labels = _listed(path)
    headers = _headers(files)
    shape = _one_shape(files, headers, framing)
    deep = any(h.deep for h in headers)
    images = ImageFiles(files, shape, torch.float32 if deep else torch.uint8, framing)
    return (images.decoded() if images.nbytes <= HELD else images), labels


def _listed(path: Path) -> tuple[list[Path], list[int]]:
    """Files, and the number of the class of each."""
    classes = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [(f, i) for i, c in enumerate(classes) for f in _images_of(c)]
    splits = [c.name for c in classes if c.name.lower() in SPLITS]
    if splits and len(splits) == len(classes) and not files:
        named = " or ".join(str(path / name) for name in splits)
        raise bad_data("DATA", f"one part of the data: {named}", f"{path}, which holds {', '.join(splits)}")
    if not files:
        raise bad_data("DATA", f"a folder of class folders of images ({', '.join(SUFFIXES)})", path)
    empty = [classes[i].name for i in sorted(set(range(len(classes))) - {i for _, i in files})]
    if empty:
        rule = f"a folder whose folders are classes, each with images ({', '.join(SUFFIXES)})"
        raise bad_data("DATA", rule, f"none in {', '.join(empty[:4])} of {path}")
    return [f for f, _ in files], [i for _, i in files]


def _images_of(folder: Path) -> list[Path]:
    return sorted(
        f
        for f in folder.iterdir()
        if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file()
    )


def _headers(files: Sequence[Path]) -> list[PictureHeader]:
    """Of every file; raises ``DataError`` that tells of all that cannot be read, and not of one at a time."""
    from PIL import Image

    found, broken = [], []
    for file in files:
        try:
            with Image.open(file) as image:
                found.append(read_picture_header(image, file))
        except DataError:
            raise
        except Exception as exc:  # Pillow raises many kinds for damaged files
            broken.append((file, exc))
    if broken:
        raise _unreadable(broken)
    return found


def _unreadable(broken: Sequence[tuple[Path, Exception]]) -> DataError:
    shown = ", ".join(f"{file} ({type(exc).__name__})" for file, exc in broken[:4])
    more = f" and {len(broken) - 4} more" if len(broken) > 4 else ""
    return bad_data("DATA", "images that can be read (remove or mend the others)", shown + more)


def _one_shape(
    files: Sequence[Path], headers: Sequence[PictureHeader], framing: Framing
) -> tuple[int, int, int]:
    """``[C,H,W]`` that all pictures come to."""
    channels = max(h.channels for h in headers)
    gray = [file for file, h in zip(files, headers, strict=True) if h.channels < channels]
    if gray:
        more = f" and {len(gray) - 1} more" if len(gray) > 1 else ""
        said = f"data: in grayscale among pictures in colour, repeated to three channels: {gray[0]}{more}"
        warnings.warn(said, DataWarning, stacklevel=4)
    first: tuple[int, int] | None = None
    for file, header in zip(files, headers, strict=True):
        found = framing.framed(header.height, header.width, file)
        first = first or found
        if found != first:
            rule = (
                f"images of one size {list(first)}, as {files[0].name} has (or give size and crop, such as "
            )
            rule += "--size 256 --crop 224)"
            raise bad_data("DATA", rule, f"{list(found)}: {file}")
    assert first is not None
    return channels, *first


__all__ = ["HELD", "ImageFiles", "read_folder"]
