"""Answers of servers, one per query: scores, a label, or pairs of both; and the table made of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import OutputError, SuspectError
from uapfast.models.unpack import KEYS

Pairs = tuple[tuple["str | int", float], ...]
AnswerRow = "NDArray[np.float64] | int | str | Pairs"
NUMBERED = re.compile(r"(?:LABEL_|class_)?(\d{1,9})")  # names that transformers and others make up
SHOWN = 5
MOST_CLASSES = 1_000_000


def row_of(value: Any, where: str, label: str = "label", score: str = "score") -> Any:
    """One answer as a row: float64 ``[K]``, an integer label, a label string, or pairs of label and score.

    Args:
        value: numbers in a list; a number or a string; a list of ``{label, score}``; a mapping of labels to
            scores; or a mapping with one of them under ``logits``, ``probabilities``, ``scores``,
            ``labels``.
        where: named in errors.
        label: the key of a label.
        score: the key of a score.

    Raises:
        SuspectError: nothing of that.
        OutputError: more than one entry that could be meant.
    """
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return _from_mapping(value, where, label, score)
    if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        return tuple(_pair(v.get(label), v.get(score), where) for v in value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], (list, str)):
        return row_of(value[0], where, label, score)
    return as_numbers(value, where)


def as_numbers(value: Any, where: str) -> NDArray[np.float64]:
    """A list of numbers as float64 ``[K]``; raises ``SuspectError`` for anything else."""
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.asarray(None)
    if found.dtype.kind not in "iuf" or found.ndim != 1:
        raise SuspectError(where, "answers", "a list of numbers a query", short(value))
    return found.astype(np.float64)


def pairs_of(labels: Any, scores: Any, where: str) -> Pairs:
    """Labels and scores that stand in two lists."""
    if not isinstance(labels, list) or not isinstance(scores, list) or len(labels) != len(scores):
        got = f"{short(labels)} and {short(scores)}"
        raise SuspectError(where, "answers", "as many labels as scores", got)
    return tuple(_pair(a, b, where) for a, b in zip(labels, scores, strict=True))


def _pair(label: Any, score: Any, where: str) -> tuple[str | int, float]:
    good = isinstance(score, (int, float)) and not isinstance(score, bool)
    if not good or not isinstance(label, (str, int)) or isinstance(label, bool):
        rule = "a list of labels with their scores"
        raise SuspectError(where, "answers", rule, f"{short(label)}: {short(score)}")
    try:
        return label, float(score)
    except OverflowError as exc:
        raise SuspectError(where, "answers", "scores that are numbers", short(score)) from exc


def _from_mapping(value: Mapping[str, Any], where: str, label: str, score: str) -> Any:
    if label in value and score in value:  # one label, and how sure of it: the other classes are not shown
        found = value[label]
        return pairs_of(found, value[score], where) if isinstance(found, list) else row_of(found, where)
    known = [key for key in KEYS if value.get(key) is not None]
    if len(known) == 1:
        return row_of(value[known[0]], where, label, score)
    if not known and value and all(isinstance(v, (int, float)) for v in value.values()):
        return tuple(_pair(k, v, where) for k, v in value.items())
    rule = f"under one of {', '.join(KEYS)} (or give a path to them: scores=)"
    raise OutputError(where, "answers", rule, ", ".join(map(str, value))[:200] or "nothing")


def table(rows: Sequence[Any], labels: Sequence[str] | None, classes: int | None, where: str) -> Tensor:
    """Rows of one kind as float64 ``[N,K]``, or int64 ``[N]`` where they are labels.

    Args:
        rows: from :func:`row_of`, at least one.
        labels: the server's label strings in the order of its classes, if known.
        classes: K, where no labels are known.
        where: named in errors.

    Raises:
        SuspectError: rows of several kinds or lengths, or labels that are not among ``labels``.
        OutputError: label strings, and no list of them.
    """
    if all(isinstance(r, np.ndarray) for r in rows):
        if len({len(r) for r in rows}) != 1:
            got = sorted({len(r) for r in rows})[:SHOWN]
            raise SuspectError(where, "answers", "of one number of classes", got)
        return torch.from_numpy(np.stack(list(rows)))
    index = {name: k for k, name in enumerate(labels or ())}
    if all(isinstance(r, (int, str)) for r in rows):
        return torch.tensor([_class(r, index, where) for r in rows], dtype=torch.int64)
    if not all(isinstance(r, tuple) for r in rows):
        kinds = ", ".join(sorted({type(r).__name__ for r in rows}))
        raise SuspectError(where, "answers", "all of one kind", kinds)
    return _scattered(rows, index, len(labels) if labels else classes, where)


def _scattered(rows: Sequence[Pairs], index: Mapping[str, int], count: int | None, where: str) -> Tensor:
    numbered = [[(_class(a, index, where), b) for a, b in row] for row in rows]
    width = count or 1 + max((k for row in numbered for k, _ in row), default=0)
    out = np.zeros((len(rows), width))
    for line, row in zip(out, numbered, strict=True):
        seen = {k for k, _ in row}
        if len(seen) != len(row) or (seen and max(seen) >= width):
            rule = f"different classes below {width}"
            raise SuspectError(where, "answers", rule, [k for k, _ in row][:SHOWN])
        low = min((b for _, b in row), default=0.0)
        high = max((b for _, b in row), default=0.0)
        if len(row) < width and (low < 0 or high > 100.1):
            rule = "for every class (top_k=), because missing classes are filled in for probabilities only"
            raise OutputError(where, "answers", rule, f"{len(row)} of {width} classes")
        for k, value in row:
            line[k] = value
    return torch.from_numpy(out)


def _class(label: str | int, index: Mapping[str, int], where: str) -> int:
    if isinstance(label, int):
        if not 0 <= label < MOST_CLASSES:
            raise SuspectError(where, "answers", f"labels in 0..{MOST_CLASSES - 1}", short(label))
        return label
    if index:
        if label not in index:
            raise SuspectError(where, "answers", "labels out of `classes`", short(label))
        return index[label]
    numbered = NUMBERED.fullmatch(label)
    if numbered is None:
        rule = "the server's label strings in the order of its classes"
        raise OutputError(where, "classes", rule, f"none, and an answer {short(label)}")
    return _class(int(numbered[1]), index, where)


def short(value: Any, limit: int = 80) -> str:
    """What is shown of a server's answer in an error."""
    text = repr(value)[: limit + 1]
    return text if len(text) <= limit else text[:limit] + "..."


