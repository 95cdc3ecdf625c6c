"""What a pool agrees on: ranges of agreement, rows out of place, and the order of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uapfast.method.consensus import Consensus, class_order, probe_rows, says_nothing

CLASSES = 7


def answers(truth: np.ndarray, wrong: float, seed: int) -> np.ndarray:
    """The truth with a share of labels drawn anew."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, CLASSES, truth.shape)
    return np.where(rng.random(truth.shape) < wrong, drawn, truth)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.random.default_rng(0).integers(0, CLASSES, (10, 60))


@pytest.fixture(scope="module")
def consensus(truth) -> Consensus:
    models = [answers(truth, 0.1, s) for s in range(20)] + [answers(truth, 0.6, 99)]
    return Consensus.of(np.stack(models), CLASSES)


def test_each_model_is_held_against_the_majority_of_the_others(truth):
    rows = np.array([[[0, 0]], [[0, 1]], [[1, 1]]])  # each is the odd one out somewhere, or ties
    found = Consensus.of(rows, 2)
    assert found.majority.tolist() == [[0, 1]]
    assert found.least == 0.0  # of the first: the others say 0 or 1 (a tie, the lower) and 1
    same = Consensus.of(np.stack([truth] * 5), CLASSES)
    assert same.least == same.usual == 1.0


def test_ranges(truth, consensus):
    assert 0.4 < consensus.least < 0.6 < consensus.usual
    kinds = {w: consensus.range_of(consensus.agreement(answers(truth, w, 5)), truth.size) for w in (0, 0.1)}
    assert set(kinds.values()) == {"usual"}
    assert consensus.range_of(consensus.agreement(answers(truth, 0.45, 5)), truth.size) == "weak"
    assert consensus.range_of(consensus.agreement(answers(truth, 1.0, 5)), truth.size) == "below"


def test_who_guesses_does_not_make_other_answers_look_right(truth, consensus):
    models = [answers(truth, 0.1, s) for s in range(20)] + [answers(truth, 0.6, 99), answers(truth, 1.0, 7)]
    found = Consensus.of(np.stack(models), CLASSES)
    assert found.least == pytest.approx(consensus.least, abs=0.01)
    assert found.usual == pytest.approx(consensus.usual, abs=0.05)
    assert found.range_of(found.agreement(answers(truth, 1.0, 5)), truth.size) == "below"


def test_columns_of_kept_classes_are_no_labels(truth):
    """Of many classes a query keeps those that are probable, the most probable one first."""
    rng, shape = np.random.default_rng(3), truth.shape
    kept = np.stack([truth, *(rng.integers(CLASSES, 1000, shape) for _ in range(3))], -1)

    def columns(wrong: float, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return np.where(rng.random(shape) < wrong, rng.integers(1, 5, shape), 0)

    models = [columns(0.02, s) for s in range(5)] + [columns(0.2, 5 + s) for s in range(10)]
    found = Consensus.of(np.stack(models), 5, kept)
    assert found.least == pytest.approx(0.8, abs=0.03)
    assert found.range_of(found.agreement(columns(0.2, 77)), truth.size) == "usual"
    guesses = Consensus.of(np.stack([*models, columns(0.95, 99)]), 5, kept)
    assert guesses.least == pytest.approx(found.least)


def test_where_most_agree_on_little_no_other_sets_the_bar(truth):
    models = [answers(truth, 0.95, s) for s in range(11)] + [answers(truth, 0.0, 20), answers(truth, 0.1, 21)]
    found = Consensus.of(np.stack(models), CLASSES)
    assert found.range_of(found.agreement(answers(truth, 0.95, 30)), truth.size) != "below"


def test_few_queries_are_given_more_room(consensus):
    share = consensus.least - 0.02
    assert consensus.range_of(share, 100) != "below" and consensus.range_of(share, 100_000) == "below"


def test_the_first_views_are_compared_with_the_first_views(truth, consensus):
    assert consensus.agreement(truth[:3]) > 0.95
    assert consensus.agreement(truth[3:6]) < 0.4


@pytest.mark.parametrize("places", [1, -1, 3])
def test_rows_out_of_place_are_found(truth, consensus, places):
    moved = np.roll(truth.ravel(), places).reshape(truth.shape)
    assert consensus.shift(moved) == places
    assert consensus.shift(np.random.default_rng(1).permutation(truth.ravel()).reshape(truth.shape)) is None


@given(st.permutations(range(CLASSES)), st.integers(0, 100))
def test_class_order_is_found_despite_errors(order, seed):
    wanted = np.arange(8 * CLASSES) % CLASSES
    given_ = np.array(order)[answers(wanted, 0.2, seed)]  # our class k is called order[k]
    assert class_order(given_, wanted, CLASSES) == tuple(order)


def test_probes_are_the_agreed_ones_of_every_class():
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    share = np.array([0.9, 1.0, 0.8, 0.7, 0.5, 0.6, 0.3])
    assert probe_rows(labels, share, 3).tolist() == [1, 5, 6]
    assert probe_rows(labels, share, 5).tolist() == [1, 5, 6, 0, 4]
    assert len(probe_rows(labels, share, 100)) == 7


def test_says_nothing():
    one = torch.tensor([3.0, -1.0, 0.5])
    assert says_nothing(one.expand(10, 3)) and says_nothing(torch.zeros(5, dtype=torch.int64))
    assert says_nothing(one + 1e-7 * torch.rand(10, 3)) and not says_nothing(one + 1e-3 * torch.rand(10, 3))
    assert says_nothing(1e-9 * one.expand(4, 3)) and not says_nothing(1e-9 * torch.rand(4, 3))
    assert not says_nothing(torch.tensor([1, 1, 2]))
    assert not says_nothing(torch.zeros(1, 3))  # one answer: nothing to compare it with
