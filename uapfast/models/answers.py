"""What a model answers: logits, probabilities or labels, told apart and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from uapfast.errors import SuspectError

Kind = Literal["logits", "probabilities", "labels"]
OUTPUTS = ("auto", "logits", "probabilities", "labels")
# rows of two-digit or truncated (top-k) probabilities do not sum to 1; logits hardly ever sum to this
LEAST_SUM, MOST_SUM, OVER_ONE = 0.5, 1.05, 1e-3


@dataclass(frozen=True)
class Answers:
    """Answers to N queries.

    Attributes:
        kind: ``logits``, ``probabilities`` or ``labels``.
        values: float32 ``[N,K]``, or int64 ``[N]`` for labels; on the CPU.
        classes: K.
        note: what they were taken for, where that is not obvious.
    """

    kind: Kind
    values: Tensor
    classes: int
    note: str | None = None

    def probabilities(self) -> Tensor:
        """float32 ``[N,K]``: softmax of logits, one-hot rows of labels."""
        if self.kind == "labels":
            return torch.nn.functional.one_hot(self.values, self.classes).to(torch.float32)
        return self.values.softmax(-1) if self.kind == "logits" else self.values

    def labels(self) -> Tensor:
        """int64 ``[N]``: the top class of each answer."""
        return self.values if self.kind == "labels" else self.values.argmax(-1)


def as_tensor(values: Any, where: str) -> Tensor:
    """What a model returned as a plain tensor on the CPU.

    Raises:
        SuspectError: no array of numbers.
    """
    try:
        v = torch.as_tensor(np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values)
        return v.detach().to("cpu")
    except Exception as exc:  # any object may come back: dicts, model outputs, arrays of strings
        raise SuspectError(where, "answers", "an array of numbers", type(values).__name__) from exc


def detect(
    values: Any, where: str, *, rows: int | None = None, classes: int | None = None, output: str = "auto"
) -> Answers:
    """Tell what ``values`` are and check them.

    Args:
        values: what a model returned for one batch, torch or numpy.
        where: named in errors.
        rows: answers expected.
        classes: K expected; needed to know the range of labels.
        output: ``auto``, or what the caller says they are.

    Raises:
        SuspectError: not an array, wrong shape or class count, NaN or infinity, labels out of range.
    """
    v = as_tensor(values, where)
    if rows is not None and (v.ndim == 0 or v.shape[0] != rows):
        raise SuspectError(where, "answers", f"{rows} rows, one a query", list(v.shape))
    integer = not v.dtype.is_floating_point and not v.dtype.is_complex
    if output == "labels" or (output == "auto" and v.ndim == 1 and integer):
        return _labels(v, where, classes)
    if v.ndim != 2 or v.shape[1] < 2 or v.dtype.is_complex:
        raise SuspectError(
            where, "answers", "[N,K] logits or probabilities, or [N] integer labels", list(v.shape)
        )
    if classes is not None and v.shape[1] != classes:
        raise SuspectError(where, "answers", f"of {classes} classes", v.shape[1])
    v = v.to(torch.float32)
    if not bool(torch.isfinite(v).all()):
        raise SuspectError(where, "answers", "finite", "NaN or infinity")
    sums = v.sum(-1)
    looks = bool(
        (v >= 0).all()
        and (v <= 1 + OVER_ONE).all()
        and (sums >= LEAST_SUM).all()
        and (sums <= MOST_SUM).all()
    )
    if output == "probabilities" and not looks:
        raise SuspectError(
            where, "answers", "probabilities (0..1, summing to 1)", f"{float(v.min()):g}..{float(v.max()):g}"
        )
    kind: Kind = "probabilities" if output == "probabilities" or (output == "auto" and looks) else "logits"
    return Answers(kind, v, int(v.shape[1]))


def _labels(v: Tensor, where: str, classes: int | None) -> Answers:
    if v.ndim != 1 or v.dtype.is_floating_point:
        raise SuspectError(where, "answers", "[N] integer labels", f"{list(v.shape)} {v.dtype}")
    v = v.to(torch.int64)
    top = int(v.max()) if len(v) else 0
    count = classes if classes is not None else top + 1
    if len(v) and (int(v.min()) < 0 or top >= count):
        raise SuspectError(where, "answers", f"labels in 0..{count - 1}", f"{int(v.min())}..{top}")
    return Answers("labels", v, count)
