"""The local engine: workers in threads of this process, which share networks and memory.

torch and numpy leave the interpreter's lock while they compute, so that reading, copying, asking and scoring
overlap. The caller's thread schedules and yields results, so that the store belongs to one thread.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from uapfast.errors import TimeLimitError
from uapfast.screening.asking.budget import MemoryBudget
from uapfast.screening.asking.device import loader_for
from uapfast.screening.asking.judge import failed_rows
from uapfast.screening.asking.panel import Panel
from uapfast.screening.engine.messages import BUFFERS, Hello, Message, Request
from uapfast.screening.engine.registry import JobResult
from uapfast.screening.engine.scheduler import Scheduler
from uapfast.screening.engine.supervisor import Supervisor, Timeouts
from uapfast.screening.engine.worker import Worker, WorkerSetup, worker_count
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.rows import Row
from uapfast.threads import WorkerThread

LOST = 8  # threads that were abandoned and still run, at most: each may occupy a core
GRACE = 10.0  # seconds that a run which is broken off waits for its threads
LOOK = 0.2  # seconds after which is looked how long each suspect takes


def run(
    panel: Panel,
    suspects: Iterator[tuple[Entry, str]],
    known: Callable[[Entry, str], list[Row] | None],
    address: str | None = None,
) -> Generator[JobResult, None, None]:
    """Ask every suspect on this machine; see :class:`uapfast.screening.engine.registry.Engine`.

    Raises:
        TimeLimitError: too many suspects do not end, and their threads still run.
    """
    workers = worker_count(panel)
    with _share_cores(workers):
        backend = Threads(panel, workers)
        scheduler = Scheduler(
            suspects,
            known,
            lambda suspect, error, sha256: failed_rows(panel, suspect, error, sha256),
            buffers=backend.buffers,
            ahead=0.0,
        )
        timeouts = Timeouts(silent=math.inf, suspect=panel.settings.timeout)
        try:
            yield from Supervisor(backend, scheduler, workers, panel.versions, timeouts).run()
        finally:
            backend.stop()


class Threads:
    """The backend of workers in this process (:class:`uapfast.screening.engine.supervisor.WorkerBackend`).

    Args:
        panel: references and settings.
        workers: at work at a time.

    Attributes:
        buffers: checkpoints that each has room for.
    """

    def __init__(self, panel: Panel, workers: int) -> None:
        self._panel, self._means = panel, WorkerSetup.of(panel, loader_for(panel.settings))
        self._readers = -(-self._means.loader.readers // workers)
        self.buffers = self._readers + BUFFERS - 1
        self._budget = MemoryBudget(self._means.watch, workers * self.buffers)
        self._workers: dict[int, Worker] = {}
        self._awaited: set[int] = set()  # who owes a reply
        self._new: list[tuple[int, Message]] = []
        self._abandoned: list[threading.Thread] = []
        self._threads: list[WorkerThread] = []
        self._count = 0

    def start(self) -> int:
        """Start one more; raises ``TimeLimitError`` where too many threads do not end."""
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        if len(self._abandoned) >= LOST:
            limit, got = self._panel.settings.timeout, f"{len(self._abandoned)} that still run"
            rule = f"asked within {limit:g} s, or end later (finished rows are kept; screen again to go on)"
            raise TimeLimitError("screen", "suspects", rule, got)
        self._count += 1
        worker = self._workers[self._count] = Worker(self._means, self._readers, self._budget)
        self._threads += worker.threads
        self._new.append((self._count, Hello(socket.gethostname(), os.getpid(), self._panel.versions)))
        return self._count

    def send(self, worker: int, request: Request) -> None:
        """Hand a request over."""
        self._awaited.add(worker)
        self._workers[worker].take(request)

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        """Replies of those that have something to tell; of all that owe one after a short while."""
        if self._new:
            new, self._new = self._new, []
            return new
        changed, end = self._means.changed, time.monotonic() + min(seconds, LOOK)
        with changed:
            while not (ready := [n for n in self._awaited if self._workers[n].has_news]):
                left = end - time.monotonic()
                if left <= 0:
                    ready = list(self._awaited)
                    break
                changed.wait(left)
            self._awaited.difference_update(ready)
            return [(number, self._workers[number].reply()) for number in ready]

    def kill(self, worker: int) -> None:
        """Count on it no longer."""
        self._awaited.discard(worker)
        self._abandoned += self._workers.pop(worker).abandon()

    def stop(self) -> None:
        """Let every thread end what it is doing, if that does not take long."""
        for worker in self._workers.values():
            worker.leave()
        until = time.monotonic() + GRACE
        for thread in self._threads:
            if not thread.abandoned:
                thread.join(max(0.0, until - time.monotonic()))
                thread.abandoned = thread.is_alive()


@contextlib.contextmanager
def _share_cores(workers: int) -> Iterator[None]:
    """Share the cores out among workers instead of letting each of them use all."""
    before: Any = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"):
        torch.set_num_threads(max(1, before // workers))
        try:
            yield
        finally:
            torch.set_num_threads(before)


__all__ = ["Threads", "run"]
