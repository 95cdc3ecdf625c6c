"""One worker of a screen: threads that read suspects and one that asks them, and what it tells of them.

The same for every engine: the local one keeps workers in its own process, a cluster one in every actor. It
knows neither. So results on the same kind of CPU are the same bit for bit, whoever asks.

A thread cannot be ended from outside. A worker that is at one suspect for too long is abandoned: another one
takes its place, nothing that it holds is used again, and what its threads find later is dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from uapfast.errors import (
    ClusterError,
    EndpointError,
    MissingDependency,
    SandboxError,
    StorageError,
    UnavailableError,
)
from uapfast.screening.asking.budget import MemoryBudget
from uapfast.screening.asking.device import Loader
from uapfast.screening.asking.judge import failed_rows, judge
from uapfast.screening.asking.judge_direct import judge_direct
from uapfast.screening.asking.panel import Panel
from uapfast.screening.asking.reader import HostBuffer, Loaded
from uapfast.screening.engine.messages import BACKLOG, BUFFERS, InProgress, Job, Reply, Request, Update
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.networks.shapes import Shapes
from uapfast.suspects.networks.skeletons import Skeletons
from uapfast.suspects.networks.watch import Watch
from uapfast.threads import WorkerThread

NAME = "uapfast screen"  # of its threads
POLL, LINGER = 5.0, 0.05  # seconds until an exchange ends: with nothing to tell, with little
# faults of the machine or the asker, or for now; not of the suspect: a resumed run tries again
TRANSIENT = (
    SandboxError,
    MissingDependency,
    EndpointError,
    UnavailableError,
    StorageError,
    ClusterError,
    MemoryError,
    torch.OutOfMemoryError,
)
log = logging.getLogger(__name__)


def worker_count(panel: Panel) -> int:
    """Workers asked for, or one a core that this process may use; two on a GPU."""
    if panel.settings.workers is not None:
        return panel.settings.workers
    return len(os.sched_getaffinity(0)) if panel.settings.device == "cpu" else 2


@dataclass(frozen=True)
class WorkerSetup:
    """What workers of one process share.

    Attributes:
        panel: references and settings.
        loader: how weights get to where networks run.
        watch: of the time limit.
        skeletons: networks that are filled again and again.
        changed: is notified when a worker has something to tell, or room to go on.
    """

    panel: Panel
    loader: Loader
    watch: Watch
    skeletons: Skeletons
    changed: threading.Condition

    @classmethod
    def of(cls, panel: Panel, loader: Loader) -> WorkerSetup:
        """For a panel, networks built by ``loader``."""
        watch, settings = Watch(), panel.settings
        skeletons = Skeletons(settings.device, watch, loader.skeleton, settings.anew)
        return cls(panel, loader, watch, skeletons, threading.Condition())


@dataclass
class LoadedJob:
    """A suspect in a worker's memory."""

    job: Job
    buffer: HostBuffer
    loaded: Loaded | None = None


