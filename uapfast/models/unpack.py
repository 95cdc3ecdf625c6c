"""The array of answers in whatever a model returned: tensors, model outputs, dicts, tuples, lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uapfast.errors import OutputError

KEYS = ("logits", "probabilities", "scores", "labels")
RULE = "an array of numbers"
SHOWN = 6  # keys named in an error


def unpack(values: Any, where: str, rows: int | None = None, output: str = "auto") -> Tensor:
    """The tensor that holds the answers, as it is (device, dtype and graph kept).

    Args:
        values: a tensor; a numpy array; numbers in lists; an object or mapping with one of ``logits``,
            ``probabilities``, ``scores``, ``labels`` (outputs of transformers are such); a tuple or list of
            these (the first ``[rows,K]`` of it), or of one answer a query.
        where: named in errors.
        rows: answers expected, where known.
        output: what the caller says they are: decides between several entries.

    Raises:
        OutputError: none of that, or more than one entry that could be meant.
    """
    if isinstance(values, Tensor):
        return values
    if isinstance(values, np.ndarray):
        return _array(values, where)
    named = _named(values)
    if named is not None:
        return unpack(_chosen(named, values, where, output), where, rows, output)
    if isinstance(values, (tuple, list)):
        return _sequence(values, where, rows, output)
    return _array(values, where)


def _array(values: Any, where: str) -> Tensor:
    try:
        return torch.as_tensor(np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values)
    except Exception as exc:  # any object may come back: arrays of strings, responses, None
        raise OutputError(where, "answers", RULE, _what(values)) from exc


def _what(values: Any) -> str:
    """What came instead of numbers; of text some is shown, with what to do about it."""
    inner = values
    while isinstance(inner, (list, tuple)) and inner:
        inner = inner[0]
    if isinstance(values, np.ndarray) and values.size and values.dtype.kind in "OUS":
        inner = values.reshape(-1)[0]
    if isinstance(inner, (str, bytes)):
        hint = "names of classes need uapfast.suspects.callable.open_callable with class_names"
        kind, text = ("bytes", repr(inner)) if isinstance(inner, bytes) else ("str", repr(str(inner)))
        return f"{type(values).__name__} of {kind}, {text[:60]} first ({hint})"
    if inner is values or isinstance(inner, (int, float)):
        return type(values).__name__
    return f"{type(values).__name__} of {type(inner).__name__}"


def _named(values: Any) -> dict[str, Any] | None:
    """Entries by name, of a mapping or of an object with such attributes; None for anything else."""
    if isinstance(values, Mapping):
        return {str(k): v for k, v in values.items() if v is not None}
    found = {key: getattr(values, key, None) for key in KEYS}
    found = {k: v for k, v in found.items() if v is not None and not callable(v)}
    return found or None


def _chosen(named: dict[str, Any], values: Any, where: str, output: str) -> Any:
    known = [key for key in KEYS if key in named]
    if output in known:
        return named[output]
    if len(known) == 1:
        return named[known[0]]
    names = list(named)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    rule = f"under one of {', '.join(KEYS)} (return that entry alone, or give output=)"
    got = f"{type(values).__name__} of {', '.join(names[:SHOWN]) or 'nothing'}{more}"
    raise OutputError(where, "answers", rule, got)


def _sequence(values: tuple[Any, ...] | list[Any], where: str, rows: int | None, output: str) -> Tensor:
    if not any(isinstance(v, (Tensor, np.ndarray)) or _named(v) for v in values):
        return _array(values, where)
    read = [v for v in values if isinstance(v, (Tensor, np.ndarray)) or _named(v)]
    found = [unpack(v, where, rows, output) for v in read]
    alike = len(found) == len(values) and len({t.shape for t in found}) == 1 and found[0].ndim < 2
    if alike and rows in (None, len(values)):
        return torch.stack(found)  # one answer a query
    fitting = [t for t in found if t.ndim in (1, 2) and (rows is None or len(t) == rows)]
    tables = [t for t in fitting if t.ndim == 2] or [t for t in fitting if not t.is_floating_point()]
    if tables:
        return tables[0]
    got = f"{type(values).__name__} of {[list(t.shape) for t in found][:SHOWN]}"
    raise OutputError(where, "answers", "one array [N,K] or [N] (or a tuple that begins with it)", got)


__all__ = ["KEYS", "unpack"]
