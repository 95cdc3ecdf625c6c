"""What a model answers: logits, probabilities or labels, told apart and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from uapfast.errors import OutputError, SuspectError
from uapfast.models.forms import LABELS, WHOLE, Form, filled, form_of
from uapfast.models.kinds import OVER_ONE, PERCENT, AnswerKind, AnswerReading, probabilities, tell
from uapfast.models.unpack import unpack

OUTPUTS = ("auto", "logits", "probabilities", "labels")
RULE = "[N,K] logits or probabilities, or [N] integer labels"
UNANSWERED = -1  # the label of a query without an answer


# What to do about a suspect that has another number of classes.
MORE = "of one that knows more, a class order says which of its classes mean ours"
FEWER = "one that knows fewer cannot be compared"


def other_count(found: int, wanted: int) -> str:
    """What to do about a suspect of ``found`` classes where ``wanted`` others are compared."""
    return MORE if found > wanted else FEWER


@dataclass(frozen=True)
class Answers:
    """Answers to N queries.

    Attributes:
        kind: ``logits``, ``probabilities`` or ``labels``.
        values: float32 ``[N,K]`` (percentages divided by 100), or int64 ``[N]`` for labels; on the CPU.
            A query without an answer has a row of zeros (of probabilities) or the label -1.
        classes: K.
        note: what they were taken for, where that is not obvious.
        read: how they were read, for later answers of the same model (``like`` of :func:`detect`).
        unfilled: ``values`` before zeros of rounding were filled; None where none were.
    """

    kind: AnswerKind
    values: Tensor
    classes: int
    note: str | None = None
    read: AnswerReading | None = None
    unfilled: Tensor | None = None

    def probabilities(self) -> Tensor:
        """float32 ``[N,K]``: softmax of logits, one-hot rows of labels, zeros where there is no answer."""
        if self.kind == "labels":
            return label_rows(self.values, self.classes)
        return self.values.softmax(-1) if self.kind == "logits" else self.values

    @property
    def form(self) -> Form:
        """How they are shown: labels, or whole, or less of the probabilities."""
        return joint_form([self])

    def labels(self) -> Tensor:
        """int64 ``[N]``: the top class of each answer; -1 where there is none."""
        if self.kind == "labels":
            return self.values
        top = self.values.argmax(-1)
        return top if self.kind == "logits" else _where_answered(self.values, top)


def label_rows(labels: Tensor, classes: int) -> Tensor:
    """One-hot rows float32 ``[...,classes]`` of labels int64 ``[...]``; zeros for ``UNANSWERED``."""
    rows = torch.zeros(*labels.shape, classes, device=labels.device)
    return rows.scatter_(-1, labels.clamp(min=0)[..., None], (labels >= 0)[..., None].to(rows.dtype))


def joint_form(answers: Sequence[Answers]) -> Form:
    """The form of all answers of one model together; at least one."""
    first = answers[0]
    if first.kind != "probabilities":
        return LABELS if first.kind == "labels" else WHOLE
    given = [a.values if a.unfilled is None else a.unfilled for a in answers]
    return form_of(torch.cat(given), 0.0 if first.read is None else first.read.least)


def as_tensor(values: Any, where: str, rows: int | None = None, output: str = "auto") -> Tensor:
    """What a model returned as a plain, dense tensor on the CPU; see :func:`uapfast.models.unpack.unpack`.

    Raises:
        OutputError: no array of numbers in it, or several that could be meant.
    """
    v = unpack(values, where, rows, output).detach()
    if v.is_quantized:
        v = v.dequantize()
    return (v if v.layout == torch.strided else v.to_dense()).to("cpu")


def detect(
    values: Any,
    where: str,
    *,
    rows: int | None = None,
    classes: int | None = None,
    output: str = "auto",
    like: Answers | None = None,
) -> Answers:
    """Tell what ``values`` are and check them.

    Args:
        values: whatever a model returned (:func:`uapfast.models.unpack.unpack`).
        where: named in errors.
        rows: answers expected.
        classes: K expected; needed to know the range of labels.
        output: ``auto``, or what the caller says they are. ``labels`` takes the top class of ``[N,K]``.
        like: earlier answers of the same model: these are read as those were (``output`` does not count).

    Raises:
        OutputError: no array, not what ``output`` says, or nothing that can be told: the caller is asked.
        SuspectError: wrong shape or class count, NaN or infinity, labels out of range; or not like ``like``.
    """
    if like is not None:
        try:
            return _detect(values, where, rows, classes, like.kind, like.read)
        except OutputError as exc:
            raise SuspectError(where, "answers", f"{like.kind}, as the first answers were", exc.got) from exc
    return _detect(values, where, rows, classes, output, None)


def _detect(
    values: Any, where: str, rows: int | None, classes: int | None, output: str, before: AnswerReading | None
) -> Answers:
    v = as_tensor(values, where, rows, output)
    if rows is not None and (v.ndim == 0 or v.shape[0] != rows):
        raise SuspectError(where, "answers", f"{rows} rows, one per query", list(v.shape))
    integer = not v.dtype.is_floating_point and not v.dtype.is_complex
    if v.ndim == 1 and (output == "labels" or (output == "auto" and integer)):
        return _labels(v, where, classes)
    if (v.ndim == 1 and not integer) or (v.ndim == 2 and v.shape[1] == 1):  # the asker's adapter
        raise OutputError(where, "answers", RULE, f"{list(v.shape)} {v.dtype}")
    if v.ndim != 2 or v.shape[1] < 2 or v.dtype.is_complex:
        raise SuspectError(where, "answers", RULE, list(v.shape))
    if classes is not None and v.shape[1] != classes:
        rule = f"of {classes} classes ({other_count(v.shape[1], classes)})"
        raise SuspectError(where, "answers", rule, v.shape[1])
    v, hidden = _finite(v.to(torch.float32), where)
    read = _reading(v, where, output, before)
    if hidden:
        read = replace(read, note="; ".join(p for p in ("NaN: classes not shown", read.note) if p))
    count = int(v.shape[1])
    if read.kind == "labels":
        return Answers("labels", _where_answered(v, v.argmax(-1)), count, read.note, read)
    if read.kind == "logits":
        return Answers("logits", v, count, read.note, read)
    v = _as_read(v, read)
    if not read.least:
        return Answers("probabilities", v, count, read.note, read)
    return Answers("probabilities", filled(v, read.least), count, read.note, read, v)


def _reading(v: Tensor, where: str, output: str, before: AnswerReading | None) -> AnswerReading:
    if before is not None and before.kind == "probabilities":
        most = before.scale * (1 + OVER_ONE)
        if len(v) and not (float(v.min()) >= -OVER_ONE and float(v.max()) <= most):
            raise OutputError(
                where,
                "answers",
                f"in 0..{before.scale:g}, as the first answers were",
                f"{float(v.min()):g}..{float(v.max()):g}",
            )
        return before
    if output == "auto":
        return tell(v, where)
    if output == "probabilities":
        return probabilities(v, where)
    return AnswerReading("labels" if output == "labels" else "logits")


def _as_read(v: Tensor, read: AnswerReading) -> Tensor:
    """Probabilities as they were given: nothing below 0, percentages divided."""
    v = v.clamp(min=0) if bool((v < 0).any()) else v
    return v / read.scale if read.scale != 1 else v


def _where_answered(rows: Tensor, top: Tensor) -> Tensor:
    """``top`` ``[N]``, and -1 for rows of zeros."""
    silent = (rows == 0).all(-1)
    return top.masked_fill(silent, UNANSWERED) if bool(silent.any()) else top


def _finite(v: Tensor, where: str) -> tuple[Tensor, bool]:
    """``v`` without NaN, and whether there was any: classes that no answer shows (top-k).

    Raises:
        SuspectError: NaN or infinity in any other way.
    """
    if math.isfinite(float(v.sum(dtype=torch.float64))):  # finite float32 cannot overflow it
        return v, False
    shown = torch.isfinite(v)
    counts = shown.sum(-1)
    # as many in every row and few of them, scores all: a network that went wrong has no such pattern
    alike = 1 <= int(counts.min()) == int(counts.max()) <= v.shape[1] // 2
    some = v[shown]
    if alike and bool((torch.isnan(v) | shown).all()) and float(some.min()) >= 0:
        if float(some.max()) <= PERCENT * (1 + OVER_ONE):
            return torch.nan_to_num(v, nan=0.0), True
    raise SuspectError(where, "answers", "finite", "NaN or infinity")


def _labels(v: Tensor, where: str, classes: int | None) -> Answers:
    if v.dtype.is_complex or (v.dtype.is_floating_point and not bool((v == v.round()).all())):
        raise OutputError(where, "answers", "[N] integer labels", f"{list(v.shape)} {v.dtype}")
    v = v.to(torch.int64)
    top = int(v.max()) if len(v) else 0
    count = classes if classes is not None else top + 1
    if len(v) and (int(v.min()) < 0 or top >= count):
        hint = f" ({MORE})" if top >= count and int(v.min()) >= 0 else ""
        raise SuspectError(where, "answers", f"labels in 0..{count - 1}{hint}", f"{int(v.min())}..{top}")
    return Answers("labels", v, count)


__all__ = ["OUTPUTS", "AnswerKind", "Answers", "as_tensor", "detect", "joint_form", "label_rows", "unpack"]
