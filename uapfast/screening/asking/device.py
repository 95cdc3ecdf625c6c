"""How weights get to where networks run, on a device with streams and on one without.

On a GPU every buffer is pinned and has a mirror there, to which its bytes go on a stream of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from uapfast.screening.asking.panel import Settings
from uapfast.screening.asking.reader import HostBuffer, Loaded, read_checkpoint
from uapfast.screening.listing.entry import Entry
from uapfast.streams import Device, Stream, device_for
from uapfast.suspects.networks.arriving import Arriving
from uapfast.suspects.networks.described import Described
from uapfast.suspects.networks.device import DeviceSkeleton
from uapfast.suspects.networks.shapes import Shapes
from uapfast.suspects.networks.skeletons import Skeleton

READERS = 8  # at most: hashing a large checkpoint takes a core several times as long as a GPU takes to ask it


class MirroredBuffer(HostBuffer):
    """A buffer whose bytes are sent to the device.

    Args:
        device: where to.
        copies: the stream on which they go.
        rest: as :class:`HostBuffer`.
    """

    def __init__(self, device: Device, copies: Stream, *rest: Any) -> None:
        super().__init__(device.pinned, *rest)
        self._device, self._copies = device, copies
        self._mirror = torch.empty(0, dtype=torch.uint8)
        self._arrival: Arriving | None = None
        self._sent: list[Tensor] = []
        self._views: list[Tensor] = []

    def free(self) -> None:
        """Wait until the bytes of the last checkpoint have left; then they may be overwritten."""
        if self._arrival is not None:
            self._arrival.ready.synchronize()

    def send(self, loaded: Loaded) -> Loaded:
        """The same checkpoint on the device, where its bytes are about to arrive."""
        base, tensors = self._buffer.data_ptr(), list(loaded.tensors.values())
        every = tensors if loaded.flat is None else [*tensors, loaded.flat]
        end = max((t.data_ptr() - base + t.nbytes for t in every if t.numel()), default=0)
        before = self._arrival
        if before is not None and before.taken is not None:
            self._copies.wait(before.taken)
        if len(self._mirror) < end:
            if before is not None and before.taken is not None:
                before.taken.synchronize()  # the memory goes to others now, not only to the next copy
            count = len(self._buffer)
            self._mirror = self._copies.now(
                lambda: torch.empty(count, dtype=torch.uint8, device=self._device.place)
            )
            self._sent = []
        if len(self._sent) != len(tensors) or any(
            a is not b for a, b in zip(self._sent, tensors, strict=True)
        ):
            self._views = [self._view(t, t.data_ptr() - base) for t in tensors]
            self._sent = tensors
        source, target = self._buffer[:end], self._mirror[:end]
        self._copies.do(lambda: target.copy_(source, non_blocking=True))
        there = dict(zip(loaded.tensors, self._views, strict=True))
        self._arrival = Arriving(there, self._copies.record())
        flat = None if loaded.flat is None else self._mirror[: loaded.flat.nbytes].view(torch.float32)
        return replace(loaded, tensors=self._arrival, flat=flat)

    def leave(self) -> None:
        """As :meth:`HostBuffer.leave`; the mirror goes with the buffer."""
        super().leave()
        if not self.size and len(self._mirror):
            if self._arrival is not None and self._arrival.taken is not None:
                self._arrival.taken.synchronize()
            self._mirror, self._sent, self._views = torch.empty(0, dtype=torch.uint8), [], []

    def _view(self, tensor: Tensor, start: int) -> Tensor:
        if not tensor.numel():
            return torch.empty_like(tensor, device=self._device.place)
        return self._mirror[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)


class DeviceLoader:
    """Reading, buffers and skeletons of a screen on a device with streams.

    Args:
        settings: of the screen.
        device: None for the one that the settings name.

    Attributes:
        readers: threads that read.
    """

    def __init__(self, settings: Settings, device: Device | None = None) -> None:
        self.settings = settings
        self.readers = max(2, min(READERS, len(os.sched_getaffinity(0)) // 2))
        self.device = device or device_for(settings.device)
        self.copies = self.device.stream()
        self.device.settle()  # the resident queries were put there on another stream

    def buffer(self, *rest: Any) -> HostBuffer:
        """A buffer with a mirror."""
        return MirroredBuffer(self.device, self.copies, *rest)

    def skeleton(self, suspect: Described) -> Skeleton:
        """A skeleton with a stream of its own."""
        return DeviceSkeleton(suspect, self.settings.precision, self.device, self.settings.batch_size)

    def read(self, entry: Entry, buffer: HostBuffer, shapes: Callable[[Entry], Shapes]) -> Loaded:
        """As :func:`read_checkpoint`, and off to the device."""
        assert isinstance(buffer, MirroredBuffer)
        buffer.free()
        return buffer.send(read_checkpoint(entry, buffer, shapes))


class HostLoader:
    """The same on a CPU, where nothing has to be sent."""

    readers = 1

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def buffer(self, *rest: Any) -> HostBuffer:
        """A buffer."""
        return HostBuffer(False, *rest)

    def skeleton(self, suspect: Described) -> Skeleton:
        """A skeleton."""
        own = self.settings
        return Skeleton(suspect, own.device, own.precision, own.batch_size)

    def read(self, entry: Entry, buffer: HostBuffer, shapes: Callable[[Entry], Shapes]) -> Loaded:
        """As :func:`read_checkpoint`."""
        return read_checkpoint(entry, buffer, shapes)


Loader = DeviceLoader | HostLoader


def loader_for(settings: Settings) -> Loader:
    """Streams on a CUDA device, else the plain way."""
    return DeviceLoader(settings) if settings.device.startswith("cuda") else HostLoader(settings)


__all__ = ["READERS", "DeviceLoader", "HostLoader", "Loader", "MirroredBuffer", "loader_for"]
