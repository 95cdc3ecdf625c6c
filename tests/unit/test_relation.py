"""Which kind of copy a model is, by the share of the victim that it keeps; data of known truth."""

from __future__ import annotations

import numpy as np
import pytest

from uapfast.method.relation import LEVEL, MODIFIED, TRAINED, Shares

SHAPE = (4, 1, 200)  # views, blocks, features


def draw(seed: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(rng.standard_normal((count, *SHAPE)).astype(np.float32))


CANDIDATES, INNOCENTS = draw(0, 9), draw(1, 20)


def copy(share: float, place: int = 0, noise: float = 0.0, seed: int = 2) -> np.ndarray:
    """A model that keeps a share of what sets a candidate apart from the others."""
    others = np.delete(np.stack(CANDIDATES), place, axis=0).mean(0)
    share = (8 * share + 1) / 9  # the others' mean lies 1/9 of the way on the victim's far side
    return others + share * (CANDIDATES[place] - others) + noise * draw(seed, 1)[0]


def shares(students=(), place: int = 0, innocents=INNOCENTS) -> Shares:
    found = Shares.of(CANDIDATES, innocents, students, place)
    assert found is not None
    return found


def test_the_victim_keeps_all_of_itself_and_strangers_nothing_on_average():
    found = shares()
    assert found.share(CANDIDATES[0]) == pytest.approx(1.0, abs=1e-6)
    assert np.mean([found.share(one) for one in draw(7, 400)]) == pytest.approx(0.0, abs=0.03)
    assert found.share(copy(0.37)) == pytest.approx(0.37, abs=1e-5)


@pytest.mark.parametrize(("share", "kind"), [(1.0, "modification"), (0.1, "extraction")])
def test_whoever_keeps_much_was_modified_and_whoever_keeps_little_was_trained(share, kind):
    told = shares().tell(copy(share))
    assert told.relation == kind and told.share == pytest.approx(share, abs=1e-5)
    assert f"{share:.0%}" in told.why


def test_the_margin_is_left_on_either_side():
    found, seen = shares(), set()
    for number in range(60):
        told = found.tell(copy(0.02 * number, noise=1.0, seed=20 + number))
        assert told.share is not None and told.margin is not None and 0.02 < told.margin < 0.4
        low, high = told.share - told.margin, told.share + told.margin
        assert told.relation == (
            "modification" if low >= MODIFIED else "extraction" if high <= TRAINED else "unclear"
        )
        seen.add(told.relation)
    assert seen == {"modification", "extraction", "unclear"}


def test_a_model_that_has_nothing_besides_is_known_exactly():
    found = shares(innocents=[20 * one for one in INNOCENTS])
    assert found.tell(CANDIDATES[0]).margin == pytest.approx(0.0, abs=1e-4)
    assert found.tell(copy(MODIFIED + 0.01)).relation == "modification"
    assert found.tell(copy(TRAINED - 0.01)).relation == "extraction"
    assert found.tell(copy((MODIFIED + TRAINED) / 2)).relation == "unclear"


def test_much_that_is_no_victims_widens_the_margin_until_nothing_is_told():
    found = shares()
    near, far = (found.tell(copy(0.9, noise=noise)) for noise in (0.3, 10.0))
    assert near.margin is not None and far.margin is not None and far.margin > 10 * near.margin
    assert (near.relation, far.relation) == ("modification", "unclear")


def test_students_that_keep_as_much_as_modified_models_take_the_word_back():
    kind = [copy(0.9 + 0.02 * (c % 3), c) for c in range(9)]
    found = shares(students=[kind])
    assert 0.9 < found.students < 1.0
    assert found.tell(copy(0.9)).relation == "unclear" and shares().tell(copy(0.9)).relation == "modification"
    assert found.tell(copy(1.0)).relation == "modification"


def test_what_students_reach_is_exceeded_as_seldom_as_stated():
    rng = np.random.default_rng(3)
    over = 0
    for _ in range(400):
        kept = rng.normal(0.3, 0.1, 10)
        found = shares(students=[[copy(s, c) for c, s in enumerate(kept[:9])]])
        over += kept[9] > found.students
    assert over / 400 < LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 400)
    assert over > 0


def test_a_kind_of_one_student_says_nothing_of_the_next():
    two, one = CANDIDATES[:3], [copy(0.1)]
    found = Shares.of(two, INNOCENTS, [one])
    assert found is not None and found.students == np.inf
    assert found.tell(CANDIDATES[0]).relation == "unclear"


def test_every_candidate_is_treated_alike():
    moved = [CANDIDATES[3], *CANDIDATES[:3], *CANDIDATES[4:]]
    kinds = [[copy(0.2, c, 0.3, 10 + c) for c in range(9)]]
    there = shares(students=kinds, place=3)
    again = Shares.of(moved, INNOCENTS, [[kinds[0][3], *kinds[0][:3], *kinds[0][4:]]])
    suspect = copy(0.6, 3, 0.2)
    assert again is not None
    assert again.margin == pytest.approx(there.margin) and again.students == pytest.approx(there.students)
    assert again.share(suspect) == pytest.approx(there.share(suspect))


@pytest.mark.parametrize(
    ("candidates", "innocents"),
    [(CANDIDATES[:2], INNOCENTS), (CANDIDATES, []), ([CANDIDATES[0]] * 4, INNOCENTS)],
)
def test_nothing_is_told_without_twins_innocents_or_a_difference(candidates, innocents):
    assert Shares.of(candidates, innocents, []) is None


def test_models_made_without_the_victim_stay_within_the_margin_as_seldom_as_stated():
    found = shares(innocents=draw(5, 200))
    tolds = [found.tell(one) for one in draw(6, 1000)]
    off = np.mean([abs(t.share) > t.margin for t in tolds if t.share is not None and t.margin is not None])
    assert LEVEL < off < 3 * LEVEL


def test_by_labels_nobody_is_said_to_be_trained_on_answers():
    found = Shares.of(CANDIDATES, INNOCENTS, [], by_labels=True)
    assert found is not None
    assert found.tell(copy(0.1)).relation == "unclear" and found.tell(copy(1.0)).relation == "modification"
