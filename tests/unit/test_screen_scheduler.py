"""Sharing suspects out among workers (scripted backend): each is asked once, copies with their original."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace

from tests.unit.scripted_backend import Fake, Scripted, failed, play, row, suspects
from uapfast.screening.engine import scheduler as scheduler_module
from uapfast.screening.engine.messages import BUFFERS, Request, Update
from uapfast.screening.engine.scheduler import MOST, Scheduler
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.rows import Row


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


def test_what_rests_on_reuse_is_told_and_so_are_its_copies():
    class Lending(Scripted):
        def step(self, fake: Fake) -> Update | str | None:
            told = super().step(fake)
            if isinstance(told, Update) and told.rows:
                name = told.rows[0].name
                return told._replace(reused=name.startswith("good"), refuted=name.startswith("goodr"))
            return told

    done = play(["good1=a", "good2=a", "goodr=b", "own=c"], Lending(), workers=1, known=lambda *_: None)
    assert {d.suspect.name for d in done if d.reused} == {"good1=a", "good2=a", "goodr=b"}
    assert [d.suspect.name for d in done if d.refuted] == ["goodr=b"]
