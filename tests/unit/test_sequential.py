"""Stopping early: looks let suspects go, convictions rest on all views, and few are lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.detection.levels import SETTINGS, Setting, draw
from uapfast.errors import InputError
from uapfast.method.decision import decide
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.method.sequential import MISSED, Background, Looks, Stop, Stopper, stands_out, too_few
from uapfast.method.spread import standings
from uapfast.method.standing import assessment, typical_spread
from uapfast.screening.table.correction import q_values

ALPHA = 0.01


def background(rest: np.ndarray) -> Background:
    rows = rest.mean(1)
    return Background(typical_spread(rows), standings(rows), True)


def run(own: np.ndarray, rest: np.ndarray, alpha: float = ALPHA) -> Stop:
    looks = Looks.default(own.shape[0])
    stopper = Stopper(looks, background(rest), alpha)
    for k in looks.views:
        stop = stopper.look(own[:k], rest[:, :k])
        if stop is not None:
            return stop
    raise AssertionError("the last look must stop")


def draws(count: int, lift: float = 0.0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    out = [draw(SETTINGS["normal scores, 16 twins"], rng) for _ in range(count)]
    for own, _ in out:
        own[:, 0] += lift
    return out


def test_innocents_leave_early() -> None:
    stops = [run(own, rest) for own, rest in draws(400)]
    accused = sum(s.outcome.decision == "piracy" for s in stops)
    assert np.mean([s.views for s in stops]) < 8
    assert accused <= 0.01 * 400 + 3 * np.sqrt(0.01 * 400)


@pytest.mark.parametrize("lift", [0.25, 0.4, 0.6])
def test_of_those_convicted_by_all_views_few_leave_unconvicted(lift: float) -> None:
    pairs = draws(150, lift)
    full = [decide(assessment(own, rest), ALPHA).decision for own, rest in pairs]
    stops = [run(own, rest) for own, rest in pairs]
    convicted = [s.outcome.decision for s, f in zip(stops, full, strict=True) if f == "piracy"]
    missed = len(convicted) - convicted.count("piracy")
    assert len(convicted) > 20
    assert missed <= MISSED * len(convicted) + 3 * np.sqrt(MISSED * len(convicted))


def test_a_conviction_is_that_of_all_views() -> None:
    for own, rest in draws(40, lift=0.6):
        stop = run(own, rest)
        if stop.outcome.decision == "piracy":
            assert stop.views == 20 and stop.outcome == decide(assessment(own, rest), ALPHA)
    assert sum(run(*pair).outcome.decision == "piracy" for pair in draws(40, lift=0.6)) > 30


@pytest.mark.parametrize("total", [1, 2, 3, 5, 6, 11, 20])
def test_no_look_before_the_last_convicts_whatever_the_views_say(total: int) -> None:
    """First views deep in the tail, then anything: whoever is convicted has been asked all of the budget."""
    rng, convicted = np.random.default_rng(total), 0
    for own, rest in draws(60):
        own, rest = own[:total].copy(), rest[:, :total]
        own[: rng.integers(1, total + 1), 0] += rng.choice([0.5, 2.0, 40.0])
        looks = Looks.default(total)
        stopper = Stopper(looks, background(rest), ALPHA)
        stop = next(s for k in looks.views if (s := stopper.look(own[:k], rest[:, :k])) is not None)
        assert stop.outcome.decision != "piracy" or stop.views == total
        convicted += stop.outcome.decision == "piracy"
    assert convicted > 5


def test_as_many_views_as_said_convict_nobody() -> None:
    assert [too_few(k) is None for k in (1, 4, 5, 20)] == [False, False, True, True]
    assert str(too_few(1)).startswith("1 view convicts nobody")


def test_p_value_is_the_larger_side_of_the_views_that_were_used() -> None:
    for lift in (0.0, 0.3, 0.6):
        for own, rest in draws(30, lift):
            stop = run(own, rest)
            plain = decide(assessment(own[: stop.views], rest[:, : stop.views]), ALPHA)
            assert stop.outcome.candidate is not None
            assert stop.outcome.joint is not None
            sides = (stop.outcome.candidate, stop.outcome.suspect, stop.outcome.joint)
            assert stop.outcome.p == max(side.p for side in sides) == plain.p


def test_whoever_stands_out_once_is_asked_all_views() -> None:
    own, rest = draws(1, lift=-1.0)[0]
    own[0, 0] += 40.0  # convicted by the first view alone, and by no other
    looks, stopper = Looks.default(20), Stopper(Looks.default(20), background(rest), ALPHA)
    own[1:, 0] -= 4.0
    stops = [stopper.look(own[:k], rest[:, :k]) for k in looks.views]
    assert stands_out(decide(assessment(own[:1], rest[:, :1]), ALPHA), ALPHA)
    assert not stands_out(decide(assessment(own, rest), ALPHA), ALPHA)
    assert stops[:-1] == [None] * 4 and stops[-1] is not None and stops[-1].views == 20


def test_who_leaves_early_has_a_p_above_the_level_and_is_not_first_on_both_sides() -> None:
    early = [s for pair in draws(300) if (s := run(*pair)).views < 20]
    assert len(early) > 200 and not any(stands_out(s.outcome, ALPHA) for s in early)
    assert all("views: the others could hardly convict it" in s.outcome.reasons[-1] for s in early)


@pytest.mark.parametrize("innocents", [16, 24, 40])
def test_among_hundreds_of_innocents_copies_are_convicted_as_by_the_full_budget(innocents: int) -> None:
    rng, alpha, setting = np.random.default_rng(innocents), 1e-3, Setting(twins=12, innocents=innocents)
    early, full, accused = [], [], []
    for row in range(400):
        own, rest = draw(setting, rng)
        if row % 100 == 0:
            own[:, 0] += 0.8  # far from the level, so that q is at or below .05
        early.append(run(own, rest, alpha).outcome)
        full.append(decide(assessment(own, rest), alpha))
    for outcomes in (early, full):
        q = np.array(q_values([o.p for o in outcomes], alpha))
        accused.append(np.array([o.decision == "piracy" for o in outcomes]) & (q <= 0.05))
    assert accused[1][::100].all() and accused[1].sum() == 4
    assert (accused[0] == accused[1]).all()


def test_without_twins_the_suspect_side_decides_when_to_stop() -> None:
    rng = np.random.default_rng(1)
    rest = rng.normal(size=(12, 20, 1)) * 0.02 + 0.05 * rng.normal(size=(12, 1, 1))
    pool = Background(0.0, rest[..., 0].mean(1), False)
    looks = Looks((2, 20))
    low = Stopper(looks, pool, ALPHA).look(rest[0, :2] - 1.0, rest[1:, :2])
    assert low is not None
    assert low.outcome.decision == "independent"
    assert low.views == 2
    stopper = Stopper(looks, pool, ALPHA)
    assert stopper.look(np.full((2, 1), 5.0), rest[:, :2]) is None
    high = stopper.look(np.full((20, 1), 5.0), rest)
    assert high is not None
    assert high.outcome.decision == "inconclusive"  # twelve innocents convict nobody by themselves
    assert high.outcome.p < ALPHA


def test_looks_fit_any_number_of_views() -> None:
    assert Looks.default(20).views == (1, 2, 5, 10, 20)
    assert Looks.default(5).views == (1, 2, 5)
    assert Looks.default(1).views == (1,)


@pytest.mark.parametrize("views", [(), (2, 2), (0, 4), (4, 2)])
def test_bad_looks_are_refused(views: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="looks: "):
        Looks(views)


def test_a_look_at_the_wrong_time_is_refused() -> None:
    own, rest = draws(1)[0]
    with pytest.raises(InputError, match="1 views, got 3"):
        Stopper(Looks.default(20), background(rest), ALPHA).look(own[:3], rest[:, :3])


# -- the pool's own errors of prediction ------------------------------------------------------------


class Task:
    """A pool of 10 candidates and 16 innocents, 20 views; suspects that keep a share of the victim."""

    def __init__(self, seed: int, width: int = 100) -> None:
        self.rng = np.random.default_rng(seed)
        self.base = self.rng.normal(size=(20, 2, width))
        self.nuisance = 0.4 * self.rng.normal(size=(3, *self.base.shape))
        candidates = [self.innocent(0.1) for _ in range(10)]
        self.victim = candidates[0]
        pool = np.stack([*candidates, *(self.innocent() for _ in range(16))])
        roster = Roster(np.arange(10), np.arange(10, 26), np.zeros((0, 10), dtype=np.int64))
        self.scorer = LineageScorer(pool, roster)
        self.background = Background.of(self.scorer)

    def innocent(self, wide: float = 1.0) -> np.ndarray:
        shift = np.tensordot(self.rng.normal(size=3) * wide, self.nuisance, 1)
        return (self.base + shift + 0.3 * self.rng.normal(size=self.base.shape)).astype(np.float32)

    def thief(self, keep: float) -> np.ndarray:
        return (self.innocent() + keep * (self.victim - self.base)).astype(np.float32)

    def stop(self, suspect: np.ndarray, background: Background | None = None) -> Stop:
        looks = Looks.default(20)
        stopper = Stopper(looks, background or self.background, ALPHA)
        for k in looks.views:
            stop = stopper.look(*self.scorer.scores(suspect, k))
            if stop is not None:
                return stop
        raise AssertionError("the last look must stop")

    def full(self, suspect: np.ndarray) -> str:
        return decide(self.scorer.assess(suspect), ALPHA).decision


def test_errors_of_prediction_shrink_with_views_and_are_those_of_innocents() -> None:
    task = Task(0)
    errors = [task.background.errors[k] for k in Looks.default(20).views[:-1]]
    assert errors == sorted(errors, reverse=True) and errors[-1] > 0
    of_suspects = []
    for _ in range(40):
        suspect = task.innocent()
        seen, whole = (task.scorer.scores(suspect, k)[0].mean(0) for k in (5, 20))
        of_suspects.append((seen[0] - seen[1:].mean()) - (whole[0] - whole[1:].mean()))
    assert np.sqrt(np.mean(np.square(of_suspects))) == pytest.approx(task.background.errors[5], rel=0.5)


def test_by_the_pools_errors_innocents_leave_sooner_and_thieves_stay() -> None:
    views, before, accused, convicted, missed = [], [], 0, 0, 0
    for seed in range(5):
        task = Task(seed)
        blind = replace(task.background, errors={})
        for _ in range(12):
            innocent = task.innocent()
            stop = task.stop(innocent)
            views.append(stop.views)
            before.append(task.stop(innocent, blind).views)
            accused += stop.outcome.decision == "piracy"
        for keep in np.linspace(0.05, 0.4, 16):
            thief = task.thief(float(keep))
            if task.full(thief) == "piracy":
                convicted += 1
                missed += task.stop(thief).outcome.decision != "piracy"
    assert np.mean(views) < 7 and np.mean(views) < 0.8 * np.mean(before)
    assert accused <= ALPHA * len(views) + 3 * np.sqrt(ALPHA * len(views))
    assert convicted > 30 and missed <= MISSED * convicted + 3 * np.sqrt(MISSED * convicted)
