"""A record of an examination as a suspect that answers once more what it answered then."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uapfast.errors import RecordError, UapfastError
from uapfast.models.answers import OUTPUTS, Answers, detect
from uapfast.models.kinds import AnswerReading
from uapfast.suspects.base import Suspect
from uapfast.suspects.http_rows import table
from uapfast.suspects.record_reader import Line, Recording
from uapfast.suspects.record_writer import ENDS, query_sha256


class RecordReplay(Suspect):
    """What a record holds, as a suspect; its answers are read as they were when they came.

    Args:
        recording: the record.
    """

    def __init__(self, recording: Recording) -> None:
        about = recording.suspect
        self.name, self.sha256, self.output = about["name"], about["sha256"], about["output"]
        self.notes = tuple(recording.end["notes"])
        self.recording, self._done = recording, 0
        self._first = _read_before(about["settings"].get("read"), recording.where)
        self.replay = about["replay"]

    @property
    def source(self) -> dict[str, Any]:
        """What it was then."""
        found: dict[str, Any] = self.recording.suspect["settings"]
        return found

    @property
    def whole(self) -> bool:
        """Whether every answer was asked for."""
        return self._done == len(self.recording.lines)

    def answer(self, images: Tensor) -> Tensor:
        """What was recorded for the images that are next; see :meth:`answers_to`."""
        values: Tensor = self.answers_to([images]).values
        return values

    def answers_to(self, chunks: Iterable[Tensor], classes: int | None = None) -> Answers:
        """As then, for the same images in the same order.

        Raises:
            RecordError: another image than was asked then, or no answer to it.
            SuspectError: as it failed then; UnavailableError likewise.
        """
        lines, missing = list[Line](), 0
        for query in self._queries(chunks):
            line = self.recording.lines.get(self._done + len(lines) + missing)
            if line is not None and line.query != query:
                rule = f"the SHA-256 of query {self._done + len(lines) + missing}, {query}"
                raise RecordError(self.recording.where, "query", rule, line.query[:80])
            if line is None:
                missing += 1
            else:
                lines.append(line)
        self._done += len(lines)
        if missing:
            raise self._failure() or RecordError(
                self.recording.where, "answers", "given for every query that is asked", f"{missing} missing"
            )
        read = self._read(lines, classes)
        failure = self._failure()
        if failure is not None and self._done == self.recording.end["asked"]:
            raise failure  # what it answered was usable, and yet it failed
        return read

    def _queries(self, chunks: Iterable[Tensor]) -> Iterator[str]:
        for images in chunks:
            yield from map(query_sha256, images)

    def _failure(self) -> UapfastError | None:
        error = self.recording.end.get("error")
        return None if error is None else ENDS[error["class"]](*error["args"])

    def _read(self, lines: Sequence[Line], classes: int | None) -> Answers:
        values = self._rows(lines, classes) if self.replay == "endpoint" else self._stacked(lines)
        like = None if self.replay == "model" else self._first  # as each kind does that
        read = detect(values, self.name, rows=len(lines), classes=classes, output=self.output, like=like)
        self._first = self._first or read
        return read

    def _rows(self, lines: Sequence[Line], classes: int | None) -> Tensor:
        labels = self.source.get("classes")
        return table([line.values for line in lines], labels, classes, self.name)

    def _stacked(self, lines: Sequence[Line]) -> Tensor:
        kinds = {line.kind for line in lines}
        if len(kinds) != 1:
            raise RecordError(self.recording.where, "answers", "of one dtype", ", ".join(sorted(kinds))[:80])
        try:
            values = torch.from_numpy(np.stack([line.values for line in lines]))
            dtype: torch.dtype = getattr(torch, kinds.pop())
            return (torch.view_as_complex(values) if dtype.is_complex else values).to(dtype)
        except (ValueError, TypeError, AttributeError, RuntimeError) as exc:  # also kinds of an endpoint
            rule, got = "of one shape and a dtype of models", str(exc)[:120]
            raise self._failure() or RecordError(self.recording.where, "answers", rule, got) from exc


def _read_before(told: Any, where: str) -> Answers | None:
    """How answers before a record were read: those to another reference, of the same suspect."""
    if told is None:
        return None
    try:
        kind = told["kind"]
        if kind not in OUTPUTS[1:]:
            raise ValueError(kind)
        if kind == "labels" and "scale" not in told:
            return Answers(kind, torch.zeros(0), 0)
        scale, least, note = told["scale"], told["least"], told["note"]
        if not (isinstance(scale, float) and isinstance(least, float) and isinstance(note, str | None)):
            raise ValueError("scale, least and note")
        if not (0 < scale < math.inf and 0 <= least < 1):
            raise ValueError("scale and least")
        return Answers(kind, torch.zeros(0), 0, None, AnswerReading(kind, scale, least, note))
    except (KeyError, TypeError, ValueError) as exc:
        raise RecordError(where, "read", "how earlier answers were read", type(exc).__name__) from exc


__all__ = ["RecordReplay"]
