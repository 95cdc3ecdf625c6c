"""What the scheduler and its workers tell each other. Plain values: they may cross processes."""

from __future__ import annotations

from typing import NamedTuple

from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.rows import Row

BUFFERS = 3  # checkpoints in a worker's memory: one asked, one read ahead, one between
BACKLOG = 16  # updates that a worker keeps before it waits to be heard


class Job(NamedTuple):
    """One suspect as it is sent; ``stamp`` is that of its file where the run was started."""

    number: int
    suspect: Entry
    stamp: str


class Request(NamedTuple):
    """To a worker: suspects to read, and which of those it has read to ask or to drop."""

    jobs: tuple[Job, ...] = ()
    ask: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()


class Update(NamedTuple):
    """From a worker, of one suspect: read (no rows yet, it waits for a request), or at its end.

    ``sha256`` is None for one that is asked as it is, and for one that cannot be read; ``arch`` is the
    architecture that was taken, ``notes`` what was done in reading. ``reused`` and ``refuted`` are those of
    :class:`uapfast.screening.engine.registry.JobResult`.
    """

    number: int
    sha256: str | None
    seconds: float
    rows: tuple[Row, ...] | None = None
    retry: bool = False
    arch: str = ""
    notes: tuple[str, ...] = ()
    reused: bool = False
    refuted: bool = False


class InProgress(NamedTuple):
    """A suspect that a worker is at, for how many seconds, and the network that it is building for it."""

    number: int
    seconds: float
    building: str | None = None


class Reply(NamedTuple):
    """A worker's answer to a request: updates, and what is under way."""

    updates: tuple[Update, ...]
    busy: tuple[InProgress, ...] = ()


class Hello(NamedTuple):
    """A worker is ready: on which machine, as which process, with which versions (JSON)."""

    host: str
    process: int
    versions: str


class Lost(NamedTuple):
    """A worker is gone, and why, in one line."""

    why: str


Message = Hello | Reply | Lost

__all__ = [
    "BACKLOG",
    "BUFFERS",
    "Hello",
    "InProgress",
    "Job",
    "Lost",
    "Message",
    "Reply",
    "Request",
    "Update",
]
