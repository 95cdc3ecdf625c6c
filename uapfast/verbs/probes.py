"""Images that are never scored: how a suspect names the classes is learnt on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.method.consensus import probe_rows

LEAST = 100  # probes, if there are so many images left
PER_CLASS = 4
MOST_BYTES = 64 << 20


def make_probes(clean: Tensor, x: Tensor, chosen: NDArray[Any]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Probes float32 ``[P,C,H,W]`` and their labels int64 ``[P]``, from the images that are no query points.

    Args:
        clean: ``[M,N,K]`` probabilities of the pool's models, the victim's first. It has no say: a copy must
            not be let off, or convicted, for naming the classes as the victim does.
        x: the owner's images ``[N,C,H,W]``.
        chosen: indices of the query points.

    Returns:
        None twice where no image is left, or no other model was asked.
    """
    left = np.setdiff1d(np.arange(len(x)), chosen)
    if len(clean) < 2 or not len(left):
        return None, None
    classes = clean.shape[-1]
    votes = torch.zeros(len(left), classes)
    for answers in clean[1:]:
        votes += torch.nn.functional.one_hot(answers[left].argmax(-1), classes)
    share, labels = votes.max(-1)
    most = MOST_BYTES // (4 * x[0].numel())
    rows = probe_rows(labels.numpy(), share.double().numpy(), min(max(LEAST, PER_CLASS * classes), most))
    return x[torch.from_numpy(left[rows])].clone(), labels[torch.from_numpy(rows)].clone()
