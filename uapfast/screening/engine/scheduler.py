"""Which worker reads and asks which suspect. Workers are threads or other processes; any of them may die.

A worker reads a suspect, tells the hash of its tensors, and waits to hear whether to ask it: identical
tensors are asked once, whichever workers read them. Results come with every reply. Of a dead worker's
suspects, those that it may have begun are asked again one at a time, so that one that kills whoever asks
it is found out after a few deaths and becomes a row; the others go back as they were. Copies of one that
kills or never ends are not asked.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from uapfast.errors import TimeLimitError, UapfastError, WorkerLostError
from uapfast.screening.engine.messages import BACKLOG, BUFFERS, InProgress, Job, Request, Update
from uapfast.screening.engine.registry import JobResult
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.rows import Row
from uapfast.screening.table.stamps import RETRY, late

MOST = 256  # suspects that a worker is given ahead, at most
AHEAD = 2.0  # seconds of work that a worker in another process is given ahead
PARKED = 4096  # suspects that wait for the answers to the same tensors, at most
DEATHS = 2  # of workers that had one suspect alone, until it is a row
KILLERS = 2  # suspects of one network that killed before they were read, until it is the network
PAGE = 256  # suspects of such networks that become rows at a time

KnownRows = Callable[[Entry, str], "list[Row] | None"]
FailedRows = Callable[[Entry, BaseException, "str | None"], "list[Row]"]


class Fault(NamedTuple):
    """Why a suspect is given up; ``seconds`` were too few, if not None."""

    error: UapfastError
    seconds: float | None = None

    def stamp(self, own: str) -> str:
        """For the store: a resumed run tries again, but not with as little time as it had."""
        return RETRY if self.seconds is None else late(own, self.seconds)


@dataclass(eq=False)
class Task:
    """One suspect that has no rows yet.

    Attributes:
        job: who.
        isolated: sent to a worker that has nothing else, since it may have killed one.
        deaths: of workers that had nothing else.
        own: asked even if another has its tensors (the other failed, and errors name their file).
        key: network and tensors, while it is asked for all that have these.
        seconds: that reading took.
        sha256: of its tensors, once read.
        notes: what was done in reading.
    """

    job: Job
    isolated: bool = False
    deaths: int = 0
    own: bool = False
    key: tuple[str, str] | None = None
    seconds: float = 0.0
    sha256: str | None = None
    notes: tuple[str, ...] = ()

    def take(self, update: Update) -> None:
        """What a worker says of its file."""
        self.sha256, self.seconds, self.notes = update.sha256, update.seconds, update.notes
        if update.arch:
            self.job = self.job._replace(suspect=self.job.suspect.taking(update.arch))


@dataclass
class WorkerState:
    """What the scheduler knows of a worker.

    Attributes:
        since: when it joined, in seconds.
        done: suspects that it is through with.
        out: suspects that it has, by number, in the order of sending.
        ask, drop: for its next request.
    """

    since: float
    done: int = 0
    out: dict[int, Task] = field(default_factory=dict)
    ask: list[int] = field(default_factory=list)
    drop: list[int] = field(default_factory=list)


class Scheduler:
    """Who is asked by whom. For one thread.

    Args:
        suspects: with stamps; taken as workers need them.
        known: see :class:`uapfast.screening.engine.registry.Engine`.
        failed: rows of a suspect that cannot be asked.
        clock: seconds.
        buffers: checkpoints that a worker has room for.
        ahead: seconds of work that a worker is given beyond these: what a dead one costs, and the wait at the
            end.
    """

    def __init__(
        self,
        suspects: Iterator[tuple[Entry, str]],
        known: KnownRows,
        failed: FailedRows,
        clock: Callable[[], float] = time.monotonic,
        buffers: int = BUFFERS,
        ahead: float = AHEAD,
    ) -> None:
        self._suspects, self._known, self._failed, self._clock = suspects, known, failed, clock
        self._buffers, self._ahead = buffers, ahead
        self._more, self._count = True, 0
        self._ready: deque[Task] = deque()
        self._isolated: deque[Task] = deque()
        self._workers: dict[int, WorkerState] = {}
        self._asked: dict[tuple[str, str], list[Task]] = {}  # who waits for the same tensors
        self._tensors: dict[tuple[str, str], Fault] = {}  # that are not to be asked again
        self._networks: dict[str, Fault] = {}  # that are not to be built again
        self._killers: Counter[str] = Counter()
        self._rejected: list[Task] = []

    @property
    def over(self) -> bool:
        """Whether every suspect has its rows, as far as the list was taken."""
        waiting = self._more or self._ready or self._isolated or self._rejected
        return not waiting and not any(state.out for state in self._workers.values())

    def peek(self, count: int) -> int:
        """Take up to ``count`` suspects from the list; returns how many there are to begin with."""
        while len(self._ready) < count and (task := self._new()) is not None:
            self._ready.append(task)
        return len(self._ready)

    def _new(self) -> Task | None:
        found = next(self._suspects, None) if self._more else None
        if found is None:
            self._more = False
            return None
        self._count += 1
        return Task(Job(self._count, *found))

    # -- to a worker -------------------------------------------------------------------------------
    def join(self, worker: int) -> None:
        """A worker is there."""
        self._workers[worker] = WorkerState(self._clock())

    def request(self, worker: int) -> Request | None:
        """What to tell it now; None if there is nothing to be told and nothing to be heard."""
        state = self._workers[worker]
        fresh = self._share(state)
        state.out.update((task.job.number, task) for task in fresh)
        found = Request(tuple(t.job for t in fresh), tuple(state.ask), tuple(state.drop))
        state.ask, state.drop = [], []
        return found if state.out or found.drop else None

    def _share(self, state: WorkerState) -> list[Task]:
        while self._isolated:  # all workers run dry meanwhile; that is two seconds
            if state.out:
                return []
            task = self._isolated.popleft()
            if not self._is_rejected(task):
                return [task]
        if any(task.isolated for task in state.out.values()):
            return []
        if sum(map(len, self._asked.values())) >= PARKED:
            return []
        rate = state.done / max(self._clock() - state.since, 1e-3)
        fresh: list[Task] = []
        most = min(max(self._buffers, int(rate * self._ahead)), MOST)
        places = min(most, self._fair()) - len(state.out)
        while len(fresh) < places and len(self._rejected) < PAGE:
            found = self._ready.popleft() if self._ready else self._new()
            if found is None:
                break
            if not self._is_rejected(found):
                fresh.append(found)
        return fresh

    def _fair(self) -> int:
        """What each worker may have, so that at the end of the list none has many and others nothing."""
        ready = self.peek(self._buffers * len(self._workers))
        out = sum(len(state.out) for state in self._workers.values())
        return MOST if self._more else -(-(ready + out) // len(self._workers))

    def _is_rejected(self, task: Task) -> bool:
        rejected = self._fault_of(task) is not None
        if rejected:
            self._rejected.append(task)
        return rejected

    def _fault_of(self, task: Task) -> Fault | None:
        """Why none of its networks is built again."""
        networks = task.job.suspect.networks
        return next((self._networks[n] for n in networks if n in self._networks), None)

    def settle(self) -> Iterator[JobResult]:
        """Suspects that have their rows without being sent."""
        rejected, self._rejected = self._rejected, []
        for task in rejected:
            fault = self._fault_of(task)
            assert fault is not None
            yield from self._give_up(task, fault)

    # -- from a worker -----------------------------------------------------------------------------
    def hear(self, worker: int, updates: Sequence[Update]) -> Iterator[JobResult]:
        """Take a worker's updates; yields suspects that have their rows."""
        state = self._workers[worker]
        for update in updates:
            task = state.out[update.number]
            task.take(update)
            if update.rows is None:
                yield from self._was_read(state, task)
                continue
            del state.out[update.number]
            state.done += 1
            failed = any(row.error_class for row in update.rows)
            if failed and (fault := self._fault_of(task)) is not None:
                yield from self._give_up(task, fault)  # it was sent before that was known
            else:
                yield from self._end(task, update, failed)

    def _was_read(self, state: WorkerState, task: Task) -> Iterator[JobResult]:
        number, suspect = task.job.number, task.job.suspect
        if task.sha256 is None:  # asked as it is
            state.ask.append(number)
            return
        key = (suspect.network, task.sha256)
        if (fault := self._tensors.get(key)) is not None:
            del state.out[number]
            state.drop.append(number)
            yield from self._give_up(task, fault)
            return
        if not task.own:
            waiting, rows = self._asked.get(key), None
            if waiting is not None:
                waiting.append(task)
            else:
                rows = self._known(suspect, task.sha256)
            if waiting is not None or rows:
                del state.out[number]
                state.drop.append(number)
                state.done += 1
                if rows:
                    yield self._adopt(task, rows)
                return
            self._asked[key] = []
            task.key = key
        state.ask.append(number)

    def _end(self, task: Task, update: Update, failed: bool) -> Iterator[JobResult]:
        waiting, rows = self._release(task), update.rows or ()
        stamp = RETRY if update.retry else task.job.stamp
        yield JobResult(task.job.suspect, stamp, rows, update.reused, update.refuted)
        for other in waiting:
            if failed:  # errors name their file
                other.own = True
                self._ready.append(other)
            else:
                yield self._adopt(other, rows, update.reused)

    def _release(self, task: Task) -> list[Task]:
        """Those that wait for this one's answers."""
        if task.key is None:
            return []
        waiting, task.key = self._asked.pop(task.key), None
        return waiting

    @staticmethod
    def _adopt(task: Task, rows: Sequence[Row], reused: bool = False) -> JobResult:
        suspect = task.job.suspect
        own = (suspect.name, suspect.shown, task.notes)
        moved = (row.moved_to(*own, seconds_read=task.seconds) for row in rows)
        return JobResult(suspect, task.job.stamp, tuple(moved), reused)

    # -- without a worker --------------------------------------------------------------------------
    def expire(self, worker: int, busy: InProgress, limit: float) -> Iterator[JobResult]:
        """A suspect is given up while its worker is at it; the worker has to be replaced."""
        task = self._workers[worker].out.pop(busy.number)
        suspect = task.job.suspect
        asked = task.sha256 or suspect.is_direct
        what = "built" if busy.building else "asked" if asked else "read"
        rule = f"{what} within {limit:g} s"
        fault = Fault(TimeLimitError("screen", suspect.name, rule, "no result"), limit)
        if busy.building:
            self._networks[busy.building] = fault
        yield from self._give_up(task, fault)

    def lost(self, worker: int, why: str = "", blame: bool = True) -> Iterator[JobResult]:
        """A worker is gone; yields suspects that are given up.

        Args:
            worker: which.
            why: for messages.
            blame: it may have died of a suspect.
        """
        state = self._workers.pop(worker, None)
        left = list(state.out.values()) if state else []
        for place, task in enumerate(left):
            self._ready.extend(self._release(task))
            # a worker begins in the order of sending, and tells ends before it keeps too many of them
            begun = blame and place < self._buffers + BACKLOG
            if begun and len(left) == 1:
                task.deaths += 1
            if task.deaths >= DEATHS:
                yield from self._killed(task, Fault(WorkerLostError(_lost(task, why))))
            elif begun or task.isolated:
                task.isolated = True
                # who is under suspicion first: its copies wait for what comes of it
                (self._isolated.appendleft if task.deaths else self._isolated.append)(task)
            else:
                self._ready.append(task)

    def _killed(self, task: Task, fault: Fault) -> Iterator[JobResult]:
        network = task.job.suspect.network
        if task.sha256 is None:
            self._killers[network] += 1
            if self._killers[network] >= KILLERS:
                self._networks[network] = fault
        yield from self._give_up(task, fault)

    def _give_up(self, task: Task, fault: Fault) -> Iterator[JobResult]:
        """Rows with an error, for whoever waits for the same tensors as well."""
        suspect, waiting = task.job.suspect, self._release(task)
        if task.sha256 is not None:
            self._tensors[suspect.network, task.sha256] = fault
        rows = self._failed(suspect, fault.error, task.sha256)
        yield JobResult(suspect, fault.stamp(task.job.stamp), tuple(rows))
        for other in waiting:
            yield from self._give_up(other, fault)


def _lost(task: Task, why: str) -> str:
    suspect = task.job.suspect
    got = f"{task.deaths} workers that died while it was their only suspect"
    return f"screen: {suspect.name} must be a suspect that does not end its worker process, got {got} ({why})"


__all__ = ["Fault", "Scheduler"]
