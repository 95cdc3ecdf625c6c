"""Sharing out and losing workers, with a scripted crew: no Ray, no processes, no waiting."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from uapfast.errors import ClusterError, WorkerLostError
from uapfast.screening import dispatch
from uapfast.screening.dispatch import DEATHS, KILLERS, MOST, Board
from uapfast.screening.engines import AGAIN, Done, holds
from uapfast.screening.entry import Entry
from uapfast.screening.errands import BACKLOG, SLOTS, Busy, Errand, Hello, Lost, News, Orders, Reply, Told
from uapfast.screening.rows import Row
from uapfast.screening.shift import Patience, Shift

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

    errands: deque[Errand] = field(default_factory=deque)
    read: dict[int, Errand] = field(default_factory=dict)
    ask: deque[int] = field(default_factory=deque)


class Scripted:
    """A crew in one thread. Suspects whose name starts with ``kill`` kill, ``hang`` hang, ``build`` are never
    built, ``bad`` fail; the part of a name behind ``=`` is its hash, and its letters its network."""

    def __init__(self, seed: int = 0, mortality: float = 0.0) -> None:
        self.random, self.mortality, self.now, self.count = random.Random(seed), mortality, 0.0, 0
        self.workers: dict[int, Fake] = {}
        self.news: deque[tuple[int, News]] = deque()
        self.orders: dict[int, Orders] = {}
        self.asked: Counter[str] = Counter()
        self.deaths = self.most = 0
        self.versions, self.start_fails = VERSIONS, 0

    def clock(self) -> float:
        return self.now

    def hire(self) -> int:
        self.count += 1
        if self.start_fails:
            self.start_fails -= 1
            self.news.append((self.count, Lost("no module named uapfast")))
        else:
            self.workers[self.count] = Fake()
            self.news.append((self.count, Hello("here", 1, self.versions)))
        return self.count

    def send(self, worker: int, orders: Orders) -> None:
        assert worker not in self.orders and worker in self.workers
        self.orders[worker] = orders

    def fire(self, worker: int) -> None:
        self.workers.pop(worker, None)
        self.orders.pop(worker, None)
        self.news = deque(n for n in self.news if n[0] != worker)

    def wait(self, seconds: float) -> list[tuple[int, News]]:
        self.now += 0.1
        if not self.news and self.orders:
            worker = self.random.choice(list(self.orders))
            news = self.work(worker, self.workers[worker], self.orders.pop(worker))
            self.news.append((worker, news))
            if isinstance(news, Lost):
                self.deaths += 1
                del self.workers[worker]
        return [self.news.popleft()] if self.news else []

    def work(self, worker: int, fake: Fake, orders: Orders) -> News:
        fake.errands.extend(orders.errands)
        fake.ask.extend(orders.ask)
        for number in orders.drop:
            del fake.read[number]
        self.most = max(self.most, len(fake.errands) + len(fake.read))
        told: list[Told] = []
        for _ in range(self.random.randint(1, 2 * BACKLOG)):
            # so many steps at most may be unheard, in any order of reading and asking
            if len(told) == BACKLOG or not (step := self.step(fake)):
                break
            if step == "kill":
                return Lost("killed")
            if step == "hang":
                self.deaths += 1
                return Reply(tuple(told), (self.hung(fake),))
            assert isinstance(step, Told)
            told.append(step)
        if self.random.random() < self.mortality:
            return Lost("power")  # with everything that was not heard
        return Reply(tuple(told))

    def hung(self, fake: Fake) -> Busy:
        found = next(e for e in fake.read.values() if e.suspect.name.startswith(("hang", "build")))
        return Busy(found.number, 1e6, found.suspect.name.startswith("build"))

    def step(self, fake: Fake) -> Told | str | None:
        can_read = fake.errands and len(fake.read) < SLOTS
        if can_read and (not fake.ask or self.random.random() < 0.5):
            errand = fake.errands.popleft()
            fake.read[errand.number] = errand
            if errand.suspect.name.startswith("killreader"):
                return "kill"
            if errand.suspect.name.startswith("build"):
                return "hang"
            return Told(errand.number, errand.suspect.name.partition("=")[2] or errand.suspect.name, 0.5)
        if not fake.ask:
            return None
        name = fake.read[fake.ask[0]].suspect.name
        if name.startswith(("kill", "hang")):
            return name[:4]
        errand = fake.read.pop(fake.ask.popleft())
        self.asked[name] += 1
        sha256 = name.partition("=")[2] or name
        error = {"error_class": "X"} if name.startswith("bad") else {}
        return Told(errand.number, sha256, 0.5, (row(errand.suspect, sha256, **error),))


def suspects(names: list[str], taken: list[int] | None = None) -> Iterator[tuple[Entry, str]]:
    for number, name in enumerate(names):
        if taken is not None:
            taken[0] = number + 1
        yield Entry(name, f"uapfast:{re.findall('[a-z]+', name)[0]}", name), f"stamp {name}"


def play(names: list[str], crew: Scripted, workers: int = 3, known=None, **patience) -> list[Done]:
    stored: dict[tuple[str, str], list[Row]] = {}
    known = known or (lambda suspect, sha256: stored.get((suspect.network, sha256)))
    board = Board(suspects(names), known, failed, crew.clock)
    shift = Shift(crew, board, workers, VERSIONS, Patience(**patience), crew.clock)
    done = []
    for one in shift.run():
        done.append(one)
        if one.rows[0].sha256 and not one.rows[0].error_class:
            stored[one.suspect.network, one.rows[0].sha256] = list(one.rows)
    assert sorted(d.suspect.name for d in done) == sorted(names)
    assert board.over
    return done


@pytest.mark.parametrize("seed", range(30))
def test_every_suspect_once_whatever_dies(seed):
    rng = random.Random(seed)
    kinds = ["kill", "killreader", "hang", "build", "bad", "good"]
    names = []
    for i in range(rng.choice([1, 5, 60, 400])):
        kind = rng.choices(kinds, [1, 1, 1, 1, 10, 200])[0]
        twin = f"={kind}{rng.randint(0, 9)}" if kind in ("bad", "good") and rng.random() < 0.4 else ""
        names.append(f"{kind}{i}{twin}")
    crew = Scripted(seed, mortality=rng.choice([0.0, 0.02]))
    for done in play(names, crew, rng.randint(1, 4), suspect=1e5):
        (one,) = done.rows
        name = done.suspect.name
        if name.startswith("kill"):
            assert one.error_class == "WorkerLostError" and done.stamp == AGAIN
        elif name.startswith(("hang", "build")):
            # with workers that die of other things as well, it may be taken for a killer
            assert one.error_class == "TimeLimitError" or crew.mortality > 0
            assert not holds(done.stamp, f"stamp {name}", 2e5)  # with more time it is tried again
            assert holds(done.stamp, f"stamp {name}", 1e5) == (one.error_class == "TimeLimitError")
        elif done.stamp == AGAIN:
            assert one.error_class == "WorkerLostError" and crew.mortality > 0
        else:
            assert one.name == name and done.stamp == f"stamp {name}"
            assert one.error_class == ("X" if name.startswith("bad") else None)


def test_identical_tensors_are_asked_once_whoever_reads_them():
    names = [f"good{i}={i % 7}" for i in range(300)]
    crew = Scripted(3)
    done = play(names, crew)
    assert sum(crew.asked.values()) == 7
    originals = {d.rows[0].sha256: d.suspect.name for d in done if d.rows[0].same_as is None}
    assert len(originals) == 7
    for d in done:
        (one,) = d.rows
        assert one.name == d.suspect.name and one.path == d.suspect.shown
        if one.same_as is not None:
            assert one.same_as == originals[one.sha256] and one.seconds_read == 0.5


def test_a_failed_original_hands_its_error_to_nobody():
    names = [f"bad{i}=same" for i in range(20)]
    crew = Scripted(1)
    done = play(names, crew)
    assert crew.asked == Counter(names) and all(d.rows[0].name == d.suspect.name for d in done)


def test_what_is_known_is_not_asked():
    names = [f"good{i}" for i in range(50)]
    crew = Scripted(1)

    def known(suspect: Entry, sha256: str) -> list[Row] | None:
        return [replace(row(suspect, sha256), name="old")] if int(sha256[4:]) % 2 else None

    done = play(names, crew, known=known)
    assert set(crew.asked) == set(names[::2])
    assert all((d.rows[0].same_as == "old") == (d.suspect.name not in names[::2]) for d in done)


def test_a_killer_costs_few_workers_and_nobody_else_a_row():
    names = [*(f"good{i}" for i in range(30)), "kill", *(f"late{i}" for i in range(300))]
    crew = Scripted(2)
    done = {d.suspect.name: d for d in play(names, crew)}
    assert crew.deaths <= 1 + DEATHS
    assert [n for n, d in done.items() if d.rows[0].error_class] == ["kill"]
    assert "must be a suspect that leaves its worker alive" in str(done["kill"].rows[0].error_message)


def test_suspects_are_taken_as_they_are_needed():
    taken = [0]
    now = [0.0]
    names = [f"good{i}" for i in range(5000)]
    board = Board(suspects(names, taken), lambda s, h: None, failed, lambda: now[0])
    board.join(1)
    orders = board.orders(1)
    assert orders is not None and len(orders.errands) == SLOTS == taken[0]
    assert board.orders(1) == Orders()
    heard, numbers = 0, deque(e.number for e in orders.errands)
    for _ in range(1000):  # a quick worker is given more ahead, up to a bound
        now[0] += 0.001
        number = numbers.popleft()
        list(board.hear(1, [Told(number, f"{number}", 0.0)]))
        orders = board.orders(1)
        assert orders is not None and orders.ask == (number,)
        numbers.extend(e.number for e in orders.errands)
        heard += len(list(board.hear(1, [Told(number, f"{number}", 0.0, (row(Entry("x", "y"), "z"),))])))
        numbers.extend(e.number for e in board.orders(1).errands)  # type: ignore[union-attr]
        assert taken[0] - heard <= MOST
    assert heard == 1000 and taken[0] - heard == MOST


def test_nothing_to_do_starts_nobody():
    crew = Scripted()
    assert play([], crew) == [] and crew.count == 0
    play(["good1", "good2"], crew, workers=10)
    assert crew.count == 2


def test_workers_that_cannot_start_end_the_run_with_the_reason():
    crew = Scripted()
    crew.start_fails = 10**9
    with pytest.raises(ClusterError, match="no module named uapfast"):
        play(["good1", "good2"], crew, workers=2)
    assert crew.count < 20
    crew = Scripted()
    crew.start_fails = 3
    play(["good1", "good2"], crew, workers=2)


def test_no_room_in_the_cluster_is_told_after_a_while():
    class Full(Scripted):
        def hire(self) -> int:
            self.count += 1
            return self.count

    with pytest.raises(ClusterError, match="room for one worker at least, got none in 5 seconds"):
        play(["good1"], Full(), start=5.0)


def test_other_versions_are_refused_but_another_build_is_not():
    crew = Scripted()
    crew.versions = json.dumps({"uapfast": "1", "torch": "2+cu130"})
    play(["good1"], crew)
    crew.versions = json.dumps({"uapfast": "1", "torch": "3"})
    with pytest.raises(ClusterError, match='versions must be .*"torch": "2".* got .*"torch": "3".* on here'):
        play(["good1"], crew)


def test_a_silent_worker_is_replaced():
    class Mute(Scripted):
        def work(self, worker: int, fake: Fake, orders: Orders) -> News:
            news = super().work(worker, fake, orders)
            if worker == 1:  # takes orders, says nothing
                self.orders[worker] = Orders()
                self.news.append((0, Reply(())))
                return Reply(())
            return news

        def wait(self, seconds: float) -> list[tuple[int, News]]:
            if 1 in self.orders:
                self.now += 0.1
                held = self.orders.pop(1)
                found = super().wait(seconds)
                if 1 in self.workers:
                    self.orders[1] = held
                return found
            return super().wait(seconds)

    crew = Mute()
    play([f"good{i}" for i in range(40)], crew, workers=2, silent=3.0)
    assert 1 not in crew.workers and crew.count >= 3


def test_a_lone_suspect_is_given_up_with_a_typed_error():
    board = Board(suspects(["x"]), lambda s, h: None, failed)
    for death in range(DEATHS):
        board.join(death)
        assert board.orders(death) is not None and not board.over
        done = list(board.lost(death, "signal 9"))
    assert done[0].rows[0].error_class == WorkerLostError.__name__ and board.over
    assert "signal 9" in str(done[0].rows[0].error_message)


def test_copies_that_wait_for_a_slow_original_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(dispatch, "PARKED", 20)
    taken, stored = [0], []
    names = [f"good{i}=same" for i in range(2000)]
    board = Board(suspects(names, taken), lambda s, h: stored or None, failed)
    board.join(1), board.join(2)
    first, *_ = board.orders(1).errands  # type: ignore[union-attr]
    assert not list(board.hear(1, [Told(first.number, "same", 0.0)])) and board.orders(1).ask == (1,)
    for _ in range(50):
        orders = board.orders(2) or Orders()
        assert not list(board.hear(2, [Told(e.number, "same", 0.0) for e in orders.errands]))
    assert 20 <= taken[0] <= 20 + MOST + SLOTS and board.orders(2) is None
    stored.append(row(Entry("old", "x"), "same"))
    heard = list(board.hear(1, [Told(first.number, "same", 0.0, (stored[0],))]))
    assert 20 <= len(heard) <= 20 + MOST + SLOTS and board.orders(2) is not None


@pytest.mark.parametrize("kind", ["hang", "kill"])
def test_copies_of_what_never_ends_or_kills_are_not_tried(kind):
    names = [*(f"{kind}{i}=same" for i in range(200)), *(f"good{i}" for i in range(50))]
    crew = Scripted(5)
    done = {d.suspect.name: d.rows[0] for d in play(names, crew)}
    error = {"hang": "TimeLimitError", "kill": "WorkerLostError"}[kind]
    assert {r.error_class for n, r in done.items() if n.startswith(kind)} == {error}
    assert {r.error_class for n, r in done.items() if n.startswith("good")} == {None}
    assert crew.deaths <= 3 * (1 + DEATHS) and done[f"{kind}7=same"].sha256 == "same"


@pytest.mark.parametrize("kind", ["build", "killreader"])
def test_a_network_that_cannot_be_built_costs_few_workers(kind):
    names = [*(f"{kind}{i}" for i in range(2000)), *(f"good{i}" for i in range(50))]
    crew = Scripted(5)
    done = {d.suspect.name: d for d in play(names, crew)}
    error = {"build": "TimeLimitError", "killreader": "WorkerLostError"}[kind]
    assert Counter(d.rows[0].error_class for d in done.values()) == {error: 2000, None: 50}
    assert crew.deaths <= 3 * (1 + DEATHS) * KILLERS
    if kind == "build":
        assert "must be built within" in str(done["build1999"].rows[0].error_message)
        assert holds(done["build1999"].stamp, "stamp build1999", 1.0)


def test_what_rests_on_reuse_is_told_and_so_are_its_copies():
    class Lending(Scripted):
        def step(self, fake: Fake) -> Told | str | None:
            told = super().step(fake)
            if isinstance(told, Told) and told.rows:
                name = told.rows[0].name
                return told._replace(lent=name.startswith("good"), refuted=name.startswith("goodr"))
            return told

    done = play(["good1=a", "good2=a", "goodr=b", "own=c"], Lending(), workers=1, known=lambda *_: None)
    assert {d.suspect.name for d in done if d.lent} == {"good1=a", "good2=a", "goodr=b"}
    assert [d.suspect.name for d in done if d.refuted] == ["goodr=b"]
