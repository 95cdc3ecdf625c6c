"""What an ONNX classifier is fed: layout, size, range and type of its input, and images made so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uapfast.errors import InputError
from uapfast.models.preprocessing import BGR, RGB, checked_channel_order, turned
from uapfast.safeload.onnxfile import OnnxFile, Port
from uapfast.safeload.refusal import Refused
from uapfast.suspects.pixels import resized

TORCH_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "float64": torch.float64,
    "uint8": torch.uint8,
}
MOST_BATCH, MOST_VALUES = 4096, 1 << 28  # of an input that fixes its sizes


@dataclass(frozen=True)
class InputSettings:
    """How images in 0..1 become the network's input.

    Attributes:
        layout: ``NCHW``, ``NHWC``, or None where shapes have to tell.
        size: height and width to ask in, or None for that of the images (or the network's own, if fixed).
        channel_order: ``rgb`` or ``bgr``; None where nobody said: ``rgb``.
        scale: what images are multiplied with.
        mean: subtracted then, one value or one a channel in the network's order; None for none.
        std: divided by then; None for none.
    """

    layout: str | None = None
    size: tuple[int, int] | None = None
    channel_order: str | None = None
    scale: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def unchanged(self) -> bool:
        """Whether somebody said, by mean 0 and std 1, that images in 0..1 are taken as they are."""
        turns = self.channel_order == BGR
        return self.scale == 1 and not turns and {self.mean, self.std} == {(0.0,), (1.0,)}

    def __str__(self) -> str:
        """For people."""
        images = f"{self.channel_order or RGB} images times {self.scale:g}"
        if self.mean is None or self.std is None:
            return images
        mean, std = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"{images}, less {mean}, divided by {std}"


def input_settings(
    layout: str | None,
    size: tuple[int, int] | None,
    channel_order: str | None,
    scale: float,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> InputSettings:
    """Settings as they count.

    Raises:
        InputError: one makes no sense.
    """
    where = "open_onnx"
    if layout not in (None, "NCHW", "NHWC"):
        raise InputError(where, "layout", "NCHW, NHWC or None", repr(layout))
    checked_channel_order(channel_order, where)
    if size is not None and (len(size) != 2 or any(type(n) is not int or not 1 <= n <= 8192 for n in size)):
        raise InputError(where, "size", "height and width, whole numbers in 1..8192", repr(size))
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise InputError(where, "scale", "a number above 0", repr(scale))
    if (mean is None) != (std is None):
        raise InputError(where, "mean and std", "given together", "one of them")
    values: list[tuple[float, ...] | None] = []
    for what, given in (("mean", mean), ("std", std)):
        values.append(None if given is None else tuple(float(v) for v in given))
        if given is not None and not (values[-1] and all(map(math.isfinite, values[-1]))):
            raise InputError(where, what, "finite numbers, one per channel", list(given))
    mean_of, std_of = values
    if mean_of is not None and std_of is not None and len(mean_of) != len(std_of):
        got = f"{len(mean_of)} and {len(std_of)}"
        raise InputError(where, "mean and std", "of equal length, one value per channel", got)
    if values[1] is not None and min(values[1]) <= 0:
        raise InputError(where, "std", "above 0", list(values[1]))
    asked = None if size is None else (size[0], size[1])
    return InputSettings(layout, asked, channel_order, float(scale), *values)


def prepared(images: Tensor, feed: Port, layout: str, made: InputSettings, name: str) -> Tensor:
    """Images ``[n,C,H,W]`` in 0..1 as the network takes them (see :class:`InputSettings`).

    Raises:
        InputError: channels other than the network's, or ``mean`` and ``std`` of other channels.
    """
    assert feed.shape is not None
    channels = feed.shape[1 if layout == "NCHW" else 3]
    if channels not in (None, images.shape[1]):
        raise InputError(
            name, "images", f"of {channels} channels, as the network {feed} takes", images.shape[1]
        )
    size = made.size or image_size(feed.shape, layout)
    want = tuple(w or h for w, h in zip(size, images.shape[2:], strict=True))
    x = images.to(torch.float32)
    if want != tuple(images.shape[2:]):
        x = resized(x, (want[0], want[1]), "bilinear")
    x = turned(x, made.channel_order or RGB)
    dtype = TORCH_TYPES[feed.dtype]
    if dtype == torch.uint8:
        x = (x * 255).round()
    elif made.scale != 1:
        x = x * made.scale
    if made.mean is not None and made.std is not None:
        for values in (made.mean, made.std):
            if len(values) not in (1, x.shape[1]):
                raise InputError(name, "mean and std", f"of {x.shape[1]} channels (or 1)", len(values))
        x = (x - torch.tensor(made.mean).reshape(-1, 1, 1)) / torch.tensor(made.std).reshape(-1, 1, 1)
    x = x.to(dtype)
    return x if layout == "NCHW" else x.permute(0, 2, 3, 1)


def image_size(shape: tuple[int | None, ...], layout: str) -> tuple[int | None, int | None]:
    """Height and width of an input; None where free."""
    return (shape[2], shape[3]) if layout == "NCHW" else (shape[1], shape[2])


def layout_of(feed: Port, image: tuple[int, ...], name: str) -> str:
    """Which layout the input's shape has, for images ``[C,H,W]``.

    Raises:
        InputError: both would do, or neither.
    """
    assert feed.shape is not None
    channels = image[0]
    first, last = feed.shape[1], feed.shape[3]
    fits = [at for at, n in (("NCHW", first), ("NHWC", last)) if n == channels]
    if not fits:
        fits = [at for at, n in (("NCHW", first), ("NHWC", last)) if n is None]
        if not fits:
            raise InputError(name, "images", f"of channels that the input {feed} takes", channels)
    if len(fits) == 2:  # the one that has the images' own size as well
        fits = [at for at in fits if image_size(feed.shape, at) == image[1:]]
    if len(fits) != 1:
        rule = f"given (NCHW or NHWC): the input {feed} does not tell"
        raise InputError(name, "layout", rule, f"none, for images {list(image)}")
    return fits[0]


def input_of(file: OnnxFile) -> Port:
    """The one input, of images.

    Raises:
        Refused: more than one, or none that takes images.
    """
    rule = "a classifier with one input of images, [N,C,H,W] or [N,H,W,C]"
    listed = "; ".join(map(str, file.inputs[:6])) or "none"
    if len(file.inputs) != 1:
        raise Refused("unsupported", rule, f"{len(file.inputs)} inputs: {listed}")
    feed = file.inputs[0]
    if feed.shape is None or len(feed.shape) != 4:
        raise Refused("unsupported", rule, listed)
    if feed.dtype not in TORCH_TYPES:
        raise Refused("unsupported", f"{rule}, as {', '.join(TORCH_TYPES)}", listed)
    if (feed.shape[0] or 1) > MOST_BATCH or math.prod(n or 1 for n in feed.shape) > MOST_VALUES:
        raise Refused("too large", f"{rule}, of a batch that fits", listed)
    return feed


def check_input(feed: Port, made: InputSettings) -> None:
    """Settings against the input.

    Raises:
        InputError: they contradict it.
    """
    assert feed.shape is not None
    if feed.dtype == "uint8" and (made.scale != 1 or made.mean is not None):
        got = "scale" if made.scale != 1 else "mean and std"
        raise InputError("open_onnx", "scale, mean and std", f"left out: the input {feed} takes bytes", got)
    if made.size is None:
        return
    for layout in [made.layout] if made.layout else ["NCHW", "NHWC"]:
        if all(own in (None, n) for own, n in zip(image_size(feed.shape, layout), made.size, strict=True)):
            return
    raise InputError("open_onnx", "size", f"that of the input {feed}, or left out", made.size)
