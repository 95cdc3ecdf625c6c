"""One suspect on its way through the local engine."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from uapfast.errors import TimeLimitError
from uapfast.screening.engines import Done
from uapfast.screening.entry import Entry
from uapfast.screening.reader import Loaded, Slot
from uapfast.screening.rows import Row


@dataclass(eq=False)
class Item:
    """One suspect under way.

    Attributes:
        suspect: who.
        stamp: of its file.
        slot: memory that is lent to it.
        loaded: once it is read.
        rows: at its end.
        thread: that is at it.
        lost: given up; whatever comes of it is nobody's any more.
        error: why it was given up.
        stamped: instead of ``stamp``, for the store.
        lent, refuted: see :class:`uapfast.screening.engines.Done`.
    """

    suspect: Entry
    stamp: str
    slot: Slot | None = None
    loaded: Loaded | None = None
    rows: list[Row] | None = None
    thread: threading.Thread | None = None
    lost: bool = False
    error: TimeLimitError | None = None
    stamped: str | None = None
    lent: bool = False
    refuted: bool = False

    def done(self) -> Done:
        """Its result."""
        assert self.rows is not None
        return Done(self.suspect, self.stamped or self.stamp, tuple(self.rows), self.lent, self.refuted)


__all__ = ["Item"]
