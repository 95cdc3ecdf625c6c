"""Sharing out and losing workers, with a scripted backend: no Ray, no processes, no waiting."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from uapfast.errors import ClusterError, WorkerLostError
from uapfast.screening import scheduler as scheduler_module
from uapfast.screening.engines import AGAIN, Done, holds
from uapfast.screening.entry import Entry
from uapfast.screening.messages import (
    BACKLOG,
    BUFFERS,
    Busy,
    Hello,
    Job,
    Lost,
    Message,
    Reply,
    Request,
    Update,
)
from uapfast.screening.rows import Row
from uapfast.screening.scheduler import DEATHS, KILLERS, MOST, Scheduler
from uapfast.screening.supervisor import Supervisor, Timeouts

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

    def hung(self, fake: Fake) -> Busy:
        found = next(e for e in fake.read.values() if e.suspect.name.startswith(("hang", "build")))
        building = found.suspect.network if found.suspect.name.startswith("build") else None
        return Busy(found.number, 1e6, building)

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


def play(names: list[str], backend: Scripted, workers: int = 3, known=None, **timeouts) -> list[Done]:
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


@pytest.mark.parametrize("seed", range(30))
def test_stopped_at_any_step_and_begun_again_every_suspect_has_one_set_of_rows(seed):
    left, rng, found = drawn(seed), random.Random(seed), Counter()
    for turn in range(10**6):
        backend = Scripted(seed + turn, mortality=0.01)
        supervisor, _ = started(left, backend, 2, lambda *_: None, suspect=1e5)
        for one, _ in zip(supervisor.run(), range(rng.randint(1, 200)), strict=False):
            found[one.suspect.name] += 1
        left = [name for name in left if not found[name]]
        if not left:
            break
    assert found == Counter(drawn(seed))


@pytest.mark.parametrize("seed", range(30))
def test_every_suspect_once_whatever_dies(seed):
    rng, names = random.Random(seed), drawn(seed)
    backend = Scripted(seed, mortality=rng.choice([0.0, 0.02]))
    for done in play(names, backend, rng.randint(1, 4), suspect=1e5):
        (one,) = done.rows
        name = done.suspect.name
        if name.startswith("kill"):
            assert one.error_class == "WorkerLostError" and done.stamp == AGAIN
        elif name.startswith(("hang", "build")):
            # with workers that die of other things as well, it may be taken for a killer
            assert one.error_class == "TimeLimitError" or backend.mortality > 0
            assert not holds(done.stamp, f"stamp {name}", 2e5)  # with more time it is tried again
            assert holds(done.stamp, f"stamp {name}", 1e5) == (one.error_class == "TimeLimitError")
        elif done.stamp == AGAIN:
            assert one.error_class == "WorkerLostError" and backend.mortality > 0
        else:
            assert one.name == name and done.stamp == f"stamp {name}"
            assert one.error_class == ("X" if name.startswith("bad") else None)


def test_identical_tensors_are_asked_once_whoever_reads_them():
    names = [f"good{i}={i % 7}" for i in range(300)]
    backend = Scripted(3)
    done = play(names, backend)
    assert sum(backend.asked.values()) == 7
    originals = {d.rows[0].sha256: d.suspect.name for d in done if d.rows[0].same_as is None}
    assert len(originals) == 7
    for d in done:
        (one,) = d.rows
        assert one.name == d.suspect.name and one.path == d.suspect.shown
        if one.same_as is not None:
            assert one.same_as == originals[one.sha256] and one.seconds_read == 0.5


def test_a_failed_original_hands_its_error_to_nobody():
    names = [f"bad{i}=same" for i in range(20)]
    backend = Scripted(1)
    done = play(names, backend)
    assert backend.asked == Counter(names) and all(d.rows[0].name == d.suspect.name for d in done)


def test_what_is_known_is_not_asked():
    names = [f"good{i}" for i in range(50)]
    backend = Scripted(1)

    def known(suspect: Entry, sha256: str) -> list[Row] | None:
        return [replace(row(suspect, sha256), name="old")] if int(sha256[4:]) % 2 else None

    done = play(names, backend, known=known)
    assert set(backend.asked) == set(names[::2])
    assert all((d.rows[0].same_as == "old") == (d.suspect.name not in names[::2]) for d in done)


def test_a_killer_costs_few_workers_and_nobody_else_a_row():
    names = [*(f"good{i}" for i in range(30)), "kill", *(f"late{i}" for i in range(300))]
    backend = Scripted(2)
    done = {d.suspect.name: d for d in play(names, backend)}
    assert backend.deaths <= 1 + DEATHS
    assert [n for n, d in done.items() if d.rows[0].error_class] == ["kill"]
    assert "must be a suspect that leaves its worker alive" in str(done["kill"].rows[0].error_message)


def test_suspects_are_taken_as_they_are_needed():
    taken = [0]
    now = [0.0]
    names = [f"good{i}" for i in range(5000)]
    scheduler = Scheduler(suspects(names, taken), lambda s, h: None, failed, lambda: now[0])
    scheduler.join(1)
    request = scheduler.request(1)
    assert request is not None and len(request.jobs) == BUFFERS == taken[0]
    assert scheduler.request(1) == Request()
    heard, numbers = 0, deque(e.number for e in request.jobs)
    for _ in range(1000):  # a quick worker is given more ahead, up to a bound
        now[0] += 0.001
        number = numbers.popleft()
        list(scheduler.hear(1, [Update(number, f"{number}", 0.0)]))
        request = scheduler.request(1)
        assert request is not None and request.ask == (number,)
        numbers.extend(e.number for e in request.jobs)
        heard += len(
            list(scheduler.hear(1, [Update(number, f"{number}", 0.0, (row(Entry("x", "y"), "z"),))]))
        )
        numbers.extend(e.number for e in scheduler.request(1).jobs)  # type: ignore[union-attr]
        assert taken[0] - heard <= MOST + BUFFERS
    assert heard == 1000 and taken[0] - heard >= MOST


def test_a_short_list_is_shared_evenly():
    scheduler = Scheduler(suspects([f"good{i}" for i in range(5)]), lambda s, h: None, failed)
    scheduler.join(1), scheduler.join(2)
    assert [len(scheduler.request(n).jobs) for n in (1, 2)] == [3, 2]  # type: ignore[union-attr]
    scheduler = Scheduler(suspects(["good1", "good2"]), lambda s, h: None, failed)
    scheduler.join(1), scheduler.join(2)
    assert [len(scheduler.request(n).jobs) for n in (1, 2)] == [1, 1]  # type: ignore[union-attr]


def test_nothing_to_do_starts_nobody():
    backend = Scripted()
    assert play([], backend) == [] and backend.count == 0
    play(["good1", "good2"], backend, workers=10)
    assert backend.count == 2


def test_workers_that_cannot_start_end_the_run_with_the_reason():
    backend = Scripted()
    backend.start_fails = 10**9
    with pytest.raises(ClusterError, match="no module named uapfast"):
        play(["good1", "good2"], backend, workers=2)
    assert backend.count < 20
    backend = Scripted()
    backend.start_fails = 3
    play(["good1", "good2"], backend, workers=2)


def test_no_place_in_the_cluster_is_told_after_a_while():
    class Full(Scripted):
        def start(self) -> int:
            self.count += 1
            return self.count

    with pytest.raises(ClusterError, match="room for one worker at least, got none in 5 seconds"):
        play(["good1"], Full(), start=5.0)


def test_other_versions_are_refused_but_another_build_is_not():
    backend = Scripted()
    backend.versions = json.dumps({"uapfast": "1", "torch": "2+cu130"})
    play(["good1"], backend)
    backend.versions = json.dumps({"uapfast": "1", "torch": "3"})
    with pytest.raises(ClusterError, match='versions must be .*"torch": "2".* got .*"torch": "3".* on here'):
        play(["good1"], backend)


def test_a_silent_worker_is_replaced():
    class Mute(Scripted):
        def work(self, worker: int, fake: Fake, request: Request) -> Message:
            news = super().work(worker, fake, request)
            if worker == 1:  # takes request, says nothing
                self.request[worker] = Request()
                self.news.append((0, Reply(())))
                return Reply(())
            return news

        def wait(self, seconds: float) -> list[tuple[int, Message]]:
            if 1 in self.request:
                self.now += 0.1
                held = self.request.pop(1)
                found = super().wait(seconds)
                if 1 in self.workers:
                    self.request[1] = held
                return found
            return super().wait(seconds)

    backend = Mute()
    play([f"good{i}" for i in range(40)], backend, workers=2, silent=3.0)
    assert 1 not in backend.workers and backend.count >= 3


def test_a_lone_suspect_is_given_up_with_a_typed_error():
    scheduler = Scheduler(suspects(["x"]), lambda s, h: None, failed)
    for death in range(DEATHS):
        scheduler.join(death)
        assert scheduler.request(death) is not None and not scheduler.over
        done = list(scheduler.lost(death, "signal 9"))
    assert done[0].rows[0].error_class == WorkerLostError.__name__ and scheduler.over
    assert "signal 9" in str(done[0].rows[0].error_message)


def test_copies_that_wait_for_a_slow_original_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(scheduler_module, "PARKED", 20)
    taken, stored = [0], []
    names = [f"good{i}=same" for i in range(2000)]
    scheduler = Scheduler(suspects(names, taken), lambda s, h: stored or None, failed)
    scheduler.join(1), scheduler.join(2)
    first, *_ = scheduler.request(1).jobs  # type: ignore[union-attr]
    assert not list(scheduler.hear(1, [Update(first.number, "same", 0.0)])) and scheduler.request(1).ask == (
        1,
    )
    for _ in range(50):
        request = scheduler.request(2) or Request()
        assert not list(scheduler.hear(2, [Update(e.number, "same", 0.0) for e in request.jobs]))
    assert 20 <= taken[0] <= 20 + MOST + BUFFERS and scheduler.request(2) is None
    stored.append(row(Entry("old", "x"), "same"))
    heard = list(scheduler.hear(1, [Update(first.number, "same", 0.0, (stored[0],))]))
    assert 20 <= len(heard) <= 20 + MOST + BUFFERS and scheduler.request(2) is not None


@pytest.mark.parametrize("kind", ["hang", "kill"])
def test_copies_of_what_never_ends_or_kills_are_not_tried(kind):
    names = [*(f"{kind}{i}=same" for i in range(200)), *(f"good{i}" for i in range(50))]
    backend = Scripted(5)
    done = {d.suspect.name: d.rows[0] for d in play(names, backend)}
    error = {"hang": "TimeLimitError", "kill": "WorkerLostError"}[kind]
    assert {r.error_class for n, r in done.items() if n.startswith(kind)} == {error}
    assert {r.error_class for n, r in done.items() if n.startswith("good")} == {None}
    assert backend.deaths <= 3 * (1 + DEATHS) and done[f"{kind}7=same"].sha256 == "same"


@pytest.mark.parametrize("kind", ["build", "killreader"])
def test_a_network_that_cannot_be_built_costs_few_workers(kind):
    names = [*(f"{kind}{i}" for i in range(2000)), *(f"good{i}" for i in range(50))]
    backend = Scripted(5)
    done = {d.suspect.name: d for d in play(names, backend)}
    error = {"build": "TimeLimitError", "killreader": "WorkerLostError"}[kind]
    assert Counter(d.rows[0].error_class for d in done.values()) == {error: 2000, None: 50}
    assert backend.deaths <= 3 * (1 + DEATHS) * KILLERS
    if kind == "build":
        assert "must be built within" in str(done["build1999"].rows[0].error_message)
        assert holds(done["build1999"].stamp, "stamp build1999", 1.0)


def test_what_rests_on_reuse_is_told_and_so_are_its_copies():
    class Lending(Scripted):
        def step(self, fake: Fake) -> Update | str | None:
            told = super().step(fake)
            if isinstance(told, Update) and told.rows:
                name = told.rows[0].name
                return told._replace(lent=name.startswith("good"), refuted=name.startswith("goodr"))
            return told

    done = play(["good1=a", "good2=a", "goodr=b", "own=c"], Lending(), workers=1, known=lambda *_: None)
    assert {d.suspect.name for d in done if d.lent} == {"good1=a", "good2=a", "goodr=b"}
    assert [d.suspect.name for d in done if d.refuted] == ["goodr=b"]
