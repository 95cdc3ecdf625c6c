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
from uapfast.models.answers import FEWER, Answers

TINY = 1e-30  # of a row that says nothing of our classes


def checked_order(order: Sequence[int], classes: int) -> Tensor:
    """A class order as a tensor ``[K]``; raises ``InputError`` unless it names K different classes."""
    found = [int(k) for k in order if isinstance(k, int | np.integer)]
    if len(found) != classes or len(set(found)) != classes or min(found) < 0:
        rule = f"{classes} different numbers from 0 on: for each class of ours, the suspect's same class"
        rule += f" ({FEWER})" if len(found) < classes else ""
        raise InputError("verify", "class order", rule, str(list(order))[:200])
    return torch.tensor(found)


def reordered(answers: Answers, order: Tensor) -> Answers:
    """Answers by the reference's classes; those of classes that have no place there are left out.

    Raises:
        InputError: the order names classes that the suspect does not have.
    """
    most = int(order.max())
    if answers.kind == "labels":
        ours = torch.full((max(most, int(answers.values.max())) + 1,), -1)
        ours[order] = torch.arange(len(order))
        mapped = torch.where(answers.values < 0, answers.values, ours[answers.values.clamp(min=0)])
        return replace(answers, values=mapped, classes=len(order))
    if most >= answers.classes:
        rule = f"classes that the suspect has, 0..{answers.classes - 1}"
        rule += f" ({FEWER})" if answers.classes < len(order) else ""
        raise InputError("verify", "class order", rule, most)
    values = answers.values[:, order]
    if answers.kind == "probabilities" and answers.classes > len(order):
        values = values / values.sum(-1, keepdim=True).clamp(min=TINY)
    return replace(answers, values=values, classes=len(order))


def agreement_by_half(labels: NDArray[np.int64], wanted: NDArray[np.int64], classes: int) -> float:
    """Agreement of every other round of probes after renaming classes as the rounds between say."""
    learns = (np.arange(len(labels)) // classes) % 2 == 0
    if learns.all():
        return 0.0
    ours = np.argsort(class_order(labels[learns], wanted[learns], classes))
    return float((ours[labels[~learns]] == wanted[~learns]).mean())


__all__ = ["agreement_by_half", "checked_order", "reordered"]
