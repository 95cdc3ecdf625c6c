"""Which kind of answer rows of numbers are: decided row by row, with all rows in view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from uapfast.errors import OutputError

AnswerKind = Literal["logits", "probabilities", "labels"]
# rows of two-digit or truncated (top-k) probabilities do not sum to 1; logits hardly ever sum to this
LEAST_SUM, MOST_SUM, OVER_ONE = 0.5, 1.05, 1e-3
NEAR = 1e-3  # from a sum of 1 a row of logits is, by chance, in fewer than one of a hundred rows
MIXED, MIXED_ROWS = 0.05, 3  # share and number of rows that by chance are not near a sum of 1
LEAST_ROWS = 8  # fewer are not held to be varied enough to ask about
PERCENT = 100.0
LEAST_TOTAL = 50.0  # sum of whole numbers from which they are shares of it
LEAST_OF_ONE_DIGIT = 5e-4  # by measurement: what innocents and copies show through rounding to one digit
WHOLE_PERCENT = 0.1  # share of rows of truncated percentages that sum to 100 all the same
ASK = "told apart (give output= as logits, probabilities or labels)"


@dataclass(frozen=True)
class AnswerReading:
    """How rows are to be read.

    Attributes:
        kind: what they are.
        scale: they are divided by this (100: percentages).
        least: what a probability of 0 stands for, where 0 is only what rounding left of it.
        note: what they were taken for, where that is not obvious.
    """

    kind: AnswerKind
    scale: float = 1.0
    least: float = 0.0
    note: str | None = None


def tell(v: Tensor, where: str) -> AnswerReading:
    """What the rows of ``v`` are, float32 ``[N,K >= 2]``, finite.

    Raises:
        OutputError: they may be one thing or the other, or some rows are this and some are that.
    """
    if not len(v):
        return AnswerReading("logits")
    low = float(v.min())
    if low >= 0:
        found = _single(v) or _probabilities(v, 1.0) or _probabilities(v, PERCENT) or _counts(v)
        if found is not None:
            return found
    elif low >= -OVER_ONE and bool((v.sum(-1) >= 2 - MOST_SUM).all()):  # rounding below zero
        found = _probabilities(v.clamp(min=0), 1.0)
        if found is not None:
            return found
    _ask(v, where)
    return AnswerReading("logits")


def _single(v: Tensor) -> AnswerReading | None:
    """Rows that show one class each: all that is known is which (and a score that the others lack)."""
    shown = (v > 0).sum(-1)
    if int(shown.max()) != 1 or float(v.max()) > PERCENT * (1 + OVER_ONE):
        return None
    top = v.amax(-1)
    alike = bool((top[shown > 0] == top.max()).all())
    said = "one-hot rows: labels" if alike else "top-1 scores: labels, since the other classes are not shown"
    return AnswerReading("labels", note=_joined(said, _unanswered(v)))


def _counts(v: Tensor) -> AnswerReading | None:
    """Whole numbers whose rows sum to about one number, 255 or 1000 say: probabilities in steps of one."""
    sums = v.sum(-1)
    sums = sums[sums > 0]
    if len(sums) < LEAST_ROWS or not bool((v == v.round()).all()):
        return None
    total = float(sums.median())
    if total < LEAST_TOTAL or bool(((sums - total).abs() > v.shape[1] / 2).any()):
        return None
    return AnswerReading(
        "probabilities", total, note=_joined(f"whole numbers that sum to about {total:g}", _unanswered(v))
    )


def digits(v: Tensor) -> int | None:
    """1 or 2 where all of ``v`` (0..1) is rounded to so many digits, else None."""
    for count in (1, 2):
        x = v * 10**count
        whole = x.round()
        if bool((((x - whole).abs() <= 1e-4) & ((whole > 0) | (v == 0))).all()):
            return count
    return None


def _probabilities(v: Tensor, scale: float, said: bool = False) -> AnswerReading | None:
    """The reading if rows divided by ``scale`` are probabilities: whole, rounded, or cut off.

    Args:
        v: ``>= 0``.
        scale: 1, or 100 for percentages.
        said: that they are probabilities at all.
    """
    p = v / scale if scale != 1 else v
    if float(p.max()) > 1 + OVER_ONE:
        return None
    sums, shown = p.sum(-1), (p > 0).sum(-1)
    few = digits(p)
    room = 0.5 * 10.0**-few * shown if few else torch.zeros_like(sums)
    if bool((sums > 1 + room.clamp(min=MOST_SUM - 1)).any()) or float(sums.max()) < LEAST_SUM:
        return None
    cut = shown < p.shape[1]
    lowest = LEAST_SUM if scale == 1 else 2 - MOST_SUM
    if not (said or bool(((sums >= lowest) | cut).all())):
        return None
    near = (sums - 1).abs() <= (0.02 if few is None else room.clamp(min=0.02))
    if scale != 1 and not said and float(near.float().mean()) < WHOLE_PERCENT:
        return None
    parts = ["percentages: divided by 100" if scale != 1 else None]
    if few:
        parts.append(f"probabilities of {few} digit{'s' if few > 1 else ''}")
    elif bool((cut & ~near & (shown > 0)).any()):
        parts.append(f"probabilities of at most {int(shown.max())} classes an answer")
    least = LEAST_OF_ONE_DIGIT if few == 1 else 0.0
    return AnswerReading("probabilities", scale, least, _joined(*parts, _unanswered(v)))


def probabilities(v: Tensor, where: str) -> AnswerReading:
    """The reading of rows of which the asker says that they are probabilities; ``v`` as :func:`tell`.

    Raises:
        OutputError: they are not.
    """
    low = float(v.min()) if len(v) else 0.0
    if not len(v) or not bool(v.any()):
        return AnswerReading("probabilities")
    if low >= -OVER_ONE:
        positive = v.clamp(min=0)
        found = _probabilities(positive, 1.0, said=True) or _probabilities(positive, PERCENT, said=True)
        if found is not None:
            return found
    got = f"{low:g}..{float(v.max()):g}, sums {_range(v.sum(-1))}"
    raise OutputError(where, "answers", "probabilities (0..1, summing to 1, or percentages)", got)


def _ask(v: Tensor, where: str) -> None:
    """Raise ``OutputError`` where rows are no logits for sure."""
    if torch.equal(v, v[:1].expand_as(v)):  # one answer to everything says nothing, whatever it is
        return
    sums = v.sum(-1)
    low, high = float(v.min()), float(v.max())
    for scale in (1.0, PERCENT):
        near = v[(sums - scale).abs() <= NEAR * scale]
        inside = (near >= 0).all(-1) & (near <= scale * (1 + OVER_ONE)).all(-1)
        count = int((inside & (near != near[:, :1]).any(-1)).sum())
        if count >= max(MIXED_ROWS, MIXED * len(v)):
            got = f"{count} of {len(v)} rows that sum to {scale:g}, the others to {_range(sums)}"
            raise OutputError(where, "answers", ASK, got)
    if low < 0 or len(v) < LEAST_ROWS:
        return
    uneven = (v != v[:, :1]).any(-1)  # all classes alike is no sign of either
    if high <= 1 + OVER_ONE and bool(uneven.any()):
        raise OutputError(where, "answers", ASK, f"{low:g}..{high:g} with sums of {_range(sums)}")
    if high <= PERCENT * (1 + OVER_ONE) and bool((v == 0).any(-1).all()) and float(sums.max()) <= 105:
        raise OutputError(where, "answers", ASK, f"0..{high:g}, zeros in every row, sums of {_range(sums)}")
    if float(sums.max() - sums.min()) <= NEAR * float(sums.max()):
        raise OutputError(where, "answers", ASK, f"rows that all sum to {float(sums.mean()):g}")


def _range(sums: Tensor) -> str:
    return f"{float(sums.min()):.3g}..{float(sums.max()):.3g}"


def _unanswered(v: Tensor) -> str | None:
    count = int((v == 0).all(-1).sum())
    return f"{count} of {len(v)} rows are zero: not answered" if count else None


def _joined(*parts: str | None) -> str | None:
    return "; ".join(p for p in parts if p) or None


__all__ = ["AnswerKind", "AnswerReading", "digits", "probabilities", "tell"]
