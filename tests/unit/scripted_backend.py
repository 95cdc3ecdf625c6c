"""A scripted backend for the tests of the scheduler: no Ray, no processes, no waiting."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from uapfast.screening.engine.messages import (
    BACKLOG,
    BUFFERS,
    Hello,
    InProgress,
    Job,
    Lost,
    Message,
    Reply,
    Request,
    Update,
)
from uapfast.screening.engine.registry import JobResult
from uapfast.screening.engine.scheduler import Scheduler
from uapfast.screening.engine.supervisor import Supervisor, Timeouts
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.rows import Row

VERSIONS = json.dumps({"uapfast": "1", "torch": "2"})


def row(suspect: Entry, sha256: str | None, **fields: object) -> Row:
    values = {"decision": "independent", "alpha": 0.01, "settings": "", "versions": "", "queries_full": 1}
    own = {"reference": "r", "reference_sha256": "r", "name": suspect.name, "path": suspect.shown}
    return Row(**{**values, **own, "arch": suspect.arch, "sha256": sha256, **fields})  # type: ignore[arg-type]


def failed(suspect: Entry, error: BaseException, sha256: str | None) -> list[Row]:
    told = {"error_class": type(error).__name__, "error_message": str(error), "decision": "invalid"}
    return [row(suspect, sha256, **told)]


@dataclass
class Fake:
    """A worker: as far ahead of what it has told as a real one may be."""

    jobs: deque[Job] = field(default_factory=deque)
    read: dict[int, Job] = field(default_factory=dict)
    ask: deque[int] = field(default_factory=deque)


class Scripted:
    """A backend in one thread, at whose suspects workers die, hang and fail as their names begin: ``kill``,
    ``hang``, ``build`` (never built), ``bad``; behind ``=`` stands a hash; the letters are the network."""

    def __init__(self, seed: int = 0, mortality: float = 0.0) -> None:
        self.random, self.mortality, self.now, self.count = random.Random(seed), mortality, 0.0, 0
        self.workers: dict[int, Fake] = {}
        self.news: deque[tuple[int, Message]] = deque()
        self.request: dict[int, Request] = {}
        self.asked: Counter[str] = Counter()
        self.deaths = self.most = 0
        self.versions, self.start_fails = VERSIONS, 0

    def clock(self) -> float:
        return self.now

    def start(self) -> int:
        self.count += 1
        if self.start_fails:
            self.start_fails -= 1
            self.news.append((self.count, Lost("no module named uapfast")))
        else:
            self.workers[self.count] = Fake()
            self.news.append((self.count, Hello("here", 1, self.versions)))
        return self.count

    def send(self, worker: int, request: Request) -> None:
        assert worker not in self.request and worker in self.workers
        self.request[worker] = request

    def kill(self, worker: int) -> None:
        self.workers.pop(worker, None)
        self.request.pop(worker, None)
        self.news = deque(n for n in self.news if n[0] != worker)

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        self.now += 0.1
        if not self.news and self.request:
            worker = self.random.choice(list(self.request))
            news = self.work(worker, self.workers[worker], self.request.pop(worker))
            self.news.append((worker, news))
            if isinstance(news, Lost):
                self.deaths += 1
                del self.workers[worker]
        return [self.news.popleft()] if self.news else []

    def work(self, worker: int, fake: Fake, request: Request) -> Message:
        fake.jobs.extend(request.jobs)
        fake.ask.extend(request.ask)
        for number in request.drop:
            del fake.read[number]
        self.most = max(self.most, len(fake.jobs) + len(fake.read))
        updates: list[Update] = []
        for _ in range(self.random.randint(1, 2 * BACKLOG)):
            # so many steps at most may be unheard, in any order of reading and asking
            if len(updates) == BACKLOG or not (step := self.step(fake)):
                break
            if step == "kill":
                return Lost("killed")
            if step == "hang":
                self.deaths += 1
                return Reply(tuple(updates), (self.hung(fake),))
            assert isinstance(step, Update)
            updates.append(step)
        if self.random.random() < self.mortality:
            return Lost("power")  # with everything that was not heard
        return Reply(tuple(updates))

    def hung(self, fake: Fake) -> InProgress:
        found = next(e for e in fake.read.values() if e.suspect.name.startswith(("hang", "build")))
        building = found.suspect.network if found.suspect.name.startswith("build") else None
        return InProgress(found.number, 1e6, building)

    def step(self, fake: Fake) -> Update | str | None:
        can_read = fake.jobs and len(fake.read) < BUFFERS
        if can_read and (not fake.ask or self.random.random() < 0.5):
            job = fake.jobs.popleft()
            fake.read[job.number] = job
            if job.suspect.name.startswith("killreader"):
                return "kill"
            if job.suspect.name.startswith("build"):
                return "hang"
            return Update(job.number, job.suspect.name.partition("=")[2] or job.suspect.name, 0.5)
        if not fake.ask:
            return None
        name = fake.read[fake.ask[0]].suspect.name
        if name.startswith(("kill", "hang")):
            return name[:4]
        job = fake.read.pop(fake.ask.popleft())
        self.asked[name] += 1
        sha256 = name.partition("=")[2] or name
        error = {"error_class": "X"} if name.startswith("bad") else {}
        return Update(job.number, sha256, 0.5, (row(job.suspect, sha256, **error),))


def suspects(names: list[str], taken: list[int] | None = None) -> Iterator[tuple[Entry, str]]:
    for number, name in enumerate(names):
        if taken is not None:
            taken[0] = number + 1
        yield Entry(name, f"uapfast:{re.findall('[a-z]+', name)[0]}", name), f"stamp {name}"


def started(
    names: list[str], backend: Scripted, workers: int, known, **timeouts
) -> tuple[Supervisor, Scheduler]:
    scheduler = Scheduler(suspects(names), known, failed, backend.clock)
    return Supervisor(backend, scheduler, workers, VERSIONS, Timeouts(**timeouts), backend.clock), scheduler


def play(names: list[str], backend: Scripted, workers: int = 3, known=None, **timeouts) -> list[JobResult]:
    stored: dict[tuple[str, str], list[Row]] = {}
    known = known or (lambda suspect, sha256: stored.get((suspect.network, sha256)))
    supervisor, scheduler = started(names, backend, workers, known, **timeouts)
    done = []
    for one in supervisor.run():
        done.append(one)
        if one.rows[0].sha256 and not one.rows[0].error_class:
            stored[one.suspect.network, one.rows[0].sha256] = list(one.rows)
    assert sorted(d.suspect.name for d in done) == sorted(names)
    assert scheduler.over
    return done


def drawn(seed: int) -> list[str]:
    """Suspects of all kinds, some of which have the tensors of others."""
    rng = random.Random(seed)
    kinds = ["kill", "killreader", "hang", "build", "bad", "good"]
    names = []
    for i in range(rng.choice([1, 5, 60, 400])):
        kind = rng.choices(kinds, [1, 1, 1, 1, 10, 200])[0]
        twin = f"={kind}{rng.randint(0, 9)}" if kind in ("bad", "good") and rng.random() < 0.4 else ""
        names.append(f"{kind}{i}{twin}")
    return names
