"""What is done to images in 0..1 before a network sees them: order of channels, mean, std."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from uapfast.errors import InputError, ModelError

RGB, BGR = CHANNEL_ORDERS = ("rgb", "bgr")
MOST_STD = 2.0  # images in 0..1 have at most 0.5; some networks want 1, none what pixels in 0..255 have


@dataclass(frozen=True)
class Preprocessing:
    """Channels in the network's order, less ``mean``, divided by ``std``.

    Attributes:
        mean: one a channel in the network's order, or one for all; of images in 0..1.
        std: likewise, > 0.
        channel_order: ``rgb``: as the images of a reference have them; ``bgr``: turned round, as networks
            want it whose images OpenCV or Caffe read.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channel_order: str = RGB

    @classmethod
    def given(
        cls, mean: Sequence[float] | None, std: Sequence[float] | None, channel_order: str | None = None
    ) -> Self | None:
        """What a caller says; None where that changes no image.

        Raises:
            ModelError: statistics that images in 0..1 do not have, or one without the other.
            InputError: no order of channels.
        """
        order = checked_channel_order(channel_order) or RGB
        if mean is not None or std is not None:
            return cls(*_statistics(mean, std), order)
        return cls(channel_order=order) if order == BGR else None

    @classmethod
    def told(cls, told: Mapping[str, Any]) -> Self:
        """From what :meth:`to_dict` gave; other names in it are not looked at. Raises as :meth:`given`."""
        order = checked_channel_order(told.get("channel_order")) or RGB
        return cls(*_statistics(told["mean"], told["std"]), order)

    def to_dict(self) -> dict[str, Any]:
        """``mean`` and ``std`` by name, and ``channel_order`` where it is not ``rgb``."""
        order = {} if self.channel_order == RGB else {"channel_order": self.channel_order}
        return {"mean": list(self.mean), "std": list(self.std), **order}

    def ordered(self, channel_order: str) -> Self:
        """The same for a network that takes its channels in another order."""
        if channel_order == self.channel_order:
            return self
        return replace(self, mean=self.mean[::-1], std=self.std[::-1], channel_order=channel_order)

    def __str__(self) -> str:
        """For people."""
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        order = "" if self.channel_order == RGB else f" in channel order {self.channel_order}"
        return f"mean {mean} and std {std}{order}"

    def applied(self, images: Tensor) -> Tensor:
        """What the network gets for images ``[N,C,H,W]`` in 0..1."""
        mean, std = self._tensors(images)
        return (turned(images, self.channel_order) - mean) / std

    def undone(self, images: Tensor) -> Tensor:
        """The images for which :meth:`applied` gives these."""
        mean, std = self._tensors(images)
        return turned(images * std + mean, self.channel_order)

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (like.new_tensor(v).reshape(-1, 1, 1) for v in (self.mean, self.std))
        return mean, std


class Preprocessed(nn.Module):
    """A network behind its :class:`Preprocessing`; takes images in 0..1."""

    mean: Tensor
    std: Tensor

    def __init__(self, inner: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.inner, self.channel_order = inner, preprocessing.channel_order
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            buffer = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``[N,C,H,W]`` in 0..1."""
        if len(self.mean) not in (1, x.shape[1]):  # broadcasting would silently invent channels
            raise ModelError("Model", "mean and std", f"of {x.shape[1]} channels (or 1)", len(self.mean))
        out: Tensor = self.inner((turned(x, self.channel_order) - self.mean) / self.std)
        return out


def turned(images: Tensor, channel_order: str) -> Tensor:
    """Images ``[N,C,H,W]`` with their channels in this order; raises ``InputError`` if they have none."""
    if channel_order != BGR:
        return images
    if images.shape[1] not in (1, 3):  # a fourth is no colour, and stays where it is
        raise InputError("Model", "channel_order", "left out for images of 2 or of 4 channels and more", BGR)
    return images.flip(1)


def checked_channel_order(channel_order: object, where: str = "Model") -> str | None:
    """An order of channels, or None where none is given; raises ``InputError``."""
    if channel_order is None or (isinstance(channel_order, str) and channel_order in CHANNEL_ORDERS):
        return channel_order
    raise InputError(where, "channel_order", "rgb or bgr", repr(channel_order))


def _statistics(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if mean is None or std is None or not len(mean) or not len(std):
        raise ModelError("Model", "mean and std", "given together, one value per channel", f"{mean}, {std}")
    if len(mean) != len(std):
        rule = "of equal length, one value per channel (or one for all)"
        raise ModelError("Model", "mean and std", rule, f"{len(mean)} and {len(std)}: {mean}, {std}")
    if not all(np.isfinite(mean)) or not all(np.isfinite(std)) or min(std) <= 0:
        raise ModelError("Model", "mean and std", "finite, std > 0", f"{mean}, {std}")
    if min(mean) < 0 or max(mean) > 1 or max(std) > MOST_STD:
        rule = f"those of images in 0..1: means in 0..1, std at most {MOST_STD:g} (divide by 255?)"
        raise ModelError("Model", "mean and std", rule, f"{mean}, {std}")
    return tuple(map(float, mean)), tuple(map(float, std))


__all__ = ["BGR", "CHANNEL_ORDERS", "RGB", "Preprocessed", "Preprocessing", "checked_channel_order", "turned"]
