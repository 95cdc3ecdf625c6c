"""Answers that name their classes: label strings, and lists of ``{label, score}``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uapfast.errors import InputError, OutputError, fault
from uapfast.files import open_plain

MOST_BYTES = 64 << 20  # of a file with names
SHOWN = 6  # names or ids listed in an error


class ClassNames:
    """What a suspect calls its classes, in their order.

    Args:
        names: at least two. Two classes of one name cannot be told apart: see :attr:`notes`.
        where: named in errors.

    Attributes:
        notes: what a reader of the verdict has to know.

    Raises:
        InputError: fewer than two, or something that is no text.
    """

    def __init__(self, names: Sequence[str], where: str = "class names") -> None:
        found = list(names) if not isinstance(names, str) else [names]
        if len(found) < 2 or not all(isinstance(name, str) and name for name in found):
            raise InputError(
                where, "class names", "two or more texts, in the order of the classes", found[:4]
            )
        self.names: tuple[str, ...] = tuple(found)
        self._places: dict[str, list[int]] = {}
        for place, name in enumerate(self.names):
            self._places.setdefault(name, []).append(place)
        alike = [name for name, places in self._places.items() if len(places) > 1]
        self.notes: tuple[str, ...] = ()
        if alike:
            said = f"its class list has {some(alike)} more than once: scores are shared among them"
            self.notes = (f"{said}, a label is taken for the first",)

    def __len__(self) -> int:
        return len(self.names)

    def places(self, label: Any, where: str) -> list[int]:
        """The classes that ``label`` means: a name, or the number of a class.

        Raises:
            OutputError: neither; the label is named.
        """
        if isinstance(label, str):
            found = self._places.get(label) or self._places.get(label.strip())
            if found:
                return found
        elif isinstance(label, (int, np.integer)) and not isinstance(label, bool) and 0 <= label < len(self):
            return [int(label)]
        rule = f"in the class list ({some(self.names)})"
        raise OutputError(where, "label", rule, repr(label)[:200])

    def labels(self, given: Iterable[Any], where: str) -> Tensor:
        """Labels ``[N]`` as int64 numbers of classes; raises as :meth:`places`."""
        return torch.tensor([self.places(label, where)[0] for label in given], dtype=torch.int64)

    def rows(self, answers: Sequence[Iterable[tuple[Any, Any]]], where: str) -> Tensor:
        """Scores float32 ``[N,K]`` of answers that are pairs of label and score; 0 for classes not shown.

        Raises:
            OutputError: an unknown label, one label twice, a score that is no number, or negative scores
                without those of all classes (a 0 would be a high score there).
        """
        out = np.zeros((len(answers), len(self)), np.float32)
        for row, pairs in zip(out, answers, strict=True):
            times: Counter[int] = Counter()
            for label, score in pairs:
                places, value = self.places(label, where), _number(score, where)
                times[places[0]] += 1
                if times[places[0]] > len(places):
                    raise OutputError(
                        where, "labels", "different within one answer", f"{label!r} twice"[:200]
                    )
                for place in places:
                    row[place] += value / len(places)
            if len(times) < len(self._places) and (row < 0).any():
                rule = "those of all classes where some are negative"
                raise OutputError(where, "scores", rule, f"{len(times)} of {len(self)} classes")
        return torch.from_numpy(out)


def _number(score: Any, where: str) -> float:
    try:
        return float(score)
    except (TypeError, ValueError):
        raise OutputError(where, "score", "a number", repr(score)[:80]) from None


def some(values: Iterable[Any], limit: int = SHOWN) -> str:
    """The first few of ``values`` and how many more there are, for an error."""
    found = list(values)
    listed = ", ".join(str(v)[:60] for v in found[:limit])
    return f"{listed} and {len(found) - limit} more" if len(found) > limit else listed


def read_class_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of classes from a file, in the order of the classes.

    Args:
        path: text with a name a line; or JSON: a list, an object from number to name, or one that holds such
            an object as ``id2label`` (a model's ``config.json``).

    Raises:
        InputError: missing, too large, or none of these.
    """
    file, where = Path(path), "class names"
    try:
        if file.stat().st_size > MOST_BYTES:
            raise InputError(
                where, "file", f"of at most {MOST_BYTES} bytes", f"{file.stat().st_size} ({file})"
            )
        with open_plain(file) as stream:
            text = stream.read(MOST_BYTES + 1).decode("utf-8-sig")
        found = json.loads(text) if text.lstrip()[:1] in ("{", "[") else text.splitlines()
    except (OSError, ValueError, RecursionError) as exc:
        raise InputError(where, "file", f"text or JSON that can be read ({file})", fault(exc)) from exc
    if isinstance(found, Mapping):
        found = found.get("id2label", found)
    if isinstance(found, Mapping):
        numbered = {str(k): v for k, v in found.items()}
        if set(numbered) != set(map(str, range(len(numbered)))):
            rule = f"an object from 0, 1, 2, ... to names ({file})"
            raise InputError(where, "JSON", rule, some(numbered))
        found = [numbered[str(i)] for i in range(len(numbered))]
    while isinstance(found, list) and found and found[-1] == "":  # blank lines at the end
        found.pop()
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise InputError(where, "file", f"a list of names ({file})", type(found).__name__)
    return list(ClassNames([name.strip() for name in found], where).names)


__all__ = ["ClassNames", "read_class_names", "some"]
