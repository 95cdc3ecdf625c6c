"""A look: scores of a suspect and of a pool's innocents, all rounds together and one after another.

    pytest benchmarks/bench_scores.py --benchmark-only

A default pool (16 twins, 40 homologous models, 2 surrogates of each candidate), 200 points of 10 classes a
view; the time of the queries is not in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from uapfast.method.lineage import LineageScorer, Roster, cosines, templates

TWINS, INNOCENTS, KINDS, FEATURES = 16, 40, 2, 2000
Scores = tuple[NDArray[np.float64], NDArray[np.float64]]


def together(scorer: LineageScorer, suspect: NDArray[np.float32]) -> Scores:
    return scorer.scores(suspect)


def one_by_one(scorer: LineageScorer, suspect: NDArray[np.float32], views: int | None = None) -> Scores:
    """A whitening, templates and cosines for the suspect, and for each innocent without itself.

    The truth of the tests as well.
    """
    full, innocents = scorer._extend(suspect, views), scorer.roster.innocents
    row = full.shape[-1] - 1

    def score(fit: NDArray[np.int64], model: int) -> NDArray[np.float64]:
        white, origin = scorer._fit(full, fit)
        return cosines(white, templates(white.metric, scorer.roster, origin), origin, model)

    rest = [score(np.append(innocents[innocents != i], row), int(i)) for i in innocents]
    return score(innocents, row), np.stack(rest)


@pytest.mark.parametrize("way", [together, one_by_one])
@pytest.mark.parametrize("views", [1, 20])
def test_look(benchmark: Any, way: Any, views: int) -> None:
    benchmark.group = f"a look at {views} views"
    rng, candidates = np.random.default_rng(0), TWINS + 1
    first = candidates + INNOCENTS
    models = first + KINDS * candidates
    pool = rng.normal(size=(models, views, 1, FEATURES)).astype(np.float32)
    surrogates = np.arange(first, models).reshape(KINDS, candidates)
    scorer = LineageScorer(pool, Roster(np.arange(candidates), np.arange(candidates, first), surrogates))
    suspect = rng.normal(size=pool.shape[1:]).astype(np.float32)
    for got, want in zip(together(scorer, suspect), one_by_one(scorer, suspect), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)
    benchmark(way, scorer, suspect)
