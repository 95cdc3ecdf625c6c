"""How images are put into a request: encoding, layout, range, preprocessing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import EndpointError, MissingDependency, how_to_install
from uapfast.models.preprocessing import CHANNEL_ORDERS, RGB, turned
from uapfast.suspects.pixels import resized, to_uint8

FILES = ("png", "jpeg", "base64")  # an image file each; base64 is a PNG as text
ENCODINGS = (*FILES, "raw", "array")
LAYOUTS = ("nchw", "nhwc")
DATATYPES = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "UINT8": np.uint8}
JPEG_QUALITY = 95

Payload = bytes | memoryview


@dataclass(frozen=True)
class ImageEncoding:
    """How one image is sent.

    Attributes:
        encoding: ``png``, ``jpeg``, ``base64`` (a PNG), ``raw`` (bytes of numbers) or ``array`` (numbers).
        layout: ``nchw`` or ``nhwc``, of numbers.
        datatype: of numbers: FP16, FP32, FP64 or UINT8 (0..255).
        scale: images in 0..1 are multiplied by it: 1 or 255.
        mean: subtracted from images in 0..1, one a channel in ``channel_order`` or one for all.
        std: divided by after that.
        channel_order: ``rgb`` or ``bgr``, of numbers.
        size: height and width that the endpoint takes; images are resized (bilinear). None leaves them.

    Raises:
        EndpointError: names that do not exist, or that exclude each other.
    """

    encoding: str = "array"
    layout: str = "nchw"
    datatype: str = "FP32"
    scale: int = 1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channel_order: str = RGB
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _one_of("encoding", self.encoding, ENCODINGS)
        _one_of("layout", self.layout, LAYOUTS)
        _one_of("datatype", self.datatype, tuple(DATATYPES))
        _one_of("channel_order", self.channel_order, CHANNEL_ORDERS)
        if self.channel_order != RGB and self.encoding in FILES:
            rule = "left out where images are sent as files, which say it themselves"
            raise EndpointError("http", "channel_order", rule, self.channel_order)
        if self.scale not in (1, 255):
            raise EndpointError("http", "scale", "1 (images in 0..1) or 255", self.scale)
        if self.std is not None and not all(s > 0 for s in self.std):
            raise EndpointError("http", "std", "numbers above 0", self.std)
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise EndpointError("http", "size", "height and width", self.size)
        normalised = self.mean is not None or self.std is not None
        if normalised and (self.bits8 or self.scale != 1):
            rule = "left out where images are sent in 0..255 or as image files"
            raise EndpointError("http", "mean and std", rule, f"{self.mean}, {self.std}")

    @property
    def bits8(self) -> bool:
        """Whether images are rounded to 8 bits."""
        return self.encoding in FILES or self.datatype == "UINT8"

    @property
    def is_file(self) -> bool:
        """Whether what is sent is an image file, as bytes or as text."""
        return self.encoding in FILES

    @property
    def as_it_is(self) -> bool:
        """Whether the bytes of an image, float32 in 0..1, are what is sent."""
        plain = replace(self, encoding="raw", size=None) == ImageEncoding(encoding="raw")
        return plain and not self.is_file

    def shape(self, channels: int, height: int, width: int) -> tuple[int, ...]:
        """Of one image as numbers."""
        height, width = self.size or (height, width)
        return (channels, height, width) if self.layout == "nchw" else (height, width, channels)

    def encode(self, images: Tensor) -> list[Payload]:
        """Each of ``[n,C,H,W]``, float32 in 0..1, as an image file's bytes, or those of numbers."""
        if self.size is not None and tuple(images.shape[2:]) != self.size:
            images = resized(images, self.size, "bilinear")
        if self.is_file:
            rows = to_uint8(images).permute(0, 2, 3, 1).numpy()
            return [_file(row, "JPEG" if self.encoding == "jpeg" else "PNG") for row in rows]
        values = np.ascontiguousarray(self._numbers(turned(images, self.channel_order)))
        return [memoryview(row).cast("B") for row in values]

    def _numbers(self, images: Tensor) -> NDArray[np.generic]:
        if self.datatype == "UINT8":
            images = to_uint8(images)
        elif self.scale != 1:
            images = images * self.scale
        channels = images.shape[1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None:
                if len(values) not in (1, channels):
                    raise EndpointError("http", name, f"1 or {channels} numbers", values)
                each = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
                images = images - each if name == "mean" else images / each
        if self.layout == "nhwc":
            images = images.permute(0, 2, 3, 1)
        return images.numpy().astype(DATATYPES[self.datatype], copy=False)

    def numbers(self, payload: Payload) -> NDArray[np.generic]:
        """What :meth:`encode` made bytes of, flat."""
        return np.frombuffer(payload, dtype=DATATYPES[self.datatype])


def _file(pixels: NDArray[np.uint8], kind: str) -> bytes:
    try:
        from PIL import Image
    except ImportError as exc:
        raise MissingDependency(f"http: image files need Pillow ({how_to_install('http')})") from exc
    if pixels.shape[-1] not in (1, 3):
        raise EndpointError("http", "images", "of 1 or 3 channels to be sent as files", pixels.shape[-1])
    stream = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels)
    if kind == "JPEG":
        image.save(stream, kind, quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(stream, kind, compress_level=1)
    return stream.getvalue()


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise EndpointError("http", name, "one of " + ", ".join(allowed), repr(value))


__all__ = ["DATATYPES", "ENCODINGS", "FILES", "LAYOUTS", "ImageEncoding", "Payload"]
