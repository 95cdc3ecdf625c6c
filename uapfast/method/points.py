"""Query points: where a model is asked.

``kmeans`` is the selection of Peng et al. (CVPR 2022) as the first author's code has it: k-means on
the victim's outputs, one random member per cluster, views by nearest neighbours in output space.
``disagree`` clusters the mean output of all candidates and prefers members on which they disagree: an answer
that all models share says nothing about descent. Innocents have no say: the suspect has none either.
"""

from __future__ import annotations

import math

import numpy as np
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from uapfast.arrays import Float32Array, Int64Array
from uapfast.config import CHOICE
from uapfast.errors import DataError


def _clusters(outputs: Float32Array, points: int, seed: int) -> tuple[Int64Array, Float32Array]:
    """Cluster label of every image, and the centres, by k-means++ on float64 outputs."""
    fit = KMeans(n_clusters=points, n_init=1, random_state=seed).fit(outputs.astype(np.float64))
    return fit.labels_.astype(np.int64), fit.cluster_centers_.astype(np.float32)


def _need(images: int, least: int, what: str) -> None:
    if images < least:
        raise DataError("generate", "images", f"at least {least} ({what}; lower points or views)", images)


def kmeans_points(outputs: Float32Array, points: int, views: int, seed: int) -> Int64Array:
    """The paper's selection: ``[views, points]`` indices of images.

    Args:
        outputs: ``[N,K]`` the victim's outputs (logits, or log-probabilities).
        points: clusters, and points per view.
        views: view j holds the j-th nearest neighbour of every cluster's chosen member, itself
            included; the same image may stand in several views.
        seed: of the clustering and of the members' draw.

    Raises:
        DataError: fewer distinct outputs than clusters, or fewer images than views.
    """
    _need(len(np.unique(outputs, axis=0)), points, "distinct outputs for one cluster a point")
    _need(len(outputs), views, "neighbours for every view")
    labels, _ = _clusters(outputs, points, seed)
    rng = np.random.default_rng(seed)
    chosen = np.array([rng.choice(np.flatnonzero(labels == c)) for c in range(points)])
    finder = NearestNeighbors(n_neighbors=views, algorithm="ball_tree").fit(outputs)
    near: Int64Array = finder.kneighbors(outputs[chosen], return_distance=False).T.astype(np.int64)
    return near


def disagreement(answers: Float32Array) -> Float32Array:
    """How much models disagree on each image: ``[N]``, 0 where all are sure of the same.

    The variance over models of root probabilities (much as a suspect's are compared), and how often two
    labels drawn by their mean probabilities differ (what labels leave of them), each over its mean.
    The second alone is left of one model: where it is unsure.

    Args:
        answers: ``[M,N,K]`` probabilities of candidates, each counted alike.
    """
    varied = np.sqrt(np.clip(answers, 0.0, None)).var(axis=0).sum(-1)
    unsure = 1.0 - np.square(answers.mean(0)).sum(-1)
    parts = [p / max(float(p.mean()), 1e-12) for p in (varied, np.clip(unsure, 0.0, None))]
    out: Float32Array = np.sum(parts, axis=0).astype(np.float32)
    return out


def disagree_points(
    outputs: Float32Array, weight: Float32Array, points: int, views: int, seed: int
) -> Int64Array:
    """Views that span the decision regions of the most disputed images: ``[views, points]`` indices.

    Only the images of largest ``weight`` are looked at, ``CHOICE`` times as many as are wanted: an answer
    that all models share says nothing about descent (docs/method.md, section 4). Every view takes one
    member of each cluster, drawn with probability in proportion to ``weight`` and never twice; a cluster
    that runs out lends from the nearest images left over. Both arguments are symmetric in the
    candidates, so that the selection favours none.

    Args:
        outputs: ``[N,K]`` mean output of the candidates.
        weight: ``[N]`` from :func:`disagreement`; >= 0.
        points: clusters, and points per view.
        views: number of views.
        seed: of the clustering and the draw.

    Raises:
        DataError: fewer than points * views images, or fewer distinct outputs than clusters.
    """
    _need(len(outputs), points * views, f"{views} views of {points} points")
    _need(len(np.unique(outputs, axis=0)), points, "distinct outputs for one cluster a point")
    disputed = np.argsort(-weight, kind="stable")[: math.ceil(CHOICE * points * views)]
    if len(np.unique(outputs[disputed], axis=0)) < points:
        disputed = np.arange(len(outputs))
    return disputed[_spread(outputs[disputed], weight[disputed], points, views, seed)]


def _spread(outputs: Float32Array, weight: Float32Array, points: int, views: int, seed: int) -> Int64Array:
    """One member of each cluster a view."""
    labels, centres = _clusters(outputs, points, seed)
    rng = np.random.default_rng(seed)
    chance = weight.astype(np.float64) + 1e-6 * max(float(weight.max()), 1e-12)
    chosen = np.full((points, views), -1, dtype=np.int64)
    for c in range(points):
        members = np.flatnonzero(labels == c)
        take = min(views, len(members))
        share = chance[members] / chance[members].sum()
        chosen[c, :take] = rng.choice(members, size=take, replace=False, p=share)
    free = np.ones(len(outputs), dtype=bool)
    free[chosen[chosen >= 0]] = False
    for c in map(int, np.flatnonzero((chosen < 0).any(1))):
        left = np.flatnonzero(free)
        missing = np.flatnonzero(chosen[c] < 0)
        near = left[np.argsort(np.square(outputs[left] - centres[c]).sum(-1), kind="stable")[: len(missing)]]
        chosen[c, missing] = near
        free[near] = False
    # a cluster's members fill views in the order drawn, the disputed first: spread them evenly
    for c in range(points):
        chosen[c] = chosen[c, rng.permutation(views)]
    return np.ascontiguousarray(chosen.T)
