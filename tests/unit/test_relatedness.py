"""Which models of a pool depend on each other: on made-up features whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from uapfast.method.lineage import LineageScorer, Roster
from uapfast.method.relatedness import (
    copies_among_innocents,
    dependent_candidates,
    dependent_innocents,
    kinship,
)

VIEWS, WIDTH = 5, 120


def made(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal((*shape, VIEWS, 1, WIDTH))


def scorer(candidates: np.ndarray, innocents: np.ndarray) -> LineageScorer:
    pool = np.concatenate([candidates, innocents]) - candidates.mean(0)
    count = len(candidates)
    roster = Roster(np.arange(count), np.arange(count, len(pool)), np.zeros((0, count), dtype=np.int64))
    return LineageScorer(pool.astype(np.float32), roster)


def world(
    seed: int, twins: int = 8, innocents: int = 16, copies: int = 0
) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Candidates of one kind; innocents of another, who share some directions; the last ones are copies."""
    rng = np.random.default_rng(seed)
    kind, shared = made(rng), made(rng, 3)
    candidates = kind + made(rng, twins + 1)
    honest = np.tensordot(rng.standard_normal((innocents, 3)), shared, 1) + made(rng, innocents)
    for i in range(copies):
        honest[innocents - 1 - i] = candidates[0] + 0.8 * made(rng)
    return candidates, honest, rng


@pytest.mark.parametrize("twins", [3, 8, 12])
@pytest.mark.parametrize("copies", [1, 2, 4])
def test_copies_among_innocents_are_found_however_many_hide_each_other(twins: int, copies: int) -> None:
    candidates, innocents, _ = world(1, twins, copies=copies)
    found = copies_among_innocents(scorer(candidates, innocents), 1e-3)
    last = twins + 1 + 16
    assert sorted(found) == list(range(last - copies, last))
    assert all(copy.candidate == 0 and copy.p <= 1e-3 for copy in found.values())


def test_a_copy_of_a_twin_is_found_as_that_twins() -> None:
    candidates, innocents, rng = world(2)
    innocents[3] = candidates[5] + 0.8 * made(rng)
    found = copies_among_innocents(scorer(candidates, innocents), 1e-3)
    assert {row: copy.candidate for row, copy in found.items()} == {9 + 3: 5}


@pytest.mark.parametrize("twins", [3, 8])
def test_honest_models_of_a_kind_that_varies_more_are_no_copies_for_sure(twins: int) -> None:
    """Of 16 innocents three have most of what is particular to them in the candidates' own directions."""
    named = sure = 0
    for seed in range(12):
        candidates, innocents, rng = world(200 + seed, twins)
        apart = candidates - candidates.mean(0)
        for row in (1, 6, 11):
            innocents[row] += np.tensordot(rng.standard_normal(twins + 1) * 0.14, apart, 1)
        found = copies_among_innocents(scorer(candidates, innocents), 1e-3)
        named, sure = named + len(found), sure + sum(copy.sure for copy in found.values())
    assert named >= 2  # the scale of the others alone takes some for copies
    assert sure == 0


@pytest.mark.parametrize("twins", [3, 12])
def test_copies_are_found_for_sure(twins: int) -> None:
    candidates, innocents, _ = world(1, twins, copies=4)
    found = copies_among_innocents(scorer(candidates, innocents), 1e-3)
    assert len(found) == 4 and all(copy.sure for copy in found.values())


def test_without_twins_copies_are_found_by_their_cosine() -> None:
    candidates, innocents, _ = world(3, twins=0, copies=2)
    assert sorted(copies_among_innocents(scorer(candidates, innocents), 1e-3)) == [15, 16]
    assert not copies_among_innocents(scorer(*world(3, twins=0)[:2]), 1e-3)


def test_clean_pools_raise_no_alarm() -> None:
    named = alarms = 0
    for seed in range(20):
        s = scorer(*world(100 + seed)[:2])
        named += len(copies_among_innocents(s, 1e-3))
        alarms += len(dependent_innocents(s)) + len(dependent_candidates(s))
    assert named <= 1  # 320 innocents at 0.1 %
    assert alarms == 0


def test_variants_of_an_innocent_are_found_with_what_they_were_made_from() -> None:
    candidates, innocents, rng = world(4)
    for row in (5, 9, 12):
        innocents[row] = innocents[2] + 0.5 * made(rng)
    found = dependent_innocents(scorer(candidates, innocents))
    assert {(gone - 9, stays - 9) for gone, stays, _ in found} == {(5, 2), (9, 2), (12, 2)}
    assert all(value >= 0.6 for *_, value in found)


def test_models_that_share_data_are_no_variants() -> None:
    candidates, innocents, rng = world(5)
    innocents[::2] += 3.0 * made(rng)  # one direction of half of them: raw cosines of .9
    assert not dependent_innocents(scorer(candidates, innocents))


def test_a_twin_that_is_a_copy_is_found() -> None:
    candidates, innocents, rng = world(6)
    candidates[4] = candidates[0] + 0.3 * made(rng)
    ((first, second, value),) = dependent_candidates(scorer(candidates, innocents))
    assert (first, second) == (0, 4) and value > 0.7


def test_kinship_of_true_twins_keeps_its_level() -> None:
    p = np.array(
        [
            kinship(s, place).distance.p
            for seed in range(30)
            for s in [scorer(*world(seed)[:2])]
            for place in range(9)
        ]
    )
    assert (p < 0.05).mean() < 0.1 and (p > 0.95).mean() < 0.1
    assert (p < 1e-3).mean() <= 0.01


def test_kinship_sees_a_victim_of_another_kind_and_twins_made_from_it() -> None:
    candidates, innocents, rng = world(7)
    far = candidates.copy()
    far[0] += 0.8 * made(rng)
    found = kinship(scorer(far, innocents))
    assert found.distance.p < 1e-3 and found.ratio > 1.05 and found.angle > 0.5
    around = candidates[0] + 0.2 * made(rng, 9)
    around[0] = candidates[0]
    found = kinship(scorer(around, innocents))
    assert found.distance.p > 0.98 and found.ratio < 0.8 and abs(found.angle) < 0.1


def test_other_innocents_give_the_scores_of_a_new_scorer() -> None:
    candidates, innocents, _ = world(8)
    whole = scorer(candidates, innocents)
    some = np.arange(9, 20)
    fresh = LineageScorer(whole.pool, Roster(whole.roster.candidates, some, whole.roster.surrogates))
    one, other = whole.with_innocents(some).scores(whole.pool[22]), fresh.scores(whole.pool[22])
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
