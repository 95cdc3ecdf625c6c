from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from uapfast.method import decision, spread
from uapfast.method.decision import (
    BEYOND,
    TAIL,
    Assessment,
    among_innocents,
    among_pairs,
    among_twins,
    compare,
    critical,
    decide,
    needed_z,
    upper_t,
    view_level_p,
)

FINITE = st.floats(-1, 1, allow_nan=False, width=32)


def score(own: float, twins: list[float]) -> float:
    return among_twins(own, np.array(twins), 0.01, 6).z


def assessment(
    own: float, twins: list[float], statistic: float, innocents: list[float], pairs: list[float] | None = None
) -> Assessment:
    """Over 6 innocents or so there are few pairs; a few hundred more let the joint rank convict."""
    views, others = np.full(4, own), np.linspace(-2, 2, 400) if pairs is None else np.array(pairs)
    rest = np.array(innocents)
    return Assessment(
        own, views, np.zeros((len(rest), 4)), np.array([own, *twins]), statistic, rest, 0.01, others
    )


def test_compare_is_the_student_prediction_interval():
    others = np.array([0.1, 0.3, 0.2, 0.5, 0.4])
    side = compare(1.0, others)
    expected = (1.0 - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 5))
    assert side.z == pytest.approx(expected)
    assert side.p == pytest.approx(stats.t.sf(expected, 4))
    assert side.exact == side.floor == pytest.approx(1 / 6)


def test_ties_count_against_conviction():
    assert compare(0.5, np.array([0.5, 0.1, 0.2])).exact == pytest.approx(2 / 4)


def test_without_spread_only_the_rank_speaks():
    side = compare(1.0, np.zeros(4))
    assert side.p == side.exact == pytest.approx(1 / 5)


@given(arrays(np.float64, st.integers(2, 12), elements=FINITE), FINITE)
def test_exact_p_is_a_rank(others, value):
    side = compare(value, others)
    assert side.floor <= side.exact <= 1
    assert side.exact * (len(others) + 1) == pytest.approx(round(side.exact * (len(others) + 1)))


def test_a_spread_that_happens_to_be_small_is_moderated():
    """Seen on real models: eight twin scores within 0.03 made an honest model's 0.177 look like z 7.6."""
    twins = np.array([-0.033, -0.04, -0.019, -0.011, -0.041, 0.002, 0.02, -0.055])
    side = among_twins(0.177, twins, 0.1, 16)
    assert compare(0.177, twins).z > 7 and side.z < 2.5
    assert side.p > 0.01 and side.exact == side.floor == pytest.approx(1 / 9)


def test_two_twins_that_happen_to_differ_do_not_hide_a_copy():
    """By their own spread, with one degree of freedom, no z convicts."""
    twins = np.array([-0.05, 0.05])
    assert compare(0.9, twins).p > 0.02
    assert among_twins(0.9, twins, 0.05, 40).p < 1e-4


def test_suspect_side_counts_from_where_innocents_lie_and_how_widely():
    innocents = np.array([3.0, 5.0, 4.0, 2.0, 6.0])
    side = among_innocents(9.0, innocents, 8)
    apart = (9.0 - 4.0) / np.sqrt(1 + 1 / 5)
    assert side.z == pytest.approx(apart / innocents.std(ddof=1))
    assert side.p == pytest.approx(spread.chance(apart / innocents.std(ddof=1), 8, 5))
    narrow = 4.0 + 0.1 * (innocents - 4.0)  # innocents that differ less than twins explain sharpen nothing
    assert among_innocents(9.0, narrow, 8).p == pytest.approx(spread.chance(apart, 8, 5))
    assert side.exact == side.floor == pytest.approx(1 / 6)


def test_joint_rank_counts_pairs_and_falls_as_a_power_to_a_tenth_of_its_floor():
    pairs = np.linspace(-3, 2, 99)
    assert among_pairs(1.0, pairs).exact == pytest.approx((1 + (pairs >= 1.0).sum()) / 100)
    assert among_pairs(1.0, pairs).p == among_pairs(1.0, pairs).exact
    beyond = among_pairs(2.5, pairs)
    assert beyond.exact == beyond.floor == pytest.approx(0.01)
    assert beyond.p == pytest.approx(0.01 * (2.0 / 2.5) ** TAIL)
    assert among_pairs(50.0, pairs).p == pytest.approx(0.01 / BEYOND)
    assert among_pairs(-4.0, pairs).p == 1.0


