"""Images that are never scored: how a suspect names the classes is learnt on them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.method.consensus import probe_rows

PER_CLASS = 8
SHARE = 0.1  # of the owner's images, at most
MOST_BYTES = 64 << 20


def choose_probes(clean: Tensor, image: Tensor, owned: int) -> tuple[NDArray[np.int64], Tensor] | None:
    """Which images are probes, and the class that most models give each, int64 ``[P]``.

    Args:
        clean: ``[M,N,K]`` probabilities of the pool's models on the images that are no query points, the
            victim's first. It has no say: a copy must not be let off, or convicted, for naming the classes as
            the victim does.
        image: one of the images, ``[1,C,H,W]``.
        owned: images that the owner has, query points among them.

    Returns:
        None where there are no images to spare, or no other model was asked.
    """
    models, images, classes = clean.shape
    most = min(int(SHARE * owned), images, MOST_BYTES // (4 * image.numel()), PER_CLASS * classes)
    if models < 2 or most < 1:
        return None
    votes = torch.nn.functional.one_hot(clean[1:].argmax(-1), classes).sum(0)
    share, labels = votes.double().max(-1)
    rows = probe_rows(labels.numpy(), share.numpy(), most)
    return rows, labels[torch.from_numpy(rows)].clone()
