"""Which of the owner's images are asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from uapfast.config import GenerateConfig
from uapfast.method.points import disagree_points, disagreement, kmeans_points
from uapfast.method.statistic import STATISTICS
from uapfast.verbs.entries import RecordedModel, candidates_of


def select_points(clean: Tensor, models: list[RecordedModel], config: GenerateConfig) -> NDArray[np.int64]:
    """Indices of query points ``[V,n]``, from clean answers ``[M,N,K]``: candidates first, then innocents."""
    assert config.points is not None
    selection = config.selection or STATISTICS[config.encoder].selection
    if selection == "kmeans":
        outputs = clean[0].clamp(min=1e-12).log().numpy()
        return kmeans_points(outputs, config.points, config.views, config.seed)
    # innocents are no candidates: the suspect has no say, so that they must have none
    own = clean[: len(candidates_of(models, config))].numpy()
    return disagree_points(own.mean(0), disagreement(own), config.points, config.views, config.seed)


__all__ = ["select_points"]