def test_no_p_lies_below_a_tenth_of_the_joint_floor_and_is_then_called_a_bound():
    twins, innocents = [0.0, 0.01, -0.01, 0.02, -0.02], [0.0, 0.5, -0.5, 0.3, -0.3, 0.1]
    pairs = list(np.linspace(-2, 2, 41))
    outcome = decide(assessment(0.9, twins, score(0.9, twins), innocents, pairs), 1e-3)
    assert outcome.joint is not None and outcome.candidate is not None
    assert outcome.bound and outcome.p == pytest.approx(1 / 42 / BEYOND)
    assert min(outcome.candidate.p, outcome.suspect.p, outcome.joint.p) == outcome.p
    assert outcome.decision == "inconclusive" and any("must be 100 or more" in r for r in outcome.reasons)
    larger = decide(assessment(0.9, twins, score(0.9, twins), innocents), 1e-3)
    assert larger.decision == "piracy" and larger.bound
    near = decide(assessment(0.05, twins, score(0.05, twins), innocents, pairs), 1e-3)
    assert not near.bound and near.p > outcome.p


def test_needed_is_where_the_largest_p_reaches_alpha():
    rng = np.random.default_rng(0)
    for shift, twins, alpha in ((0.0, 3, 1e-3), (3.0, 16, 1e-3), (0.0, 2, 0.01), (-1.0, 8, 0.05)):
        innocents, cells = rng.normal(size=40) + shift, rng.normal(size=(40, twins + 1))
        pairs, z = np.r_[cells.ravel(), np.full(twins, -5.0)], needed_z(alpha, twins, innocents, cells)
        above, below = (
            max(
                among_innocents(at, innocents, twins).p,
                spread.chance(at, twins, 40),
                among_pairs(at, pairs).p,
            )
            for at in (z + 1e-6, z - 1e-6)
        )
        assert above <= alpha < below
    assert needed_z(1e-3, 3, rng.normal(size=8), rng.normal(size=(8, 4))) == np.inf


def test_first_on_both_sides_is_never_cleared():
    """A pool too small to convict an exact copy must not acquit it either."""
    outcome = decide(assessment(0.9, [0.0, 0.6, -0.6], 1.4, [0.0, 0.9, -0.9, 0.3, 0.8]), 1e-3)
    assert outcome.p > decision.UNCLEAR and outcome.rank == 1
    assert outcome.decision == "inconclusive"
    assert "too small to tell" in outcome.reasons[0]


def test_critical_is_where_p_equals_alpha():
    others = np.array([0.1, 0.3, 0.2, 0.5, 0.4])
    assert compare(critical(others, 0.01), others).p == pytest.approx(0.01)


@pytest.mark.parametrize(("m", "level"), [(4, 0.05), (8, 0.01), (19, 0.001)])
def test_student_side_keeps_its_level_on_normal_scores(m, level):
    rng = np.random.default_rng(m)
    draws = rng.normal(size=(200_000, m + 1))
    others = draws[:, 1:]
    z = (draws[:, 0] - others.mean(1)) / (others.std(1, ddof=1) * np.sqrt(1 + 1 / m))
    share = float((stats.t.sf(z, m - 1) <= level).mean())
    assert share == pytest.approx(level, abs=4 * np.sqrt(level / 200_000))


def test_conviction_needs_both_sides():
    twins, innocents = [0.0, 0.01, -0.01, 0.02, -0.02], [0.0, 0.5, -0.5, 0.3, -0.3, 0.1]
    far = score(0.9, twins)
    assert decide(assessment(0.9, twins, far, innocents), 1e-3).decision == "piracy"
    # the same suspect where innocents score as high: a central victim attracts everybody
    central = [far + d for d in (-3.0, 2.0, 5.0, -8.0, 1.0, 0.5)]
    outcome = decide(assessment(0.9, twins, far, central), 1e-3)
    assert outcome.decision == "independent"
    assert outcome.candidate is not None and outcome.candidate.p < 1e-3 < outcome.suspect.p


