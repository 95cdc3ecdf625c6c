"""What the local engine reads and asks with, on a device with streams and on one without."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from uapfast.screening.entry import Entry
from uapfast.screening.panel import Settings
from uapfast.screening.reader import Loaded, Slot, read_checkpoint
from uapfast.screening.ring import MirroredSlot
from uapfast.streams import Device, device_for
from uapfast.suspects.networks.described import Described
from uapfast.suspects.networks.device import DeviceSkeleton
from uapfast.suspects.networks.shapes import Shapes
from uapfast.suspects.networks.skeletons import Skeleton

READERS = 8  # at most: hashing a large checkpoint takes a core several times as long as a GPU takes to ask it


class Lanes:
    """Reading, slots and skeletons of a screen on a device with streams.

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

    def slot(self, *rest: Any) -> Slot:
        """A slot with a mirror."""
        return MirroredSlot(self.device, self.copies, *rest)

    def skeleton(self, suspect: Described) -> Skeleton:
        """A skeleton with a stream of its own."""
        return DeviceSkeleton(suspect, self.settings.precision, self.device, self.settings.batch_size)

    def read(self, entry: Entry, slot: Slot, shapes: Callable[[Entry], Shapes]) -> Loaded:
        """As :func:`read_checkpoint`, and off to the device."""
        assert isinstance(slot, MirroredSlot)
        slot.free()
        return slot.send(read_checkpoint(entry, slot, shapes))


class Plain:
    """The same on a CPU, where nothing has to be sent."""

    readers = 1

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def slot(self, *rest: Any) -> Slot:
        """A slot."""
        return Slot(False, *rest)

    def skeleton(self, suspect: Described) -> Skeleton:
        """A skeleton."""
        own = self.settings
        return Skeleton(suspect, own.device, own.precision, own.batch_size)

    def read(self, entry: Entry, slot: Slot, shapes: Callable[[Entry], Shapes]) -> Loaded:
        """As :func:`read_checkpoint`."""
        return read_checkpoint(entry, slot, shapes)


def lanes_of(settings: Settings) -> Lanes | Plain:
    """Lanes on a CUDA device, else the plain way."""
    return Lanes(settings) if settings.device.startswith("cuda") else Plain(settings)


__all__ = ["READERS", "Lanes", "Plain", "lanes_of"]
