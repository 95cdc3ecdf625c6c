"""Streams and graphs of a GPU behind a few calls, and the same calls where there is none.

Work is handed over as closures, so that what must come before what is said by events alone: a device may run
a closure any time later, and tests run them as late, and in as odd an order, as the events allow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from uapfast.streams.base import Device, Event, Stream, Work
from uapfast.streams.reading import CannotCapture, NoReading

T = TypeVar("T")
WARM = 2  # runs before a graph is recorded: handles, workspaces and choices of algorithms are made in them
log = logging.getLogger(__name__)


class _Past:
    """An event of a device without streams: it has happened."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


class HostStream:
    """No stream: everything happens at once."""

    def do(self, work: Work) -> None:
        """Run it."""
        work()

    def now(self, work: Callable[[], T]) -> T:
        """Run it."""
        return work()

    def record(self) -> Event:
        """An event that has happened."""
        return _Past()

    def wait(self, event: Event) -> None:
        """Nothing to wait for."""


class Host:
    """The CPU, or any device whose streams are left alone."""

    def __init__(self, place: str | torch.device = "cpu") -> None:
        self.place, self.pinned, self.graphs = torch.device(place), False, False

    def stream(self) -> Stream:
        """The one there is."""
        return HostStream()

    def main(self) -> Stream:
        """The one there is."""
        return HostStream()

    def settle(self) -> None:
        """Nothing to wait for."""

    def capture(self, work: Work, stream: Stream) -> Work:
        """Raises ``CannotCapture``."""
        raise CannotCapture(f"no graphs on {self.place}")


def device_for(place: str | torch.device) -> Device:
    """The calls for a device: ``Cuda`` for ``cuda`` and ``cuda:N``, else ``Host``."""
    if torch.device(place).type != "cuda":
        return Host(place)
    from uapfast.streams.cuda import Cuda

    return Cuda(place)


class Replay:
    """Work on static memory that is run again and again: recorded once as a graph, where that is possible.

    What is computed is the same either way; a graph only spares the host the launches.

    Args:
        work: reads and writes tensors that stay where they are; allocates what it likes in between.
        state: those that ``work`` changes and reads again. Recording leaves them as they were.
        device: where it runs.
        stream: its stream.
        what: for the log.
        wanted: False never records.
    """

    def __init__(
        self,
        work: Work,
        state: Sequence[Tensor],
        device: Device,
        stream: Stream,
        what: str,
        wanted: bool = True,
    ) -> None:
        self._work, self._state, self._device, self._stream = work, state, device, stream
        self._what, self._open = what, wanted and device.graphs
        self.recorded = False

    def __call__(self) -> None:
        """Run it once."""
        if self._open:
            self._open = False
            self._record()
        self._stream.do(self._work)

    def _record(self) -> None:
        saved: list[Tensor] = self._stream.now(lambda: [t.clone() for t in self._state])
        try:
            for _ in range(WARM - 1):
                self._stream.do(self._work)
            self._stream.now(self._watched)
            self._stream.do(lambda: self._restore(saved))
            self._work = self._device.capture(self._work, self._stream)
            self.recorded = True
        except CannotCapture as exc:
            self._stream.do(lambda: self._restore(saved))
            log.warning("%s: runs without a graph (%s)", self._what, exc)

    def _watched(self) -> None:
        with NoReading(self._device.place):
            self._work()

    def _restore(self, saved: list[Tensor]) -> None:
        for tensor, before in zip(self._state, saved, strict=True):
            tensor.copy_(before)


__all__ = ["CannotCapture", "Device", "Event", "Host", "HostStream", "Replay", "Stream", "device_for"]
