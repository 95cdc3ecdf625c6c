from __future__ import annotations

import numpy as np
import pytest

from uapfast.errors import DataError
from uapfast.method.points import disagree_points, disagreement, kmeans_points


@pytest.fixture(scope="module")
def outputs() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(10, 6))
    return (centres[rng.integers(0, 10, 800)] + 0.2 * rng.normal(size=(800, 6))).astype(np.float32)


def test_kmeans_views_are_nearest_neighbours_of_the_first(outputs):
    views = kmeans_points(outputs, points=10, views=6, seed=0)
    assert views.shape == (6, 10) and views.dtype == np.int64
    for point in range(10):
        distance = np.linalg.norm(outputs - outputs[views[0, point]], axis=1)
        np.testing.assert_allclose(distance[views[:, point]], np.sort(distance)[:6], rtol=1e-5)
    # well separated blobs: one member of each, so the points span the decision regions
    blob = np.linalg.norm(outputs[views[0]][:, None] - outputs[views[0]][None], axis=-1)
    assert blob[~np.eye(10, dtype=bool)].min() > 1


def test_disagree_views_are_disjoint_and_prefer_disputed_images(outputs):
    weight = np.full(800, 1e-3, np.float32)
    disputed = np.arange(0, 800, 4)
    weight[disputed] = 1.0
    views = disagree_points(outputs, weight, points=10, views=10, seed=0)
    assert views.shape == (10, 10)
    assert len(np.unique(views)) == 100
    assert np.isin(views, disputed).mean() > 0.9
    # no view is better supplied than another
    share = np.isin(views, disputed).mean(1)
    assert share.min() > 0.5


def test_small_clusters_borrow_from_the_nearest_left_over(outputs):
    views = disagree_points(outputs, np.ones(800, np.float32), points=40, views=20, seed=1)
    assert sorted(views.ravel()) == list(range(800))


@pytest.mark.parametrize(
    "select",
    [
        lambda x, s: kmeans_points(x, 7, 3, s),
        lambda x, s: disagree_points(x, np.ones(len(x), np.float32), 7, 3, s),
    ],
)
def test_selection_is_a_function_of_the_seed(outputs, select):
    np.testing.assert_array_equal(select(outputs, 3), select(outputs, 3))
    assert (select(outputs, 3) != select(outputs, 4)).any()


def test_too_few_images_name_the_number_needed(outputs):
    with pytest.raises(DataError, match="at least 2000.*got 800"):
        disagree_points(outputs, np.ones(800, np.float32), 100, 20, 0)
    with pytest.raises(DataError, match="at least 10.*got 1"):
        kmeans_points(np.ones((800, 6), np.float32), 10, 3, 0)
    with pytest.raises(DataError, match="at least 10.*got 1"):
        disagree_points(np.ones((800, 6), np.float32), np.ones(800, np.float32), 10, 3, 0)


def test_only_the_most_disputed_images_are_asked(outputs):
    weight = np.random.default_rng(3).random(len(outputs)).astype(np.float32)
    views = disagree_points(outputs, weight, points=10, views=4, seed=0)
    assert weight[views].min() >= np.sort(weight)[::-1][49]  # of 50 = SPARE * 40


def test_disagreement_counts_how_answers_vary_and_how_unsure_they_are():
    same, other = [0.9, 0.1], [0.1, 0.9]
    answers = np.array([[same, same, [0.6, 0.4]], [same, other, [0.6, 0.4]]], np.float32)
    unanimous, label, unsure = disagreement(answers)
    assert label > unsure > unanimous > 0
    alone = disagreement(answers[:1])
    assert alone[2] > alone[0] == pytest.approx(alone[1]), "one model shows where it is unsure"


def test_disagreement_is_zero_where_models_agree():
    answers = np.zeros((3, 2, 4), np.float32)
    answers[:, 0, 1] = 1
    answers[[0, 1, 2], 1, [0, 1, 2]] = 1
    weight = disagreement(answers)
    assert weight[0] == 0 and weight[1] > 0
    np.testing.assert_allclose(disagreement(answers[[2, 0, 1]]), weight)
