"""What happens to images before a network of a hub folder sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from uapfast.errors import InputError, ModelError
from uapfast.suspects.pixels import resized

CHANNELS = (1, 64)
MOST_SIZE = 1024  # pixels of an edge; the largest that image classifiers are published with are below 900
USUAL_SIZE = 224
MEANS, STDS = (-10.0, 10.0), (1e-4, 1e3)


@dataclass(frozen=True)
class Preparation:
    """How images in 0..1 become the input of a network.

    Attributes:
        channels: of the network.
        size: height and width that it is given; None: those of the images.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.
        mean: one a channel, or one for all, of images in 0..1; None where nothing says.
        std: likewise.
        flip: the order of channels is turned round.
        notes: what of the configuration was not done as it says.
    """

    channels: int
    size: tuple[int, int] | None
    interpolation: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    flip: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, values, (low, high) in (("mean", self.mean, MEANS), ("std", self.std, STDS)):
            if values is not None and not all(low <= v <= high for v in values):
                rule = f"in {low:g}..{high:g} for images in 0..1"
                raise ModelError("folder", name, rule, ", ".join(f"{v:g}" for v in values[:4]))

    def at_a_time(self, most: int) -> int:
        """Images a call: ``most`` of the usual size, fewer larger ones, so that they take no more memory."""
        height, width = self.size or (USUAL_SIZE, USUAL_SIZE)
        return max(1, min(most, most * USUAL_SIZE**2 // (height * width)))

    def sentences(self) -> Iterator[str]:
        """What is done to images, for people."""
        if self.size is not None:
            size = f"{self.size[0]} x {self.size[1]}"
            yield f"images of another size than {size} are resized ({self.interpolation})"
        if self.channels == 3:
            yield "images of one channel are repeated to three"
        if self.flip:
            yield "the order of channels is turned round"
        if self.mean is not None and self.std is not None:
            mean, std = (" ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.std))
            yield f"its own mean {mean} and std {std} are applied"
        yield from self.notes


class Prepared(nn.Module):
    """A network behind its :class:`Preparation`; takes images in 0..1 of any size."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preparation: Preparation) -> None:
        super().__init__()
        self.network, self.preparation = network, preparation
        for name, values in (("mean", preparation.mean or (0.0,)), ("std", preparation.std or (1.0,))):
            buffer = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N,K]`` of images ``[N,C,H,W]``.

        Raises:
            InputError: C is neither the network's nor 1 where the network takes 3.
        """
        how = self.preparation
        if x.shape[1] != how.channels:
            if (x.shape[1], how.channels) != (1, 3):
                rule = f"of {how.channels} channels, which this network takes"
                raise InputError("folder", "images", rule, f"{x.shape[1]}")
            x = x.expand(-1, 3, -1, -1)
        if how.flip:
            x = x.flip(1)
        if how.size is not None and tuple(x.shape[2:]) != how.size:
            x = resized(x, how.size, how.interpolation)
        out = self.network((x - self.mean) / self.std)
        if not isinstance(out, Tensor):  # one class of transformers keeps its logits under the other name
            out = out.logits if hasattr(out, "logits") else out.last_hidden_state
        logits: Tensor = out
        return logits


__all__ = ["CHANNELS", "MOST_SIZE", "Preparation", "Prepared"]
