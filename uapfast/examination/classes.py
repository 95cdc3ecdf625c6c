"""The order of classes of a suspect that names them in an order of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import InputError
from uapfast.method.consensus import class_order
from uapfast.models.answers import Answers


def checked_order(order: Sequence[int] | None, classes: int) -> Tensor | None:
    """A class order as a tensor ``[K]``; raises ``InputError`` unless it names every class once."""
    if order is None:
        return None
    found = [int(k) for k in order]
    if sorted(found) != list(range(classes)):
        rule = f"each of 0..{classes - 1} once: for each class, the suspect's class that means it"
        raise InputError("verify", "class order", rule, ",".join(map(str, found))[:200])
    return torch.tensor(found)


def reordered(answers: Answers, order: Tensor) -> Answers:
    """Answers by the reference's classes."""
    if answers.kind == "labels":
        ours = torch.argsort(order)[answers.values.clamp(min=0)]
        return replace(answers, values=torch.where(answers.values < 0, answers.values, ours))
    return replace(answers, values=answers.values[:, order])


def agreement_by_half(labels: NDArray[np.int64], wanted: NDArray[np.int64], classes: int) -> float:
    """Agreement of every other round of probes after renaming classes as the rounds between say."""
    learns = (np.arange(len(labels)) // classes) % 2 == 0
    if learns.all():
        return 0.0
    ours = np.argsort(class_order(labels[learns], wanted[learns], classes))
    return float((ours[labels[~learns]] == wanted[~learns]).mean())


__all__ = ["agreement_by_half", "checked_order", "reordered"]
