"""A suspect scored one whitening after another: what the op is held against in tests, and trials reuse."""

from __future__ import annotations

import numpy as np
import torch

from uapfast.arrays import Float32Array, Float64Array, Int64Array
from uapfast.method.lineage import LineageScorer, templates
from uapfast.method.whitening import safe_length

Scores = tuple[Float64Array, Float64Array]


def extended(scorer: LineageScorer, suspect: Float32Array, views: int | None = None) -> Float64Array:
    """Inner products of the pool with the suspect as the last row: ``[V,M+1,M+1]``."""
    own = scorer._products(torch.as_tensor(suspect)[None], views)[0].cpu().numpy()
    count = len(scorer.pool)
    full = np.empty((len(own), count + 1, count + 1))
    full[:, :count, :count] = scorer._gram[: len(own)]
    full[:, count] = full[:, :, count] = own
    return full


def one_by_one(scorer: LineageScorer, suspect: Float32Array, views: int | None = None) -> Scores:
    """A whitening, templates and cosines for the suspect, and for each innocent without itself."""
    full, innocents = extended(scorer, suspect, views), scorer.roster.innocents
    row = full.shape[-1] - 1

    def score(fit: Int64Array, model: int) -> Float64Array:
        white, origin = scorer._fit(full, fit)
        template, residual = templates(white, scorer.roster, origin), -origin
        residual[model] += 1.0
        length = safe_length(residual @ white.metric @ residual, white.largest)
        out: Float64Array = len(full) / length * white.parts(template, residual)
        return out

    rest = [score(np.append(innocents[innocents != i], row), int(i)) for i in innocents]
    return score(innocents, row), np.stack(rest)