def test_victim_must_rank_first():
    twins = [0.2, 0.21, 0.19, 0.2, 0.95]
    outcome = decide(assessment(0.9, twins, 1.0, [0.0, 0.1, -0.1, 0.05, -0.05]), 0.4)
    assert outcome.rank == 2 and outcome.decision != "piracy"
    assert any("1 of the victim's 5 twins" in r for r in outcome.reasons)


@pytest.mark.parametrize("shift", [-1e-3, 1e-3])
@pytest.mark.parametrize("own", np.linspace(0.0, 0.2, 41))
def test_small_changes_never_flip_a_verdict(own, shift):
    """A jitter of 1e-3 may lead to ``inconclusive``, never from one firm decision to the other."""
    twins, innocents = [0.0, 0.01, -0.01, 0.02, -0.02, 0.015], [0.0, 0.9, -0.9, 0.3, -0.3, 0.1]
    first, second = (
        decide(assessment(own + s, twins, score(own + s, twins), innocents), 1e-3).decision
        for s in (0.0, shift)
    )
    assert first == second or "inconclusive" in (first, second)


def test_extrapolation_is_labelled():
    twins, innocents = [0.0, 0.01, -0.01, 0.02, -0.02], [0.0, 0.5, -0.5, 0.3, -0.3, 0.1]
    outcome = decide(assessment(0.9, twins, score(0.9, twins), innocents), 1e-3)
    assert any("extrapolation" in r for r in outcome.reasons)


def test_without_twins_the_verdict_says_so():
    a = Assessment(
        0.9, np.full(3, 0.9), np.zeros((6, 3)), None, 0.9, np.array([0, 0.01, -0.01, 0.02, 0.0, 0.01])
    )
    outcome = decide(a, 1e-3)
    assert outcome.decision == "inconclusive" and outcome.candidate is None and outcome.rank is None
    assert outcome.bound and outcome.p == pytest.approx(1 / 7 / BEYOND)
    assert any("no twins" in r for r in outcome.reasons)


@pytest.mark.parametrize(("innocents", "decision"), [(998, "inconclusive"), (999, "piracy")])
def test_without_twins_the_rank_among_very_many_innocents_may_convict(innocents, decision):
    scores = np.random.default_rng(0).normal(0, 0.01, innocents)
    a = Assessment(0.9, np.full(3, 0.9), np.zeros((innocents, 3)), None, 0.9, scores)
    assert decide(a, 1e-3).decision == decision


def test_view_level_p_shrinks_with_views_for_an_innocent_offset():
    """Why the paper's test never decides: more views of one innocent model convict it."""
    rng = np.random.default_rng(0)
    p = []
    for views in (5, 20, 80):
        innocents = rng.normal(0.5, 0.05, size=(10, views))
        p.append(view_level_p(rng.normal(0.53, 0.05, size=views), innocents))
    assert p[2] < 1e-4 < p[0]
    assert view_level_p(np.ones(1), np.ones((1, 1))) is None


def test_view_level_p_is_welchs_test():
    draw = np.random.default_rng(0)
    for _ in range(50):
        own, rest = draw.normal(draw.normal(), 0.1, size=7), draw.normal(size=(4, 7))
        moments = (own.mean(), own.std(ddof=1), own.size, rest.mean(), rest.std(ddof=1), rest.size)
        found = stats.ttest_ind_from_stats(*moments, equal_var=False, alternative="greater").pvalue
        assert view_level_p(own, rest) == pytest.approx(found, rel=1e-9)
    flat = np.ones((2, 3))
    assert view_level_p(flat[0], flat) is None
    assert view_level_p(flat[0] + 1, flat) == 0.0 and view_level_p(flat[0] - 1, flat) == 1.0


@given(st.floats(1e-9, 0.5), st.floats(1.0, 1000.0))
def test_upper_t_is_the_quantile_of_the_upper_tail(p, freedom):
    assert stats.t.sf(upper_t(p, freedom), freedom) == pytest.approx(p, rel=1e-6)


def test_levels_are_constants_that_make_sense():
    assert 0 < decision.JITTER < 0.01 and decision.UNCLEAR == 0.05
