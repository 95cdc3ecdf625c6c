"""q-values, the empirical null, its warning and the warning's false-alarm rate."""

from __future__ import annotations

import numpy as np
import pytest

from uapfast.screening.table.correction import q_values
from uapfast.screening.table.population import FALSE_ALARM, LEAST, compare_with_pool, finished, limits
from uapfast.screening.table.rows import Row


def row(**fields) -> Row:
    given = {"decision": "piracy", "p_value": 1e-4, "z_pool": 5.0, "reasons": ("why",)} | fields
    return Row(
        reference="r", reference_sha256="r", name="s", path="s", arch="a", sha256="x", alpha=1e-3,
        settings="{}", versions="{}", queries_full=1, **given,
    )  # fmt: skip


def test_q_values_follow_benjamini_and_hochberg_and_skip_rows_without_p():
    p = [0.01, None, 0.04, 0.03, 0.005, None]
    # by hand: sorted .005 .01 .03 .04, n = 4: .02 .02 .04 .04
    assert q_values(p, 0.05) == pytest.approx([0.02, None, 0.04, 0.04, 0.02, None])
    assert q_values([None], 0.05) == [None] and q_values([], 0.05) == []
    assert q_values([0.0, 1.0], 0.05) == [0.0, 1.0]


def test_rows_above_alpha_count_but_lower_no_other_q():
    p = [0.001, 0.0012, 0.00121, 0.00122]  # plain Benjamini-Hochberg: .00122 for all
    assert q_values(p, 0.0011) == pytest.approx([0.004, 0.004, 0.004, 0.004])
    assert q_values(p, 0.1) == pytest.approx([0.00122] * 4)
    few = [0.0001, 0.0009, *([0.5] * 8)]
    fewer_views = [0.0001, 0.0009, *([0.06] * 4), *([0.9] * 4)]
    assert q_values(few, 0.001)[:2] == q_values(fewer_views, 0.001)[:2] == pytest.approx([0.001, 0.0045])


def test_of_many_who_would_just_miss_the_level_none_convicts_the_innocents_below_it():
    """2,000 copies above alpha would lift every p at or below it under plain Benjamini-Hochberg."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(50):
        p = np.concatenate([rng.random(8000), rng.uniform(1e-3, 1.1e-3, 2000)])
        called = (p <= 1e-3) & (np.array(q_values(list(p), 1e-3)) <= 0.05)
        shares.append(called[:8000].sum() / max(1, called.sum()))
    assert np.mean(shares) <= 0.05 + 3 * np.sqrt(0.05 / 50)


def test_the_share_of_innocents_among_those_called_stays_below_the_level():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        p = np.concatenate([rng.random(950), rng.random(50) * 1e-4])
        called = np.array(q_values(list(p), 0.05)) <= 0.05
        shares.append(called[:950].sum() / max(1, called.sum()))
    assert np.mean(shares) < 0.05 * 1.1


def test_a_conviction_without_a_q_value_is_none_and_says_why():
    got = finished(row(p_value=None), None, None, compare_with_pool(np.zeros(0), 30), 0.05)
    assert got.decision == "inconclusive" and got.reasons[0].startswith("no q-value") and got.q_value is None


def test_too_few_suspects_or_innocents_say_nothing():
    for z, innocents in ((np.zeros(LEAST - 1), 30), (np.zeros(LEAST), 2)):
        found = compare_with_pool(z, innocents)
        assert found.differs is None and found.says() is None and found.location is None


def one_screen(rng, innocents: int, suspects: int, shift=0.0, width=1.0, thieves=0.0, heavy=None) -> bool:
    def draw(n):
        return rng.standard_normal(n) if heavy is None else rng.standard_t(heavy, n)

    pool = draw(innocents)
    z = (shift + width * draw(suspects) - pool.mean()) / (pool.std(ddof=1) * np.sqrt(1 + 1 / innocents))
    z[: int(thieves * suspects)] += 8
    return bool(compare_with_pool(z, innocents).differs)


@pytest.mark.parametrize("innocents", [8, 16, 40])
@pytest.mark.parametrize("suspects", [300, 2000])
def test_the_false_alarm_rate_is_the_stated_one(innocents, suspects):
    rng = np.random.default_rng(1)
    alarms = np.mean([one_screen(rng, innocents, suspects) for _ in range(4000)])
    assert 0.3 * FALSE_ALARM < alarms < 1.7 * FALSE_ALARM


def test_some_thieves_do_not_raise_the_alarm():
    rng = np.random.default_rng(2)
    alarms = np.mean([one_screen(rng, 30, 1000, thieves=0.05) for _ in range(4000)])
    assert alarms < 2 * FALSE_ALARM


@pytest.mark.parametrize("other", [{"shift": 1.5}, {"shift": -1.5}, {"width": 2.5}, {"width": 0.3}])
def test_another_population_raises_it(other):
    rng = np.random.default_rng(3)
    assert np.mean([one_screen(rng, 30, 1000, **other) for _ in range(300)]) > 0.9


def test_limits_tighten_with_both_sizes():
    assert limits(10, 1000)[0] > limits(40, 1000)[0] > limits(40, 100_000)[0]
    low, high = limits(40, 1000)[1]
    assert 0.5 < low < 1 < high < 2


def test_a_conviction_needs_its_q_value():
    nothing = compare_with_pool(np.zeros(3), 30)
    kept = finished(row(), 0.05, 0.1, nothing, 0.05)
    assert (
        kept.decision == "piracy" and (kept.q_value, kept.p_holm) == (0.05, 0.1) and kept.reasons[0] == "why"
    )
    assert "cite 0.1 (p_holm; it knows no tries in other stores); q 0.05 ranks the list" in kept.reasons[-1]
    lost = finished(row(), 0.051, 0.2, nothing, 0.05)
    assert lost.decision == "inconclusive" and "q 0.051 > 0.05" in lost.reasons[0]
    assert finished(row(decision="independent"), 0.9, 0.9, nothing, 0.05).decision == "independent"
    assert (
        finished(row(decision="invalid", p_value=None, z_pool=None), None, None, nothing, 0.05).q_value
        is None
    )


def test_rows_stand_by_their_population_and_a_conviction_carries_the_warning():
    rng = np.random.default_rng(4)
    there = compare_with_pool(2 + rng.standard_normal(1000), 30)
    assert there.differs and "does not represent" in str(there.says())
    found = finished(row(), 0.01, 0.01, there, 0.05)
    assert found.population_differs and "does not represent" in found.reasons[-1]
    assert found.z_population == pytest.approx(3, abs=0.3) and 1e-4 < found.p_population < 1e-2


def test_copies_of_one_file_count_once():
    copies = [1e-4] + [0.5] * 80
    assert q_values(copies, 0.001, ["stolen"] + ["honest"] * 80)[0] == pytest.approx(2e-4)
    assert q_values(copies, 0.001)[0] == pytest.approx(81e-4)
    same = q_values([8e-4] * 50 + [0.9] * 50, 0.001, ["one"] * 50 + list(range(50)))
    assert same[:50] == [pytest.approx(51 * 8e-4)] * 50
    assert q_values([0.01, None, 0.01], 0.05, [None, None, None]) == [0.01, None, 0.01]
