"""The lineage scorer on synthetic models: features = task + nuisance directions + what is particular."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.one_by_one import one_by_one
from uapfast.method.decision import among_twins, decide
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.method.standing import assessment, statistics, typical_spread
from uapfast.method.whitening import whiten

V, B, F = 3, 2, 150


def gram(x: np.ndarray) -> np.ndarray:
    """``[V,B,N,N]`` inner products of ``[N,V,B,F]``."""
    wide = x.transpose(1, 2, 0, 3).astype(np.float64)
    return wide @ wide.swapaxes(-1, -2)


class World:
    """Draws models: an architecture moves along 3 nuisance directions, a seed in all directions."""

    def __init__(self, seed: int, blocks: int = B) -> None:
        self.rng = np.random.default_rng(seed)
        self.blocks = blocks
        self.base = self.rng.normal(size=(V, blocks, F))
        self.nuisance = 0.5 * self.rng.normal(size=(3, V, blocks, F))

    def innocent(self, wide: float = 1.0) -> np.ndarray:
        shift = np.tensordot(self.rng.normal(size=3) * wide, self.nuisance, 1)
        return (self.base + shift + 0.3 * self.rng.normal(size=self.base.shape)).astype(np.float32)

    def twins(self, count: int) -> list[np.ndarray]:
        return [self.innocent(0.05) for _ in range(count)]

    def copy(self, model: np.ndarray, keep: float) -> np.ndarray:
        """A student that keeps a share of what is particular to ``model``."""
        return (self.innocent() + keep * (model - self.base)).astype(np.float32)


def build(
    seed: int, twins: int = 7, innocents: int = 12, kinds: int = 0
) -> tuple[World, LineageScorer, np.ndarray]:
    world = World(seed)
    candidates = world.twins(twins + 1)
    rest = [world.innocent() for _ in range(innocents)]
    surrogates = [world.copy(c, 0.8) for _ in range(kinds) for c in candidates]
    n, first = len(candidates), len(candidates) + innocents
    table = np.arange(first, first + kinds * n).reshape(kinds, n)
    roster = Roster(np.arange(n), np.arange(n, first), table)
    return world, LineageScorer(np.stack(candidates + rest + surrogates), roster), candidates[0]


def test_gram_space_whitening_equals_explicit_whitening():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 3, 1, 10)).astype(np.float32)
    fit = np.arange(4, 9)
    white = whiten(gram(x)[:, 0], fit, shrink=0.2)
    rows = x.reshape(9, 30).astype(np.float64)
    rows = rows - rows[fit].mean(0)
    covariance = rows[fit].T @ rows[fit] / len(fit)
    ridge = 0.2 * np.trace(covariance)
    inverse = np.linalg.inv(covariance + ridge * np.eye(30)) * ridge
    np.testing.assert_allclose(white.metric, rows @ inverse @ rows.T, rtol=1e-9, atol=1e-9)
    left, right = np.eye(9)[:2] - np.eye(9)[2], np.eye(9)[3] - np.eye(9)[5]
    moved = (left @ rows @ inverse).reshape(2, 3, 10)
    parts = np.einsum("cvf,vf->vc", moved, (right @ rows).reshape(3, 10))
    np.testing.assert_allclose(white.parts(left, right), parts, rtol=1e-9, atol=1e-9)


def test_whitening_frees_the_way_from_the_innocents_to_the_candidates():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(9, 3, 1, 10)).astype(np.float32)
    fit, base = np.arange(4, 9), np.repeat([0.25, 0.0], [4, 5])
    white = whiten(gram(x)[:, 0], fit, shrink=0.2, base=base)
    rows = x.reshape(9, 30).astype(np.float64)
    rows = rows - rows[fit].mean(0)
    covariance = rows[fit].T @ rows[fit] / len(fit)
    ridge = 0.2 * np.trace(covariance)
    inverse = np.linalg.inv(covariance + ridge * np.eye(30)) * ridge
    way = base @ rows
    inverse -= np.outer(inverse @ way, way @ inverse) / (way @ inverse @ way)
    np.testing.assert_allclose(white.metric, rows @ inverse @ rows.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(white.metric @ base, 0.0, atol=1e-9)  # the candidates' mean is the innocents'
    left, right = np.eye(9)[:2] - np.eye(9)[2], np.eye(9)[3] - np.eye(9)[5]
    moved = (left @ rows @ inverse).reshape(2, 3, 10)
    parts = np.einsum("cvf,vf->vc", moved, (right @ rows).reshape(3, 10))
    np.testing.assert_allclose(white.parts(left, right), parts, rtol=1e-9, atol=1e-9)


def test_what_every_other_model_shares_says_little(monkeypatch):
    """Innocents and suspects as a whole may lie to any side of the candidates."""
    world, scorer, victim = build(9, kinds=1)
    side = 0.5 * (victim - scorer.pool[scorer.roster.candidates].mean(0))
    pool = scorer.pool.copy()
    pool[scorer.roster.innocents] += side
    moved = LineageScorer(pool, scorer.roster)
    honest = [world.innocent() + side for _ in range(20)]
    z = [decide(moved.assess(h), 0.01).z for h in honest]
    monkeypatch.setattr(LineageScorer, "_base", lambda self, origin: None)
    drawn_to = LineageScorer(pool, scorer.roster)
    drawn = [decide(drawn_to.assess(h), 0.01).z for h in honest]
    assert np.mean(drawn) > 2.0
    assert np.mean(z) < 0.5 * np.mean(drawn)


def test_every_block_has_the_same_say_among_the_candidates():
    world, scorer, victim = build(0)
    pool = scorer.pool.copy()
    pool[:, :, 1] *= 100
    suspect = world.copy(victim, 0.6)
    moved = suspect.copy()
    moved[:, 1] *= 100
    for got, want in zip(
        LineageScorer(pool, scorer.roster).scores(moved), scorer.scores(suspect), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    rows = scorer.pool[scorer.roster.candidates].astype(np.float64) * scorer._scale[..., None]
    np.testing.assert_allclose(rows.var(0).sum((0, 2)), 1.0)


@pytest.mark.parametrize("keep", [1.0, 0.7])
def test_copies_are_found_across_nuisance(keep):
    world, scorer, victim = build(1)
    outcome = decide(scorer.assess(world.copy(victim, keep)), 1e-2)
    assert outcome.decision == "piracy" and outcome.rank == 1


def test_copies_of_a_twin_are_not_copies_of_the_victim():
    world, scorer, _ = build(2)
    outcome = decide(scorer.assess(world.copy(scorer.pool[3], 1.0)), 1e-2)
    assert outcome.decision == "independent" and outcome.rank != 1


def test_the_victim_itself_is_the_perfect_copy():
    _, scorer, victim = build(3)
    a = scorer.assess(victim)
    assert a.similarity == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(a.views, 1.0, atol=0.5)  # views weigh by what they show


def test_embeddings_reproduce_the_deciding_cosines():
    world, scorer, victim = build(4, kinds=2)
    suspect = world.copy(victim, 0.6)
    z = scorer.embed(suspect)
    np.testing.assert_allclose(np.linalg.norm(z.mean(0)), 1.0, atol=1e-5)
    templates = scorer.templates_embedded()
    np.testing.assert_allclose(np.linalg.norm(templates, axis=-1), 1.0, atol=1e-5)
    found = scorer.assess(suspect)
    np.testing.assert_allclose((z @ templates.T).mean(0), found.candidates, atol=1e-5)
    np.testing.assert_allclose(z @ templates[0], found.views, atol=1e-5)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize(("twins", "kinds", "blocks"), [(7, 0, 2), (7, 2, 2), (0, 1, 2), (4, 1, 1)])
def test_all_rounds_at_once_say_what_one_after_the_other_says(twins, kinds, blocks, views):
    world, scorer, victim = build(6, twins=twins, kinds=kinds)
    scorer = LineageScorer(scorer.pool[:, :, :blocks], scorer.roster)
    for suspect in (world.copy(victim, 0.6), world.innocent(), victim, scorer.pool[twins + 2]):
        suspect = suspect[:, :blocks]
        found = scorer.scores(suspect, views)
        for got, want in zip(found, one_by_one(scorer, suspect, views), strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)


def test_order_of_twins_and_innocents_does_not_matter():
    world, scorer, victim = build(5, kinds=1)
    suspect = world.copy(victim, 0.5)
    r = scorer.roster
    order = np.array([0, 3, 1, 2, 4, 7, 6, 5])
    mixed = Roster(r.candidates[order], r.innocents[::-1].copy(), r.surrogates[:, order])
    a, b = scorer.assess(suspect), LineageScorer(scorer.pool, mixed).assess(suspect)
    assert b.statistic == pytest.approx(a.statistic, abs=1e-9)
    np.testing.assert_allclose(np.sort(b.innocents), np.sort(a.innocents), atol=1e-9)


@pytest.mark.parametrize("central", [False, True])
def test_false_accusations_stay_below_the_stated_level(central):
    """Over draws of victim, twins, innocents and suspect; also where the victim is drawn to the mean."""
    accused_10 = accused_1 = ranked = 0
    runs = 1000
    for seed in range(runs):
        world, scorer, victim = build(1000 + seed, twins=5, innocents=6)
        if central:
            pool = scorer.pool.copy()
            pool[0] = world.base + 0.2 * (victim - world.base)
            scorer = LineageScorer(pool, scorer.roster)
        outcome = decide(scorer.assess(world.innocent()), 0.1)
        accused_10 += outcome.decision == "piracy"
        accused_1 += outcome.p <= 0.01
        ranked += outcome.suspect.exact <= 1 / 7 + 1e-9
    assert accused_10 / runs <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / runs)
    assert accused_1 / runs <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / runs)
    # the suspect side is exact by construction, central victim or not
    assert ranked / runs <= 1 / 7 + 3 * np.sqrt(1 / 7 * 6 / 7 / runs)


def test_candidate_side_is_exact_over_the_draw_of_the_victim():
    runs, first = 600, 0
    for seed in range(runs):
        world, scorer, _ = build(5000 + seed, twins=4, innocents=5)
        candidate = decide(scorer.assess(world.innocent()), 0.01).candidate
        assert candidate is not None
        first += candidate.exact <= 1 / 5 + 1e-9
    assert first / runs == pytest.approx(1 / 5, abs=3.5 * np.sqrt(0.16 / runs))


def test_surrogates_state_the_power():
    _, scorer, _ = build(6, kinds=2)
    z, similarity = scorer.surrogate_scores()
    assert z.shape == similarity.shape == (16,)
    assert np.median(z) > 3


def test_without_twins_the_suspect_side_works_alone():
    world = World(7)
    victim, rest = world.innocent(0.05), [world.innocent() for _ in range(9)]
    roster = Roster(np.array([0]), np.arange(1, 10), np.zeros((0, 1), np.int64))
    scorer = LineageScorer(np.stack([victim, *rest]), roster)
    assert scorer.assess(victim).candidates is None
    copied = decide(scorer.assess(world.copy(victim, 1.0)), 0.05)
    assert copied.decision == "inconclusive" and copied.p < 0.05  # nine innocents give no exact 5 %
    assert decide(scorer.assess(world.copy(victim, 1.0)), 0.11).decision == "piracy"
    assert decide(scorer.assess(world.innocent()), 0.05).decision != "piracy"
    assert scorer.embed(victim).shape == (V, 2)


def test_early_views_give_the_scores_of_a_smaller_plan():
    world, scorer, victim = build(8)
    scorer = LineageScorer(scorer.pool[:, :, :1], scorer.roster)  # one block: no scale of all views
    suspect = world.copy(victim, 0.8)[:, :1]
    small = LineageScorer(scorer.pool[:, :2], scorer.roster)
    assert scorer.assess(suspect, views=2).statistic == pytest.approx(small.assess(suspect[:2]).statistic)


@pytest.mark.parametrize("place", [0, 3, 7])
def test_any_candidate_can_take_the_victims_place(place: int) -> None:
    world, scorer, _ = build(3, kinds=2)
    suspect = world.copy(scorer.pool[place], 1.0)
    got = assessment(*scorer.scores(suspect), place=place)
    order = np.r_[place, np.delete(np.arange(8), place)]
    roster = Roster(order, scorer.roster.innocents, scorer.roster.surrogates[:, order])
    expected = LineageScorer(scorer.pool, roster).assess(suspect)
    np.testing.assert_allclose(got.candidates, expected.candidates, atol=1e-9)
    np.testing.assert_allclose(got.innocents, expected.innocents, atol=1e-6)
    np.testing.assert_allclose(got.statistic, expected.statistic, atol=1e-6)
    outcome, wanted = decide(got, 0.01), decide(expected, 0.01)
    assert outcome.decision == wanted.decision
    assert outcome.rank == wanted.rank == 1
    assert outcome.p == pytest.approx(wanted.p, rel=1e-4)
    if place:
        assert decide(scorer.assess(suspect), 0.01).rank != 1


@pytest.mark.parametrize("what", ["constant", "noise", "candidates' mean", "an innocent again", "huge"])
def test_degenerate_suspects_give_cosines(what: str) -> None:
    world, scorer, _ = build(4, kinds=1)
    suspect = {
        "constant": np.zeros_like(scorer.pool[0]),
        "noise": world.rng.normal(size=scorer.pool[0].shape).astype(np.float32),
        "candidates' mean": scorer.pool[scorer.roster.candidates].mean(0),
        "an innocent again": scorer.pool[scorer.roster.innocents[0]],
        "huge": 1e6 * scorer.pool[scorer.roster.innocents[0]],
    }[what]
    for rows in scorer.scores(suspect):
        assert np.isfinite(rows).all()
        assert np.abs(rows).max() <= 1.0 + 1e-9
    assert decide(scorer.assess(suspect), 0.05).decision in ("independent", "inconclusive")


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_innocents_that_answer_alike_give_cosines(noise: float) -> None:
    """As by labels of few points: what rounding leaves of their variation is no direction."""
    world, scorer, victim = build(4, kinds=1)
    pool, innocents = scorer.pool.copy(), scorer.roster.innocents
    pool[innocents] = pool[innocents[0]] + noise * world.rng.normal(size=pool[innocents].shape)
    alike = LineageScorer(pool.astype(np.float32), scorer.roster)
    for suspect in (victim, world.copy(victim, 0.7), world.innocent(), pool[innocents[0]]):
        for rows in alike.scores(suspect):
            assert np.isfinite(rows).all()
            assert np.abs(rows.mean(-2)).max() <= 1.0 + 1e-9
    assert decide(alike.assess(world.innocent()), 0.05).decision != "piracy"


def test_statistics_are_those_of_each_model_compared_alone():
    scores = np.random.default_rng(0).normal(size=(7, 5))
    expected = [
        among_twins(row[0], row[1:], typical_spread(np.delete(scores, i, axis=0)), 6).z
        for i, row in enumerate(scores)
    ]
    np.testing.assert_allclose(statistics(scores), expected, rtol=1e-12)
    np.testing.assert_array_equal(statistics(np.ones((4, 3))), 0.0)