def kind_of_row(row: Any) -> str:
    """``scores``, ``pairs`` or ``label``."""
    return "scores" if isinstance(row, np.ndarray) else "pairs" if isinstance(row, tuple) else "label"


def plain_row(row: Any) -> Any:
    """A row as JSON has it, exactly; numbers that JSON lacks as text."""
    if isinstance(row, np.ndarray):
        return [_plain_number(v) for v in row.tolist()]
    return [[a, _plain_number(b)] for a, b in row] if isinstance(row, tuple) else row


def row_of_plain(kind: str, value: Any) -> Any:
    """The row that :func:`plain_row` was given; raises ``ValueError`` or ``TypeError`` for anything else."""
    if kind == "scores":
        return np.array([float(v) for v in value], dtype=np.float64)
    if kind == "pairs":
        return tuple((_label_of(a), float(b)) for a, b in value)
    if kind != "label":
        raise ValueError(f"kind {kind!r}")
    return _label_of(value)


def _label_of(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"{type(value).__name__} for a label")
    return value


def _plain_number(value: float) -> float | str:
    return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


def encode_row(row: Any) -> tuple[str, bytes]:
    """A row for the cache: its kind and its bytes."""
    if isinstance(row, np.ndarray):
        return "scores", row.astype("<f8").tobytes()
    return kind_of_row(row), json.dumps(row).encode()


def decode_row(kind: str, data: bytes) -> Any:
    """The row that :func:`encode_row` was given."""
    if kind == "scores":
        return np.frombuffer(data, dtype="<f8").astype(np.float64)
    found = json.loads(data)
    return tuple((a, b) for a, b in found) if kind == "pairs" else found


__all__ = [
    "as_numbers",
    "decode_row",
    "encode_row",
    "kind_of_row",
    "pairs_of",
    "plain_row",
    "row_of",
    "row_of_plain",
    "short",
    "table",
]
