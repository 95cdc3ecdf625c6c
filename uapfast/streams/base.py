"""What a device with streams has to do (:mod:`uapfast.streams`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")
Work = Callable[[], Any]


class Event(Protocol):
    """A place in a stream."""

    def synchronize(self) -> Any:
        """Wait, on the host, for everything that was given to the stream before."""
        ...


class Stream(Protocol):
    """Work in the order in which it was given."""

    def do(self, work: Work) -> None:
        """Run ``work``, maybe later: it may read on the host nothing that a device writes."""
        ...

    def now(self, work: Callable[[], T]) -> T:
        """Run ``work`` after all that this stream has, and return its result. The device may lag behind."""
        ...

    def record(self) -> Event:
        """The place after everything given so far."""
        ...

    def wait(self, event: Event) -> None:
        """Let what is given from now on come after ``event``."""
        ...


class Device(Protocol):
    """Where networks run.

    Attributes:
        place: as torch names it.
        pinned: whether copies are faster from page-locked memory.
        graphs: whether work can be recorded at all.
    """

    place: torch.device
    pinned: bool
    graphs: bool

    def stream(self) -> Stream:
        """A new stream."""
        ...

    def main(self) -> Stream:
        """The stream that the caller is on."""
        ...

    def settle(self) -> None:
        """Wait for everything."""
        ...

    def capture(self, work: Work, stream: Stream) -> Work:
        """``work`` as one graph; it is recorded, not run. Called on ``stream``, the graph runs there.

        Raises:
            CannotCapture: there are no graphs here, or the work does what no graph can.
        """
        ...


__all__ = ["Device", "Event", "Stream", "Work"]
