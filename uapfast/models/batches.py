"""Images cut into batches of one size, small enough for the memory that a network needs at work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

BATCH = 256  # images a forward, at most
# height x width of all images of a forward, at most: as much as 256 images of 64 px (20 of 224 px) on a CPU,
# where more at a time is no faster; and as 167 of 224 px on a GPU
PIXELS = {"cpu": 1 << 20}
PIXELS_OF_A_DEVICE = 1 << 23


def most_at_once(shape: Sequence[int], device: str | torch.device = "cpu") -> int:
    """How many images ``[C,H,W]`` a forward takes at most, unless told.

    A rule and no measurement, so that the same images are cut alike everywhere: ``BATCH``, or as many as
    ``PIXELS`` allows. A ResNet-18 at 224 px needs some 10 to 14 MB an image, a VGG-16 about 40 MB.
    """
    pixels = PIXELS.get(torch.device(device).type, PIXELS_OF_A_DEVICE)
    return max(1, min(BATCH, pixels // (shape[-2] * shape[-1])))


def batch_size(count: int, most: int = BATCH) -> int:
    """The fixed batch of ``count`` images: as few batches as ``most`` allows, all of one size."""
    return -(-count // max(1, -(-count // most)))


def batches(parts: Iterable[Tensor], size: int) -> Iterator[tuple[Tensor, int]]:
    """Rows of all parts in new tensors of ``size`` rows, the last padded, with how many rows count."""
    held: list[Tensor] = []
    room = size
    for part in parts:
        while len(part):
            held.append(part[:room])
            part, room = part[room:], room - len(held[-1])
            if not room:
                yield torch.cat(held), size
                held, room = [], size
    if held:
        filler = held[0][:1]
        yield torch.cat([*held, filler.expand(room, *filler.shape[1:])]), size - room


def batches_of(
    parts: Iterable[Tensor], count: int, apart: bool, most: int = BATCH
) -> Iterator[tuple[Tensor, int]]:
    """:func:`batches` of ``count`` rows in all; ``apart``: no batch holds rows of two parts."""
    if not apart:
        yield from batches(parts, batch_size(count, most))
        return
    for part in parts:
        yield from batches([part], batch_size(len(part), most))


__all__ = ["BATCH", "batch_size", "batches", "batches_of", "most_at_once"]
