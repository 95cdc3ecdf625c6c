"""To be the victim, or an innocent, changes nothing in how questions are chosen and scores are made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from uapfast.config import GenerateConfig
from uapfast.errors import InputError
from uapfast.method.fingerprint import spread_uaps
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.pool.twins import find_twins, selection_doubt


def uaps(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("points", "count"), [(10, 3), (7, 7), (5, 9), (20, 6)])
def test_every_uap_moves_as_many_points_to_one_a_view(points: int, count: int) -> None:
    found = spread_uaps(points, 8, uaps(count), 0).reshape(8, points)
    counts = torch.stack([torch.bincount(view, minlength=count) for view in found])
    assert int((counts.amax(1) - counts.amin(1)).max()) <= 1
    assert int(counts.sum(0).amax() - counts.sum(0).amin()) <= 1


@pytest.mark.parametrize("seed", range(4))
def test_who_moves_a_point_more_does_not_depend_on_its_place(seed: int) -> None:
    """Candidates that change places take their points with them, the odd ones among them."""
    v, order = uaps(7), torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    one, other = spread_uaps(10, 5, v, seed), spread_uaps(10, 5, v[order], seed)
    assert torch.equal(order[other], one)


def test_every_place_has_the_odd_point_as_often() -> None:
    more = np.zeros(3)
    for seed in range(300):
        more += np.bincount(spread_uaps(10, 1, uaps(3), seed).numpy(), minlength=3) == 4
    assert more.sum() == 300 and more.min() > 70, more


def test_without_uaps_nothing_is_moved() -> None:
    assert not spread_uaps(4, 3, torch.empty(0, 1, 2, 2), 0).any()


def test_kmeans_is_refused_with_lineage_and_kept_by_the_paper() -> None:
    with pytest.raises(
        InputError, match="selection must be left out or disagree with encoder=lineage.*kmeans"
    ):
        GenerateConfig(selection="kmeans")
    assert GenerateConfig(selection="kmeans", encoder="paper").selection == "kmeans"
    assert GenerateConfig(selection="disagree").selection == "disagree"


@pytest.mark.parametrize("twins", [0, 1, 4])
def test_a_suspect_and_an_innocent_may_change_places(twins: int) -> None:
    """The suspect's scores are those that it would have as one of the innocents, and the other way round."""
    rng = np.random.default_rng(twins)
    pool = rng.normal(size=(twins + 8, 2, 1, 30)).astype(np.float32)
    suspect, last = rng.normal(size=(2, 1, 30)).astype(np.float32), twins + 7
    roster = Roster(np.arange(twins + 1), np.arange(twins + 1, twins + 8), np.zeros((0, twins + 1), np.int64))
    own, rest = LineageScorer(pool, roster).scores(suspect)
    other = pool.copy()
    other[last] = suspect
    its, others = LineageScorer(other, roster).scores(pool[last])
    np.testing.assert_allclose(its, rest[-1], atol=1e-9)
    np.testing.assert_allclose(others[-1], own, atol=1e-9)
    np.testing.assert_allclose(others[:-1], rest[:-1], atol=1e-9)


def test_how_the_victim_was_chosen_is_said_or_asked_for() -> None:
    for told, said in (
        ({"kind": "full"}, "nobody said"),
        ({"kind": "full", "selected": None}, "nobody said"),
        ({"kind": "branch", "selected": "unlike"}, "its twins were not"),
    ):
        assert said in str(selection_doubt(told))
    for told in (
        {"kind": "full", "selected": "no"},
        {"kind": "full", "selected": "same"},
        {"kind": "designated"},
    ):
        assert selection_doubt(told) is None
    with pytest.raises(InputError, match="selected must be no or unlike without a recipe"):
        find_twins(None, None, None, None, None, "same")
    with pytest.raises(InputError, match="one of no, same, unlike.*best"):
        find_twins(None, None, None, None, None, "best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="left out with designated"):
        find_twins(None, None, "draw.json", None, None, "no")
    assert find_twins(None, None, None, None, None, "no").to_dict()["selected"] == "no"
