"""Queries of several views and references cut into batches of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

BATCH = 256  # queries a forward, at most


def batch_size(count: int) -> int:
    """The fixed batch of ``count`` queries: as few batches as ``BATCH`` allows, all of one size."""
    return -(-count // max(1, -(-count // BATCH)))


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


def batches_of(parts: Iterable[Tensor], count: int, apart: bool) -> Iterator[tuple[Tensor, int]]:
    """:func:`batches` of ``count`` rows in all; ``apart``: no batch holds rows of two parts."""
    if not apart:
        yield from batches(parts, batch_size(count))
        return
    for part in parts:
        yield from batches([part], batch_size(len(part)))


__all__ = ["BATCH", "batch_size", "batches", "batches_of"]
