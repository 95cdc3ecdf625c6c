"""Streams and graphs of CUDA devices."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

import torch

from uapfast.streams.base import Event, Stream, Work
from uapfast.streams.reading import CannotCapture

T = TypeVar("T")
POOL = 32  # streams of one priority that torch has
_CAPTURING = threading.Lock()  # one capture at a time in a process, as torch asks
_LENDING = threading.Lock()
_LENT: weakref.WeakValueDictionary[tuple[int, int], CudaStream] = weakref.WeakValueDictionary()


class CudaStream:
    """A stream of a CUDA device.

    Args:
        raw: torch's.
        own: nobody else has it, so that a graph can be recorded on it.
    """

    def __init__(self, raw: torch.cuda.Stream, own: bool = False) -> None:
        self.raw, self.own = raw, own

    def do(self, work: Work) -> None:
        """Launch it here."""
        with torch.cuda.stream(self.raw):
            work()

    def now(self, work: Callable[[], T]) -> T:
        """Launch it here."""
        with torch.cuda.stream(self.raw):
            return work()

    def record(self) -> Event:
        """An event without timing."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self.raw)
        return event

    def wait(self, event: Event) -> None:
        """The device waits, the host does not."""
        self.raw.wait_event(event)  # type: ignore[arg-type]


class Cuda:
    """A CUDA device.

    Args:
        place: ``cuda`` or ``cuda:N``.
    """

    def __init__(self, place: str | torch.device) -> None:
        where = torch.device(place)
        index = torch.cuda.current_device() if where.index is None else where.index
        self.place, self.pinned, self.graphs = torch.device("cuda", index), True, True

    def stream(self) -> Stream:
        """A stream that no other has, of torch's few; where all are taken, the default one.

        torch hands its streams out in turn, the same ones again after a while. Work of another thread on a
        stream that is being recorded would become part of the graph.
        """
        with _LENDING:
            for priority in (0, -1):
                for _ in range(POOL):
                    raw = torch.cuda.Stream(self.place, priority=priority)  # type: ignore[no-untyped-call]
                    key = self.place.index, raw.cuda_stream
                    if key not in _LENT:
                        made = _LENT[key] = CudaStream(raw, own=True)
                        return made
        return CudaStream(torch.cuda.default_stream(self.place))

    def main(self) -> Stream:
        """The current stream of this thread."""
        return CudaStream(torch.cuda.current_stream(self.place))

    def settle(self) -> None:
        """Wait for the whole device."""
        torch.cuda.synchronize(self.place)

    def capture(self, work: Work, stream: Stream) -> Work:
        """A CUDA graph of ``work``. Other threads may use the device meanwhile."""
        assert isinstance(stream, CudaStream)
        if not stream.own:
            raise CannotCapture("the stream may be others' as well")
        graph = torch.cuda.CUDAGraph()
        try:
            # the outer stream: a capture that fails does not put the caller's back
            with (
                _CAPTURING,
                torch.cuda.device(self.place),
                torch.cuda.stream(torch.cuda.current_stream(self.place)),
                torch.cuda.graph(graph, stream=stream.raw, capture_error_mode="thread_local"),
            ):
                work()
        except torch.OutOfMemoryError:
            raise
        except Exception as exc:  # whatever a network does that no graph can hold
            raise CannotCapture(f"{type(exc).__name__}: {str(exc).splitlines()[:1]}") from exc
        return graph.replay


__all__ = ["Cuda", "CudaStream"]
