"""Workers that die, hang, stay silent or cannot start: who is blamed, who is replaced (scripted backend)."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from tests.unit.scripted_backend import Fake, Scripted, drawn, failed, play, started, suspects
from uapfast.errors import ClusterError, WorkerLostError
from uapfast.screening.engine.messages import Message, Reply, Request
from uapfast.screening.engine.scheduler import DEATHS, KILLERS, Scheduler
from uapfast.screening.table.stamps import RETRY, holds


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
            assert one.error_class == "WorkerLostError" and done.stamp == RETRY
        elif name.startswith(("hang", "build")):
            # with workers that die of other things as well, it may be taken for a killer
            assert one.error_class == "TimeLimitError" or backend.mortality > 0
            assert not holds(done.stamp, f"stamp {name}", 2e5)  # with more time it is tried again
            assert holds(done.stamp, f"stamp {name}", 1e5) == (one.error_class == "TimeLimitError")
        elif done.stamp == RETRY:
            assert one.error_class == "WorkerLostError" and backend.mortality > 0
        else:
            assert one.name == name and done.stamp == f"stamp {name}"
            assert one.error_class == ("X" if name.startswith("bad") else None)


def test_a_killer_costs_few_workers_and_nobody_else_a_row():
    names = [*(f"good{i}" for i in range(30)), "kill", *(f"late{i}" for i in range(300))]
    backend = Scripted(2)
    done = {d.suspect.name: d for d in play(names, backend)}
    assert backend.deaths <= 1 + DEATHS
    assert [n for n, d in done.items() if d.rows[0].error_class] == ["kill"]
    assert "must be a suspect that does not end its worker process" in str(done["kill"].rows[0].error_message)


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
