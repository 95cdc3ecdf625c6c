"""Examinations that take answers at the same time: those before one pool are scored together."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.method.statistic import Scorer

Found = tuple[NDArray[np.float64], NDArray[np.float64]]  # scores of a suspect, and of the innocents
Wanted = tuple[Scorer, Tensor]  # who scores, and the features so far
Steps = Generator[Wanted, Found, None]


def take_together(steps: Iterable[Steps]) -> None:
    """Run what examinations do with answers (:meth:`Examination.taking`) to the end.

    What is concluded is the same as one by one.
    """
    replies: list[tuple[Steps, Found | None]] = [(step, None) for step in steps]
    while replies:
        asked: dict[tuple[int, torch.Size], list[tuple[Steps, Wanted]]] = {}
        for step, found in replies:
            with contextlib.suppress(StopIteration):
                wanted = step.send(found)  # type: ignore[arg-type]  # None at first
                asked.setdefault((id(wanted[0]), wanted[1].shape), []).append((step, wanted))
        replies = []
        for some in asked.values():
            own, rest = some[0][1][0].scores(torch.stack([features for _, (_, features) in some]))
            replies += [(step, (own[i], rest[i])) for i, (step, _) in enumerate(some)]


__all__ = ["Found", "Steps", "Wanted", "take_together"]
