"""What goes between the caller of a screen and workers in other processes."""

from __future__ import annotations

from typing import NamedTuple

from uapfast.screening.entry import Entry
from uapfast.screening.rows import Row

SLOTS = 3  # checkpoints in a worker's memory: one asked, one read ahead, one between
BACKLOG = 16  # messages that a worker keeps before it waits to be heard


class Errand(NamedTuple):
    """One suspect as it is sent; ``stamp`` is that of its file where the run was started."""

    number: int
    suspect: Entry
    stamp: str


class Orders(NamedTuple):
    """What a worker is told: suspects to read, and which of those it has read to ask or to drop."""

    errands: tuple[Errand, ...] = ()
    ask: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()


class Told(NamedTuple):
    """What a worker says of one suspect: read (no rows yet, it waits for orders), or at its end.

    ``sha256`` is None for one that is asked as it is, and for one that cannot be read; ``arch`` is the
    architecture that was taken, ``notes`` what was done in reading. ``lent`` and ``refuted`` are those of
    :class:`uapfast.screening.engines.Done`.
    """

    number: int
    sha256: str | None
    seconds: float
    rows: tuple[Row, ...] | None = None
    again: bool = False
    arch: str = ""
    notes: tuple[str, ...] = ()
    lent: bool = False
    refuted: bool = False


class Busy(NamedTuple):
    """A suspect that a worker is at, for how many seconds, and whether its network is being built."""

    number: int
    seconds: float
    building: bool = False


class Reply(NamedTuple):
    """A worker's answer to orders: news, and what is under way."""

    told: tuple[Told, ...]
    at: tuple[Busy, ...] = ()


class Hello(NamedTuple):
    """A worker is ready: on which machine, as which process, with which versions (JSON)."""

    host: str
    process: int
    versions: str


class Lost(NamedTuple):
    """A worker is gone, and why, in one line."""

    why: str


News = Hello | Reply | Lost

__all__ = ["BACKLOG", "SLOTS", "Busy", "Errand", "Hello", "Lost", "News", "Orders", "Reply", "Told"]
