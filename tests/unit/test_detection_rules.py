"""Rules of the benchmark: the product's among them is the product's, the others are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from benchmarks.detection.rules import RULES, Runs, _prior_freedom, _trend, joint, upper
from benchmarks.detection.spreads import WORLDS, draw, raised, simulate
from benchmarks.detection.subsets import subsets
from uapfast.method.decision import decide
from uapfast.method.spread import WEIGHT, chance
from uapfast.method.standing import assessment


@pytest.mark.parametrize("twins", [2, 3, 16])
def test_the_products_rule_is_the_products(twins: int) -> None:
    rng = np.random.default_rng(twins)
    given = raised(draw(WORLDS["central victim (3)"], twins, 20, rng), 6.0)
    found = RULES["widened 2"](given)
    for scores, p in zip(given.scores, found, strict=True):
        outcome = decide(assessment(scores[-1:], scores[:-1, None]), 1e-3)
        assert p == pytest.approx(outcome.p if outcome.rank == 1 else 1.0, rel=1e-3)
    assert (found < 1e-2).any()


def test_table_of_the_tail_is_that_of_the_product() -> None:
    for z in (0.5, 3.0, 5.0, -1.0):
        assert upper(np.array([z / np.sqrt(WEIGHT + 2)]), WEIGHT, 2, 39)[0] == pytest.approx(
            chance(z, 3, 40), rel=1e-3
        )


def test_joint_rank_is_exact() -> None:
    """Models and candidates drawn alike: at most as often at or below each level as it says."""
    rng, world = np.random.default_rng(0), WORLDS["heavy tails"]
    p = joint(draw(world, 3, 4_000, rng))
    for level in (0.05, 0.01, 1 / 164):
        assert (p <= level + 1e-9).mean() <= level + 3 * np.sqrt(level / len(p))
    assert p.min() == pytest.approx(1 / 164)


def test_prior_freedom_is_smyths() -> None:
    for d0 in (0.5, 4.0, 60.0):
        assert _prior_freedom(np.array([special.polygamma(1, d0 / 2)]))[0] == pytest.approx(d0, rel=1e-6)
    assert _prior_freedom(np.array([-0.1]))[0] > 1e6


def test_trend_is_what_a_line_through_the_others_says() -> None:
    rng = np.random.default_rng(1)
    x, e = rng.normal(size=(1, 9)), rng.normal(size=(1, 9))
    slope, start = np.polyfit(np.delete(x[0], 4), np.delete(e[0], 4), 1)
    assert _trend(e, x)[0, 4] == pytest.approx(start + slope * x[0, 4])


def test_moderating_both_ways_accuses_suspects_that_vary_more() -> None:
    """Why it is not the rule: two twins, suspects twice as wide, at a stated .1 %."""
    found = simulate(4_000, 0, ("Smyth", "widened 2"), ("suspect 2 times as wide", 2))
    assert found["Smyth"][1] > 4 * 4_000 * 0.001
    assert found["widened 2"][1] <= 4_000 * 0.001 + 3 * np.sqrt(4_000 * 0.001)


def test_subsets_hold_the_victim_and_differ() -> None:
    found = [tuple(s) for s in subsets(17, 3)]
    assert all(s[0] == 3 and len(set(s)) == len(s) for s in found) and len(set(found)) == len(found)
    pairs = [set(s[1:]) for s in found if len(s) == 3]
    assert len(pairs) == 8 and len(set().union(*pairs)) == 16  # disjoint: every twin once
    assert isinstance(Runs(np.zeros((1, 3, 3))).innocents, int)
