"""Weights from files into reused buffers, through ``uapfast.safeload`` alone."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from uapfast.models.fitting import Fitted, check_whole, fit
from uapfast.safeload import LastHeader, Limits, open_checkpoint
from uapfast.safeload.dtypes import DTYPES
from uapfast.safeload.header import Header
from uapfast.screening.asking.architecture import FittingArchitectures, choose_architecture
from uapfast.screening.asking.budget import MemoryBudget
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.networks.shapes import Shapes

DEFAULT = Limits()
ALIGN = 64  # bytes; what torch's own allocator gives


@dataclass(frozen=True, slots=True)
class BufferLayout:
    """Where the tensors of one kind of file lie in a buffer.

    Attributes:
        header: of the files that it is for.
        buffers: bytes of every tensor, in the order of the file.
        tensors: the same memory as tensors, by the architecture's names.
        hashed: what the SHA-256 is over, in its order.
        fits: names and shapes of an architecture that these were found to be.
        flat: the tensors of ``fits.places`` at their places, float32; None if one has another type.
        notes: what was taken although it differed, in sentences.
    """

    header: Header
    buffers: list[memoryview]
    tensors: dict[str, Tensor]
    hashed: list[bytes | memoryview]
    fits: Shapes
    flat: Tensor | None
    notes: tuple[str, ...]


class HostBuffer:
    """Memory for one checkpoint at a time; grows to the largest and is used again.

    Args:
        pinned: page-locked, so that a GPU copies from it without waiting.
        budget: memory beyond its own share, asked for when a file needs it.

    Attributes:
        last: the header of the file before.
        known: architectures of the layouts before.
    """

    def __init__(self, pinned: bool = False, budget: MemoryBudget | None = None) -> None:
        self._pinned, self._budget = pinned, budget
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._layout: BufferLayout | None = None
        self.last, self.known = LastHeader(), FittingArchitectures()

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self._buffer)

    def leave(self) -> None:
        """Nobody needs what is in it. A buffer beyond its share of the budget is given up."""
        if self._budget is not None and self.size > self._budget.share:
            self._buffer, self._layout = torch.empty(0, dtype=torch.uint8), None
            self._budget.release(id(self))

    def abandon(self) -> None:
        """Whoever has it does not come to an end: its memory is no longer counted."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.release(id(self))

    def lay_out(self, header: Header, shapes: Shapes, path: str) -> BufferLayout:
        """Room for the tensors of a file that are to be those of an architecture.

        What was in the buffer before is overwritten. Most files of a population have one layout, which
        is made and checked once.

        Raises:
            ModelError: names or shapes that are not the architecture's.
        """
        was = self._layout
        if was is not None and was.fits is shapes:
            if was.header is header or list(was.header.tensors.items()) == list(header.tensors.items()):
                return was
        fitted = fit(
            shapes.wants,
            {name: info.shape for name, info in header.tensors.items()},
            {name: _dtype(info.dtype) for name, info in header.tensors.items()},
            path,
            header.metadata,
        )
        self._layout = self._place(header, shapes, fitted)
        return self._layout

    def _place(self, header: Header, shapes: Shapes, fitted: Fitted) -> BufferLayout:
        places, end = [], math.ceil(shapes.flat / ALIGN) * ALIGN
        own = {fitted.sources[name]: place for name, place in shapes.places.items()}
        whole = all(source and header.tensors[source].dtype == "F32" for source in own)
        for info in header.tensors.values():
            if whole and info.name in own:
                places.append(own[info.name])
                continue
            places.append(end)
            end += math.ceil(info.nbytes / ALIGN) * ALIGN
        counters = [name for name, source in fitted.sources.items() if source is None]
        begin, end = end, end + ALIGN * len(counters)
        if len(self._buffer) < end:
            self._buffer, self._layout = torch.empty(0, dtype=torch.uint8), None
            if self._budget is not None and end > self._budget.share:
                self._budget.reserve(id(self), end)
            self._buffer = torch.empty(end, dtype=torch.uint8, pin_memory=self._pinned)
        raw, buffers, tensors = memoryview(self._buffer.numpy().data), {}, {}
        for info, place in zip(header.tensors.values(), places, strict=True):
            part = self._buffer[place : place + info.nbytes]
            tensors[info.name] = part.view(_dtype(info.dtype)).view(tuple(info.shape))
            buffers[info.name] = raw[place : place + info.nbytes]
        hashed: list[bytes | memoryview] = []
        for name in sorted(tensors):
            hashed.append(f"{name}:{tensors[name].dtype}:{tuple(tensors[name].shape)}".encode())
            hashed.append(buffers[name])
        ours = {name: tensors[source] for name, source in fitted.sources.items() if source is not None}
        for name, place in zip(counters, range(begin, end, ALIGN), strict=True):
            dtype = shapes.wants.dtypes[name]
            ours[name] = self._buffer[place : place + dtype.itemsize].zero_().view(dtype).view(shapes[name])
        flat = self._buffer[: shapes.flat]
        flat.zero_()  # between the tensors as well: what was there may be NaN
        return BufferLayout(
            header,
            list(buffers.values()),
            ours,
            hashed,
            shapes,
            flat.view(torch.float32) if whole else None,
            fitted.notes,
        )


def _dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, DTYPES[name].torch)
    return found


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory.

    Attributes:
        entry: whose, with the architecture that was taken.
        tensors: by the architecture's names; views of a :class:`HostBuffer`, not to be written to.
        sha256: of names, dtypes, shapes and bytes, as :func:`uapfast.models.model.tensors_sha256`.
        seconds: that reading and hashing took.
        fits: names and shapes of an architecture that it was found to have.
        flat: see :class:`BufferLayout`.
        notes: what was chosen in reading, and taken although it differed, in sentences.
        also: other architectures of the entry's choices that fit.
    """

    entry: Entry
    tensors: dict[str, Tensor]
    sha256: str
    seconds: float
    fits: Shapes | None = None
    flat: Tensor | None = None
    notes: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


def read_checkpoint(
    suspect: Entry, buffer: HostBuffer, shapes_of: Callable[[Entry], Shapes], limits: Limits | None = None
) -> Loaded:
    """Read a suspect's tensors into ``buffer``.

    Names and shapes are held against the architecture first, so that no file can ask for more memory
    than its architecture has.

    Args:
        suspect: whose file is read.
        buffer: where the bytes go.
        shapes_of: names and shapes that the suspect's architecture wants.
        limits: what reading may cost.

    Raises:
        ModelError: unreadable, or tensors that are not the architecture's, or of none of its choices.
    """
    start = time.perf_counter()
    with open_checkpoint(suspect.path, limits or DEFAULT, buffer.last, suspect.key) as found:
        taken, also = choose_architecture(suspect, found.header, shapes_of, buffer.known)
        layout = buffer.lay_out(found.header, shapes_of(taken), suspect.shown)
        found.read_all_into(layout.buffers)
        notes = (*found.notes, *layout.notes)
    check_whole(layout.fits.wants, layout.tensors, suspect.shown)
    digest = hashlib.sha256()
    for part in layout.hashed:
        digest.update(part)
    seconds = time.perf_counter() - start
    sha256, fits = digest.hexdigest(), layout.fits
    return Loaded(taken, layout.tensors, sha256, seconds, fits, layout.flat, notes, also)


__all__ = ["BufferLayout", "HostBuffer", "Loaded", "read_checkpoint"]
