"""Keeps workers at work: starts them, sends requests, hears replies, replaces whoever is lost or stuck."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from uapfast.config import TIMEOUT
from uapfast.errors import ClusterError
from uapfast.screening.engine.messages import Hello, Lost, Message, Reply, Request
from uapfast.screening.engine.registry import JobResult
from uapfast.screening.engine.scheduler import Scheduler

log = logging.getLogger(__name__)


class WorkerBackend(Protocol):
    """Where workers run, by number. Each says ``Hello``, then one ``Reply`` to every request."""

    def start(self) -> int:
        """Start one more; returns its number at once."""

    def send(self, worker: int, request: Request) -> None:
        """Send it a request; it gets no other before it replied."""

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        """The messages that have come, after so many seconds at most; none after a worker's ``Lost``."""

    def kill(self, worker: int) -> None:
        """End it, or count on it no longer; nothing that it does later is heard."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long is waited, in seconds.

    Attributes:
        start: for the first worker of all.
        silent: for a reply (a worker that lives replies every few seconds).
        suspect: for one suspect to be read or asked.
        fails: starts in a row that may fail, besides one for each worker.
    """

    start: float = 900.0
    silent: float = 90.0
    suspect: float = TIMEOUT
    fails: int = 3


class Supervisor:
    """One run of a scheduler's suspects through a backend.

    Args:
        backend: of workers.
        scheduler: what is to be done.
        workers: wanted.
        versions: that every worker must have.
        timeouts: with them.
        clock: seconds.
    """

    def __init__(
        self,
        backend: WorkerBackend,
        scheduler: Scheduler,
        workers: int,
        versions: str,
        timeouts: Timeouts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend, self._scheduler, self._workers, self._versions = backend, scheduler, workers, versions
        self._timeouts, self._clock = timeouts or Timeouts(), clock
        self._starting: dict[int, float] = {}
        self._idle: set[int] = set()
        self._busy: dict[int, float] = {}  # since when a reply is awaited
        self._fails, self._why = 0, ""

    def run(self) -> Iterator[JobResult]:
        """Every suspect's rows as they come.

        Raises:
            ClusterError: no worker can be started, or one has other versions.
        """
        for _ in range(self._scheduler.peek(self._workers)):
            self._start()
        while not self._scheduler.over:
            for worker, message in self._backend.wait(1.0):
                if worker in self._starting or worker in self._busy:
                    yield from self._hear(worker, message)
            yield from self._silence()
            self._send()
            yield from self._scheduler.settle()
            self._check_hope()

    def _start(self) -> None:
        self._starting[self._backend.start()] = self._clock()

    def _hear(self, worker: int, message: Message) -> Iterator[JobResult]:
        if isinstance(message, Lost):
            yield from self._lose(worker, message.why)
        elif isinstance(message, Hello):
            self._check(message)
            log.info("screen: worker %d is process %d on %s", worker, message.process, message.host)
            del self._starting[worker]
            self._fails = 0
            self._scheduler.join(worker)
            self._idle.add(worker)
        else:
            del self._busy[worker]
            self._idle.add(worker)
            yield from self._scheduler.hear(worker, message.updates)
            yield from self._endless(worker, message)

    def _check(self, hello: Hello) -> None:
        if _numbers(hello.versions) != _numbers(self._versions):
            raise ClusterError(
                f"screen: a worker's versions must be {self._versions} as here, got {hello.versions} "
                f"on {hello.host}"
            )

    def _endless(self, worker: int, reply: Reply) -> Iterator[JobResult]:
        """Give up suspects that take too long; a thread cannot be ended, so its worker goes as well."""
        limit = self._timeouts.suspect
        late = [busy for busy in reply.busy if busy.seconds > limit]
        for busy in late:
            yield from self._scheduler.expire(worker, busy, limit)
        if late:
            yield from self._lose(worker, "a suspect without end", blame=False)

    def _lose(self, worker: int, why: str, blame: bool = True) -> Iterator[JobResult]:
        log.info("screen: worker %d is lost: %s", worker, why)
        self._backend.kill(worker)
        if self._starting.pop(worker, None) is not None:
            self._fails += 1
        self._idle.discard(worker)
        self._busy.pop(worker, None)
        self._why = why
        yield from self._scheduler.lost(worker, why, blame)
        there = len(self._starting) + len(self._idle) + len(self._busy)
        if not self._scheduler.over and there < self._workers:
            if self._fails < self._timeouts.fails + self._workers:
                self._start()

    def _silence(self) -> Iterator[JobResult]:
        """Workers that neither reply nor die (one that holds the interpreter's lock, a cut-off node)."""
        latest = self._clock() - self._timeouts.silent
        for worker in [w for w, since in self._busy.items() if since < latest]:
            yield from self._lose(worker, f"no reply in {self._timeouts.silent:g} seconds")

    def _send(self) -> None:
        for worker in list(self._idle):
            request = self._scheduler.request(worker)
            if request is not None:
                self._idle.discard(worker)
                self._busy[worker] = self._clock()
                self._backend.send(worker, request)

    def _check_hope(self) -> None:
        if self._busy or self._idle or self._scheduler.over:
            return
        if not self._starting:
            raise ClusterError(f"screen: workers must be able to start, got: {self._why}")
        if min(self._clock() - since for since in self._starting.values()) > self._timeouts.start:
            raise ClusterError(
                "screen: the cluster must have room for one worker at least, got none in "
                f"{self._timeouts.start:g} seconds"
            )


def _numbers(versions: str) -> dict[str, str]:
    """Without what only tells builds of one version apart (``+cpu``, ``+cu130``)."""
    return {name: version.partition("+")[0] for name, version in json.loads(versions).items()}


__all__ = ["Supervisor", "Timeouts", "WorkerBackend"]