class Worker:
    """Threads that read, one that asks, and the updates that they have.

    Args:
        means: what it shares with the other workers of this process.
        readers: threads that read; it has ``BUFFERS - 1`` buffers more.
        budget: memory that its buffers ask for beyond their share; None for no limit.
        explain: the error of a failed job where the suspect is not at fault for it.
    """

    def __init__(
        self,
        means: WorkerSetup,
        readers: int = 1,
        budget: MemoryBudget | None = None,
        explain: Callable[[Job], BaseException | None] = lambda _: None,
    ) -> None:
        self._means, self._changed, self._explain = means, means.changed, explain
        self._to_read: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._to_ask: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._buffers: queue.SimpleQueue[HostBuffer | None] = queue.SimpleQueue()
        for _ in range(readers + BUFFERS - 1):
            self._buffers.put(means.loader.buffer(budget))
        self._updates: list[Update] = []
        self._first = 0.0  # when the oldest of them came
        self._open: set[int] = set()  # jobs that it was sent, and has not yet told the end of
        self._held: dict[int, LoadedJob] = {}
        self._at: dict[int, threading.Thread] = {}
        self._left = False  # nobody hears it any more
        self.threads = [WorkerThread(step, NAME) for step in [*[self._reads] * readers, self._asks]]
        for thread in self.threads:
            thread.start()

    # -- to and from the scheduler -----------------------------------------------------------------
    def take(self, request: Request) -> None:
        """Begin what is asked for."""
        with self._changed:
            self._open.update(job.number for job in request.jobs)
            self._open.difference_update(request.drop)
        for job in request.jobs:
            self._to_read.put(job)
        for number in request.drop:
            self._free(number)
        for number in request.ask:
            self._to_ask.put(number)

    @property
    def has_news(self) -> bool:
        """Whether a reply would say something, or nothing is under way."""
        return bool(self._updates) or not self._open

    def reply(self) -> Reply:
        """The updates since the last one, and what is under way."""
        means = self._means
        with self._changed:
            updates, self._updates = tuple(self._updates), []
            self._changed.notify_all()
            now = time.monotonic()
            busy = (
                InProgress(number, now - means.watch.since(thread), means.skeletons.building(thread))
                for number, thread in self._at.items()  # infinite for who waits: below any limit
            )
            return Reply(updates, tuple(busy))

    def exchange(self, request: Request) -> Reply:
        """Take a request; reply once there are updates, or after some seconds."""
        self.take(request)
        end = time.monotonic() + POLL
        with self._changed:
            while (seconds := self._patience(end)) > 0:
                self._changed.wait(seconds)
            return self.reply()

    def _patience(self, end: float) -> float:
        """Seconds that updates may still be waited for."""
        now = time.monotonic()
        if not self._updates:
            return end - now if self._open else 0.0
        # who asks the last one that it was sent needs a new request by the time it is through
        if self._to_ask.empty() or len(self._updates) >= BACKLOG // 2:
            return 0.0
        return min(end, self._first + LINGER) - now

    def leave(self) -> None:
        """Stop after what is under way, which counts no more."""
        with self._changed:
            self._left = True
            self._changed.notify_all()
        for source in (self._to_read, self._to_ask):
            with contextlib.suppress(queue.Empty):
                while True:
                    source.get_nowait()
        for _ in self.threads:
            self._to_read.put(None)
            self._buffers.put(None)
        self._to_ask.put(None)

    def abandon(self) -> list[threading.Thread]:
        """Leave, and count no longer on threads that are at something; returns these."""
        with self._changed:
            at = list(self._at.values())
            for thread in at:
                thread.abandoned = True  # type: ignore[attr-defined]
        self.leave()
        for thread in at:
            self._means.skeletons.abandon(thread)
        for held in list(self._held.values()):
            held.buffer.abandon()
        return at

    # -- threads -----------------------------------------------------------------------------------
    def _reads(self) -> None:
        while (job := self._to_read.get()) is not None and (buffer := self._buffers.get()) is not None:
            held = self._held[job.number] = LoadedJob(job, buffer)
            self._try(held, self._read)

    def _asks(self) -> None:
        while (number := self._to_ask.get()) is not None:
            with self._changed:
                self._changed.notify_all()  # there may be none left to ask
            self._try(self._held[number], self._ask)

    def _read(self, held: LoadedJob) -> Update:
        job = held.job
        if job.suspect.is_direct:
            return Update(job.number, None, 0.0)
        loaded = self._means.loader.read(job.suspect, held.buffer, self._shapes)
        held.loaded = loaded
        return _read(job.number, loaded)

    def _shapes(self, suspect: Entry) -> Shapes:
        return self._means.skeletons.shapes(suspect)

    def _ask(self, held: LoadedJob) -> Update:
        number, loaded, means = held.job.number, held.loaded, self._means
        if loaded is None:
            found = judge_direct(means.panel, held.job.suspect, means.watch)
            update = Update(number, None, 0.0)
        else:
            found, update = judge(means.panel, means.skeletons, loaded), _read(number, loaded)
        rows = tuple(found.rows)
        return update._replace(rows=rows, retry=found.retry, reused=found.reused, refuted=found.refuted)

    def _try(self, held: LoadedJob, step: Callable[[LoadedJob], Update]) -> None:
        number = held.job.number
        self._means.watch.begin()
        with self._changed:
            self._at[number] = threading.current_thread()
        try:
            update = step(held)
        except BaseException as exc:  # a factory may even call sys.exit; the worker goes on
            update = self._failed(held, exc)
        with self._changed:
            del self._at[number]
            # a death must not take more results with it than this: the scheduler counts on it
            self._changed.wait_for(lambda: self._left or len(self._updates) < BACKLOG)
            if self._left:
                return
            if not self._updates:
                self._first = time.monotonic()
            self._updates.append(update)
            if update.rows is not None:
                self._open.discard(number)
            self._changed.notify_all()
        if update.rows is not None:
            self._free(number)

    def _free(self, number: int) -> None:
        buffer = self._held.pop(number).buffer
        buffer.leave()
        self._buffers.put(buffer)

    def _failed(self, held: LoadedJob, error: BaseException) -> Update:
        job, loaded = held.job, held.loaded
        log.debug("screen: %s", job.suspect.name, exc_info=True)
        error = self._explain(job) or error
        update = _read(job.number, loaded) if loaded else Update(job.number, None, 0.0)
        entry = loaded.entry if loaded else job.suspect
        rows = failed_rows(self._means.panel, entry, error, update.sha256)
        return update._replace(rows=tuple(rows), retry=isinstance(error, TRANSIENT))


def _read(number: int, loaded: Loaded) -> Update:
    return Update(number, loaded.sha256, loaded.seconds, arch=loaded.entry.arch, notes=loaded.notes)


__all__ = ["NAME", "POLL", "TRANSIENT", "Worker", "WorkerSetup", "worker_count"]
