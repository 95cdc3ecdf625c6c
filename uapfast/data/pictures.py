"""Pictures of all kinds to arrays of one form: colours, bits, orientation, size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uapfast.errors import DataError

GRAY, COLOUR = ("1", "L", "LA", "La"), ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr")
DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # of 16 bits; "I" is what Pillow makes of some of them
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
MOST_SIDE = 8192
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: height and width change places


def bad_data(argument: str, rule: str, got: object) -> DataError:
    """The error of data that cannot be used."""
    return DataError("data", argument, rule, got)


@dataclass(frozen=True)
class Framing:
    """How photographs of different sizes come to one, the same for every model.

    Attributes:
        size: ``(S,)``: the shorter side becomes S and the other follows, as ``torchvision``'s ``Resize(S)``;
            ``(H, W)``: exactly so; None leaves the size.
        crop: ``(H, W)``, the middle that is cut out afterwards; None for all of it.
        interpolation: of resizing, with Pillow's antialiasing; one of ``INTERPOLATIONS``.
    """

    size: tuple[int, ...] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        """Check the numbers; raises ``DataError``."""
        for name, value, counts in (("size", self.size, (1, 2)), ("crop", self.crop, (2,))):
            if value is None:
                continue
            whole = all(isinstance(n, int) and 1 <= n <= MOST_SIDE for n in value)
            if len(value) not in counts or not whole:
                raise bad_data(name, f"H or H,W, whole numbers in 1..{MOST_SIDE}", value)
        if self.interpolation not in INTERPOLATIONS:
            raise bad_data("interpolation", "one of " + ", ".join(INTERPOLATIONS), repr(self.interpolation))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing."""
        if self.size is None:
            return height, width
        if len(self.size) == 2:
            return self.size[0], self.size[1]
        (short,) = self.size
        if height <= width:
            return short, int(short * width / height)
        return int(short * height / width), short

    def framed(self, height: int, width: int, file: Path) -> tuple[int, int]:
        """Height and width in the end; raises ``DataError`` where the picture is smaller than the crop."""
        height, width = self.resized(height, width)
        if self.crop is None:
            return height, width
        if height < self.crop[0] or width < self.crop[1]:
            rule = f"at most the size of every picture, {height} x {width} of {file} (give size, too)"
            raise bad_data("crop", rule, " x ".join(map(str, self.crop)))
        return self.crop

    def apply(self, image: Any) -> Any:
        """A Pillow image of that size."""
        from PIL import Image

        width, height = image.size
        high, wide = self.resized(height, width)
        if (high, wide) != (height, width):
            image = image.resize((wide, high), Image.Resampling[self.interpolation.upper()])
        if self.crop is None:
            return image
        top, left = round((high - self.crop[0]) / 2.0), round((wide - self.crop[1]) / 2.0)
        return image.crop((left, top, left + self.crop[1], top + self.crop[0]))


@dataclass(frozen=True)
class PictureHeader:
    """What a file says of its picture before it is decoded.

    Attributes:
        channels: 1 or 3.
        deep: of more than 8 bits.
        height, width: with its orientation applied.
    """

    channels: int
    deep: bool
    height: int
    width: int


def read_picture_header(image: Any, file: Path) -> PictureHeader:
    """Of an opened Pillow image; raises ``DataError`` for kinds that are not read."""
    if getattr(image, "n_frames", 1) > 1:
        raise bad_data("DATA", "images of one frame", f"{image.n_frames} frames: {file}")
    deep = image.mode == "F" or image.mode in DEEP
    if not deep and image.mode not in GRAY + COLOUR:
        raise bad_data("DATA", "images in grayscale or RGB", f"mode {image.mode}: {file}")
    width, height = image.size
    if image.getexif().get(ORIENTATION) in TURNED:
        width, height = height, width
    return PictureHeader(3 if image.mode in COLOUR else 1, deep, height, width)


def pixels(image: Any, file: Path, framing: Framing) -> NDArray[Any]:
    """``[C,H,W]`` of a picture: uint8, or float32 in 0..1 where it has more than 8 bits."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode in DEEP:
        return _deep(image, file, framing)
    if "transparency" in image.info or image.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        full = image.convert("RGBA")
        if full.getchannel("A").getextrema()[0] < 255:
            raise bad_data("DATA", "images without transparency (paste them on a background)", file)
        image = image if image.mode in GRAY else full
    array = np.asarray(framing.apply(image.convert("L" if image.mode in GRAY else "RGB")))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _deep(image: Any, file: Path, framing: Framing) -> NDArray[Any]:
    """Grayscale of 16 bits or of floats, which Pillow's own conversion clips to 8 bits."""
    from PIL import Image

    values = np.asarray(image)
    if "transparency" in image.info and bool((values == image.info["transparency"]).any()):
        raise bad_data("DATA", "images without transparency (paste them on a background)", file)
    top = 1.0 if image.mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= top):
        raise bad_data("DATA", f"images of mode {image.mode} in 0..{top:g}", f"{low:g}..{high:g}: {file}")
    scaled = (values.astype(np.float64) / top).astype(np.float32)
    framed = np.asarray(framing.apply(Image.fromarray(scaled)), dtype=np.float32)
    return framed.clip(0.0, 1.0)[None]


__all__ = ["INTERPOLATIONS", "Framing", "PictureHeader", "bad_data", "pixels", "read_picture_header"]
