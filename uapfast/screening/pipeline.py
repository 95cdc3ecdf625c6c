"""The local engine: reading, copying, asking and scoring overlap in threads of one process.

One thread reads ahead into a ring of buffers; every worker takes a checkpoint through copy, forward and
scores, on a skeleton lent to it; torch and numpy leave the interpreter's lock meanwhile. The caller's
thread hands out work and yields results, so that the store belongs to one thread. At most ``depth``
suspects are under way: memory does not grow with their number.

A thread cannot be ended from outside. One that is at the same suspect for longer than the time limit is
given up: another takes its place, nothing that it holds is used again, its late result is dropped. At most
``LOST`` such threads may be alive; then the run ends, since each may occupy a core.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from uapfast.config import GIVEN_UP
from uapfast.errors import (
    EndpointError,
    MissingDependency,
    SandboxError,
    StorageError,
    TimeLimitError,
    UnavailableError,
)
from uapfast.screening.direct import judge_direct
from uapfast.screening.engines import AGAIN, Done, late
from uapfast.screening.entry import Entry
from uapfast.screening.judge import Judged, failed_rows, judge
from uapfast.screening.lanes import lanes_of
from uapfast.screening.panel import Panel
from uapfast.screening.reader import Loaded, Slot
from uapfast.screening.room import Room
from uapfast.screening.rows import Row
from uapfast.screening.under_way import Item
from uapfast.suspects.networks.skeletons import Skeletons
from uapfast.suspects.networks.watch import Watch

Known = Callable[[Entry, str], "list[Row] | None"]
PER_WORKER = 3  # suspects under way: one asked, one read ahead, one between
LOST = 8  # threads that were given up and still run, at most
GRACE = 10.0  # seconds that a run which is broken off waits for its threads
NAME = "uapfast screen"
# faults of the machine or the asker, or for now; not of the suspect: a resumed run tries again
TRANSIENT = (
    SandboxError,
    MissingDependency,
    EndpointError,
    UnavailableError,
    StorageError,
    MemoryError,
    torch.OutOfMemoryError,
)
log = logging.getLogger(__name__)


Source = queue.SimpleQueue["Item | None"]
Step = Callable[[Item], "Loaded | Judged"]


def workers_of(panel: Panel) -> int:
    """Workers asked for, or one a core that this process may use; two on a GPU."""
    if panel.settings.workers is not None:
        return panel.settings.workers
    return len(os.sched_getaffinity(0)) if panel.settings.device == "cpu" else 2


def run(
    panel: Panel, suspects: Iterator[tuple[Entry, str]], known: Known, address: str | None = None
) -> Generator[Done, None, None]:
    """Ask every suspect on this machine; see :class:`uapfast.screening.engines.Engine`."""
    with _one_thread_each(workers := workers_of(panel)):
        line = _Line(panel, workers)
        try:
            yield from line.run(suspects, known)
        finally:
            line.stop()


class _Line:
    """The threads, and the queues between them."""

    def __init__(self, panel: Panel, workers: int) -> None:
        self.panel, self.limit = panel, panel.settings.timeout
        self.watch, self.lanes = Watch(), lanes_of(panel.settings)
        self.skeletons = Skeletons(
            panel.settings.device, self.watch, self.lanes.skeleton, panel.settings.anew
        )
        self.depth = PER_WORKER * workers + self.lanes.readers - 1
        self.room = Room(self.watch, self.depth)
        self.to_read: Source = queue.SimpleQueue()
        self.to_judge: Source = queue.SimpleQueue()
        self.events: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.slots = [self._slot() for _ in range(self.depth)]
        self.under_way: set[Item] = set()
        self.hung: dict[str, TimeLimitError] = {}  # networks that are not built in time
        self.endless: dict[tuple[str, str], TimeLimitError] = {}  # tensors that are not asked in time
        self.lock = threading.Lock()
        self.threads: dict[threading.Thread, tuple[Source, Step]] = {}
        self.lost: list[threading.Thread] = []
        for _ in range(self.lanes.readers):
            self._start(self.to_read, self._read)
        for _ in range(workers):
            self._start(self.to_judge, self._judge)

    def _slot(self) -> Slot:
        return self.lanes.slot(self.room)

    def _start(self, source: Source, step: Step) -> None:
        thread = threading.Thread(target=self._work, args=(source, step), daemon=True, name=NAME)
        self.threads[thread] = source, step
        thread.start()

    def stop(self) -> None:
        """Let every thread end what it is doing, if that does not take long."""
        for source in (self.to_read, self.to_judge):
            with contextlib.suppress(queue.Empty):
                while True:
                    source.get_nowait()
        for source, _ in self.threads.values():
            source.put(None)
        until = time.monotonic() + GRACE
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                thread.name = GIVEN_UP

    # -- threads -----------------------------------------------------------------------------------
    def _work(self, source: Source, step: Step) -> None:
        me = threading.current_thread()
        while (item := source.get()) is not None:
            self.watch.begin()
            item.thread = me
            found: Loaded | Judged | TimeLimitError | None = None
            stamped: str | None = None
            if item.loaded is None:
                found = next((self.hung[n] for n in item.suspect.networks if n in self.hung), None)
            try:
                found = found or step(item)
            except BaseException as exc:  # a factory may even call sys.exit; the run goes on
                log.debug("screen: %s", item.suspect.name, exc_info=True)
                sha256 = item.loaded.sha256 if item.loaded else None
                found = Judged(failed_rows(self.panel, item.suspect, exc, sha256))
                stamped = AGAIN if isinstance(exc, TRANSIENT) else None
            with self.lock:  # alone may change an item: it may have been given up, and its heir goes on
                if item.lost:
                    return
                self._take(item, found, stamped)
                item.thread = None
                self.events.put(item)

    def _take(self, item: Item, found: Loaded | Judged | TimeLimitError, stamped: str | None) -> None:
        """What came of one step."""
        if isinstance(found, Loaded):
            item.loaded, item.suspect = found, found.entry
        elif isinstance(found, TimeLimitError):
            self._late(item, found)
        else:
            item.rows, item.lent, item.refuted = found.rows, found.lent, found.refuted
            item.stamped = AGAIN if found.again else stamped

    def _read(self, item: Item) -> Loaded:
        assert item.slot is not None
        return self.lanes.read(item.suspect, item.slot, self.skeletons.shapes)

    def _judge(self, item: Item) -> Judged:
        if item.loaded is None:
            return judge_direct(self.panel, item.suspect, self.watch)
        return judge(self.panel, self.skeletons, item.loaded)

    def _late(self, item: Item, error: TimeLimitError) -> None:
        """Rows of a suspect that does not end."""
        item.error = error
        sha256 = item.loaded.sha256 if item.loaded else None
        item.rows = failed_rows(self.panel, item.suspect, error, sha256)
        item.stamped = late(item.stamp, self.limit)

    # -- the caller's thread -----------------------------------------------------------------------
    def run(self, suspects: Iterator[tuple[Entry, str]], known: Known) -> Iterator[Done]:
        asked: dict[tuple[str, str], list[Item]] = {}  # under way, with those that wait for the same tensors
        more = True
        while more or self.under_way:
            self._check_lost()
            while more and len(self.under_way) < self.depth:
                found = next(suspects, None)
                if found is None:
                    more = False
                else:
                    item = Item(*found, slot=self.slots.pop())
                    self.under_way.add(item)
                    (self.to_judge if item.suspect.is_direct else self.to_read).put(item)
            if not self.under_way:
                break
            for item in self._step(self._event(), asked, known):
                yield item.done()

    def _event(self) -> Item:
        """The next suspect that was read or asked, or that has taken too long."""
        while True:
            busy = [(self.watch.since(t), i) for i in self.under_way if (t := i.thread) is not None]
            first, item = min(busy, key=lambda pair: pair[0], default=(math.inf, None))
            wait = min(first, time.monotonic()) + self.limit - time.monotonic()
            if wait <= 0 and item is not None and (given_up := self._give_up(item)) is not None:
                return given_up
            with contextlib.suppress(queue.Empty):
                return self.events.get(timeout=min(max(wait, 0.01), threading.TIMEOUT_MAX, 3600.0))

    def _give_up(self, item: Item) -> Item | None:
        """Count no longer on a thread that is at one suspect too long; None if it has just ended."""
        with self.lock:
            thread = item.thread
            if thread is None or item.slot is None:
                return None
            item.lost = True
        thread.name = GIVEN_UP
        self.lost.append(thread)
        item.slot.forsake()
        building = self.skeletons.forsake(thread)
        asked = item.loaded or item.suspect.is_direct
        what = "built" if building else "asked" if asked else "read"
        error = TimeLimitError("screen", item.suspect.name, f"{what} within {self.limit:g} s", "no end")
        if building:
            self.hung[building] = error
        elif item.loaded:
            self.endless[item.suspect.network, item.loaded.sha256] = error
        self._start(*self.threads.pop(thread))  # now that it knows what not to begin
        heir = Item(item.suspect, item.stamp, self._slot(), item.loaded)
        self._late(heir, error)
        self.under_way.remove(item)
        self.under_way.add(heir)
        return heir

    def _check_lost(self) -> None:
        self.lost = [thread for thread in self.lost if thread.is_alive()]
        if len(self.lost) >= LOST:
            rule = f"asked within {self.limit:g} s, or end some time (finished rows are kept: screen again)"
            raise TimeLimitError("screen", "suspects", rule, f"{len(self.lost)} that still run")

    def _step(self, item: Item, asked: dict[tuple[str, str], list[Item]], known: Known) -> Iterator[Item]:
        """What follows from one event; yields suspects that have their rows."""
        key = (item.suspect.network, item.loaded.sha256) if item.loaded else None
        if item.rows is None:  # read
            assert key is not None
            if key in asked:
                asked[key].append(item)
            elif key in self.endless:
                self._late(item, self.endless[key])
                yield self._end(item)
            elif rows := known(item.suspect, key[1]):
                self._adopt(item, rows)
                yield self._end(item)
            else:
                asked[key] = []
                self.to_judge.put(item)
            return
        waiting = asked.pop(key, []) if key else []
        yield self._end(item)
        for other in waiting:
            if item.error is not None:
                self._late(other, item.error)
                yield self._end(other)
            elif any(row.error_class for row in item.rows):  # errors name their file: ask it itself
                self._retry(other, asked)
            else:
                self._adopt(other, item.rows, item.lent)
                yield self._end(other)

    def _retry(self, item: Item, asked: dict[tuple[str, str], list[Item]]) -> None:
        assert item.loaded is not None
        key = (item.suspect.network, item.loaded.sha256)
        if key in asked:
            asked[key].append(item)
        else:
            asked[key] = []
            self.to_judge.put(item)

    def _adopt(self, item: Item, rows: list[Row], lent: bool = False) -> None:
        assert item.loaded is not None
        item.lent = lent
        suspect, seconds, notes = item.suspect, item.loaded.seconds, item.loaded.notes
        item.rows = [row.moved_to(suspect.name, suspect.shown, notes, seconds_read=seconds) for row in rows]

    def _end(self, item: Item) -> Item:
        assert item.slot is not None
        item.slot.leave()
        self.slots.append(item.slot)
        self.under_way.remove(item)
        item.slot, item.loaded = None, None
        return item


@contextlib.contextmanager
def _one_thread_each(workers: int) -> Iterator[None]:
    """Share the cores out among workers instead of letting each of them use all."""
    before: Any = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"):
        torch.set_num_threads(max(1, before // workers))
        try:
            yield
        finally:
            torch.set_num_threads(before)


__all__ = ["run", "workers_of"]
