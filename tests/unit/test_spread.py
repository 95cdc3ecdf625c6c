"""The moderated spread of twin scores: against direct formulas, and its level by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from uapfast.method.decision import decide
from uapfast.method.spread import WEIGHT, WIDTH, chance, height, least_spread, standings, widened
from uapfast.method.standing import assessment


def test_standings_are_those_of_each_pair_alone():
    scores = np.random.default_rng(0).normal(size=(7, 5))
    found = standings(scores)
    for i, row in enumerate(scores):
        for c, own in enumerate(row):
            others = np.delete(scores, c, axis=1)
            usual = np.delete(others.var(axis=1, ddof=1), i).mean()
            prior, freedom = WEIGHT * WIDTH**2 * usual, len(row) - 2
            mixed = (prior + freedom * others[i].var(ddof=1)) / (WEIGHT + freedom)
            assert found[i, c] == pytest.approx((own - others[i].mean()) / np.sqrt(mixed * (1 + 1 / 4)))
    np.testing.assert_array_equal(standings(np.ones((4, 3))), 0.0)


def test_standings_treat_models_and_candidates_alike():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(9, 6))
    rows, columns = rng.permutation(9), rng.permutation(6)
    np.testing.assert_allclose(standings(scores[rows][:, columns]), standings(scores)[rows][:, columns])
    np.testing.assert_allclose(standings(scores + rng.normal(size=(9, 1))).shape, (9, 6))


def test_standings_do_not_see_what_all_candidates_share():
    scores = np.random.default_rng(2).normal(size=(9, 4))
    np.testing.assert_allclose(
        standings(scores + 1e3 * np.arange(9.0)[:, None]), standings(scores), atol=1e-9
    )


@pytest.mark.parametrize(("twins", "innocents", "z"), [(2, 40, 3), (2, 8, 9), (3, 20, 4), (16, 40, 5)])
def test_chance_is_the_integral_over_the_spread(twins, innocents, z):
    d = twins - 1

    def part(y):
        at = z * np.sqrt((WEIGHT + y * y) / (WEIGHT + d))
        return stats.chi.pdf(y, d) * stats.t.sf(at, innocents - 1)

    expected = integrate.quad(part, 0, np.inf, epsabs=0, epsrel=1e-10, limit=500)[0]
    assert chance(z, twins, innocents) == pytest.approx(expected, rel=1e-8)
    assert chance(-z, twins, innocents) == pytest.approx(1 - expected, rel=1e-8)


def test_chance_is_the_share_of_models_that_vary_so_widely():
    """By simulation of what it says: a usual spread of 1, known, and a suspect WIDTH times as wide."""
    rng, twins = np.random.default_rng(3), 3
    scores = WIDTH * rng.normal(size=(400_000, twins + 1))
    width = widened(scores[:, 1:].var(1, ddof=1), 1.0, twins)
    z = (scores[:, 0] - scores[:, 1:].mean(1)) / width
    for at in (1.0, 2.0, 3.0):
        share = float((z >= at).mean())
        assert share == pytest.approx(chance(at, twins, 10_000), abs=4 * np.sqrt(share / len(z)))


@given(st.floats(1e-8, 0.4), st.integers(2, 20), st.integers(3, 60))
def test_height_is_where_chance_is_p(p, twins, innocents):
    assert chance(height(p, twins, innocents), twins, innocents) == pytest.approx(p, rel=1e-6)


def test_more_twins_need_no_more():
    """The score above the twins' mean, in usual spreads, from which a usual suspect is convicted, falls."""
    need = [height(1e-3, m, 40) * float(widened(1.0, 1.0, m)) for m in (2, 3, 4, 6, 8, 12, 16, 32)]
    assert need == sorted(need, reverse=True)
    assert need[0] < 9 and need[-1] < 4.5


def test_least_spread_is_that_of_nineteen_in_twenty():
    own = np.random.default_rng(4).chisquare(5, 100_000) / 5
    assert float((widened(own, 1.0, 6) < least_spread(6)).mean()) == pytest.approx(0.05, abs=0.004)


def accused(twins: int, wide: float, freedom: float, runs: int, innocents: int = 40) -> float:
    """Share of honest suspects, ``wide`` times as wide as the pool's, with all p-values at or below .001."""
    rng, found = np.random.default_rng([twins, int(10 * wide)]), 0
    for _ in range(runs):
        noise = rng.normal(size=(innocents + 1, twins + 1))
        if np.isfinite(freedom):
            noise = rng.standard_t(freedom, size=noise.shape)
        noise[0] *= wide
        scores = 0.05 * noise[:, None]
        outcome = decide(assessment(scores[0], scores[1:]), 1e-3)
        found += outcome.p <= 1e-3 and outcome.rank == 1
    return found / runs


@pytest.mark.parametrize(("twins", "wide", "freedom"), [(2, 2.0, np.inf), (3, 2.0, np.inf), (16, 1.0, 4.0)])
def test_level_holds_for_a_suspect_twice_as_wide_and_for_heavy_tails(twins, wide, freedom):
    """At a stated .1 %: .1 % and what chance adds in 3,000 runs."""
    assert accused(twins, wide, freedom, 3_000) <= 0.001 + 3 * np.sqrt(0.001 / 3_000)
