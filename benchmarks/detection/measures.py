"""Figures of the table, each with its interval; models are what is resampled, never views."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

Floats = NDArray[np.float64]
RESAMPLES = 999


def auc(positive: Floats, negative: Floats) -> float:
    """Area under the ROC curve; larger scores mean piracy."""
    truth = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return float(roc_auc_score(truth, np.r_[positive, negative]))


def auc_interval(positive: Floats, negative: Floats, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval over models (percentiles)."""
    if min(len(positive), len(negative)) < 2:
        return float("nan"), float("nan")
    found = stats.bootstrap(
        (positive, negative),
        auc,
        n_resamples=RESAMPLES,
        vectorized=False,
        paired=False,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return float(found.low), float(found.high)


def tpr(positive: Floats, negative: Floats, level: float) -> float:
    """Share of piracy models above the smallest threshold that accuses at most ``level`` of innocents."""
    allowed = int(np.floor(level * len(negative)))
    threshold = np.sort(negative)[::-1][allowed]
    return float((positive > threshold).mean())


def share(count: int, of: int) -> tuple[float, float, float]:
    """A share with its 95 % Wilson interval."""
    interval = stats.binomtest(count, of).proportion_ci(method="wilson")
    return count / of, float(interval.low), float(interval.high)
