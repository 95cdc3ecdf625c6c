"""A record of an examination as a suspect that answers once more what it answered then.

Records may come from the other side: they are read line by line, within bounds, and nothing in them is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uapfast.errors import RecordError, UapfastError
from uapfast.files import KINDS
from uapfast.models.answers import OUTPUTS, Answers, detect
from uapfast.models.kinds import Reading
from uapfast.suspects.base import Suspect
from uapfast.suspects.http_rows import row_of_plain, table
from uapfast.suspects.record_writer import ENDS, FORMAT, VERSION, query_sha256

MARK = KINDS["record"]
MOST_FIRST = 64 << 20  # bytes of the first line, which may name every query that was answered
MOST_CLASSES = 25_000  # of a suspect; the largest of the usual lists of classes has 21,843
MOST_REPEATS = 1000  # lines of a query: requests that failed, and questions that were asked again
MOST_WHOLE = 1 << 53  # that every reader of JSON knows exactly
REPLAYS = ("model", "suspect", "endpoint")
DTYPE = re.compile(r"(?:bfloat|u?int|float|complex|bool)[0-9a-z_]*")  # as torch names them


@dataclass(frozen=True)
class Line:
    """One answer: the hash of its query, what it is, and itself as JSON has it.

    Attributes:
        query: hex SHA-256.
        kind: a dtype; or ``scores``, ``label`` or ``pairs`` of an endpoint.
        values: float64 or int64 array of any shape, or a row of a server.
        cached: it was known before this examination began.
    """

    query: str
    kind: str
    values: Any
    cached: bool


@dataclass
class Recording:
    """What a record holds.

    Attributes:
        where: how errors name it.
        first: the first line.
        end: the last one.
        lines: answers by their place in the order asked.
        failed: requests that came to nothing.
        again: questions that were asked once more.
        sha256: of the file's bytes.
    """

    where: str
    first: dict[str, Any]
    end: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, Line] = field(default_factory=dict)
    failed: int = 0
    again: int = 0
    sha256: str = ""

    @property
    def suspect(self) -> dict[str, Any]:
        """What was said of it."""
        found: dict[str, Any] = self.first["suspect"]
        return found

    @property
    def cached(self) -> int:
        """Answers that were known before."""
        return sum(line.cached for line in self.lines.values())


def is_record(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a record, by its first bytes; False for none."""
    try:
        with open(path, "rb") as stream:
            return stream.read(len(MARK)) == MARK
    except OSError:
        return False


def read_record(path: str | os.PathLike[str], queries: int) -> Recording:
    """Read a record whole.

    Args:
        path: of the file.
        queries: of the reference that it should be of, probes included: how much it may hold.

    Raises:
        RecordError: it cannot be read, is cut short, holds more than answers to so many queries can, or is of
            another version; the message names the line.
    """
    file = Path(path)
    where = f"record {file.name}"
    try:
        if not file.is_file():
            raise RecordError(where, "file", "an existing plain file", file)
        with open(file, "rb") as stream:
            found = _read(stream, where, queries)
    except OSError as exc:
        raise RecordError(where, "file", "one that can be read", exc.strerror or exc) from exc
    return found


def _read(stream: Any, where: str, queries: int) -> Recording:
    digest, most = hashlib.sha256(), MOST_REPEATS * (queries + 1)
    found = Recording(where, _first(_line(stream, MOST_FIRST, 1, where, digest), where))
    for number in range(2, most + 3):
        raw = _line(stream, 4096 + 64 * MOST_CLASSES, number, where, digest)
        one = _object(raw, number, where)
        if set(one) == {"end"}:
            found.end = _checked_end(one["end"], number, where, len(found.lines))
            if stream.read(1):
                raise RecordError(where, f"line {number + 1}", "nothing, after the last line", "more")
            found.sha256 = digest.hexdigest()
            return found
        _take(found, one, number)
        if len(found.lines) > queries:
            raise RecordError(where, "answers", f"at most {queries}, those of the reference", "more")
    raise RecordError(where, "lines", f"at most {most}, for so many queries", "more")


def _line(stream: Any, most: int, number: int, where: str, digest: Any) -> bytes:
    raw: bytes = stream.readline(most + 1)
    if len(raw) > most:
        raise RecordError(where, f"line {number}", f"at most {most} bytes", "more")
    if not raw.endswith(b"\n"):
        rule = "whole (its last line says how it ended)"
        raise RecordError(where, "file", rule, f"one that is cut short in line {number}")
    digest.update(raw)
    return raw


def _object(raw: bytes, number: int, where: str) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise RecordError(where, f"line {number}", "a JSON object", str(exc)[:120]) from exc
    if not isinstance(found, dict):
        raise RecordError(where, f"line {number}", "a JSON object", type(found).__name__)
    return found


def _first(raw: bytes, where: str) -> dict[str, Any]:
    found = _object(raw, 1, where)
    if found.get("format") != FORMAT:
        raise RecordError(where, "file", "a record that uapfast wrote", repr(found.get("format"))[:80])
    if found.get("version") != VERSION:
        raise RecordError(where, "version", f"{VERSION} (of this uapfast)", repr(found.get("version"))[:80])
    suspect, looks, order = found.get("suspect"), found.get("looks"), found.get("class_order")
    answered = found.get("answered")
    good = (
        isinstance(suspect, dict)
        and isinstance(suspect.get("name"), str)
        and isinstance(suspect.get("sha256"), str | None)
        and suspect.get("output") in OUTPUTS
        and suspect.get("replay") in REPLAYS
        and isinstance(suspect.get("settings"), dict)
        and _is_subject(suspect.get("subject"))
        and _texts(suspect["settings"].get("classes"))
        and isinstance(found.get("started"), str)
        and isinstance(found.get("reference_sha256"), str)
        and isinstance(found.get("alpha"), float)
        and _whole(looks)
        and (order is None or _whole(order))
        and (answered is None or _whole(answered))
    )
    if not good:
        raise RecordError(where, "line 1", "with all that says how it was asked", "one without")
    return found


def _is_subject(found: Any) -> bool:
    if found is None:
        return True
    good = isinstance(found, dict) and set(found) == {"name", "digest"} and isinstance(found["name"], str)
    return good and isinstance(found["digest"], dict) and _texts(list(found["digest"].values()))


def _texts(values: Any) -> bool:
    return values is None or (isinstance(values, list) and all(isinstance(v, str) for v in values))


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and abs(v) < MOST_WHOLE for v in values)


def _checked_end(end: Any, number: int, where: str, lines: int) -> dict[str, Any]:
    good = (
        isinstance(end, dict)
        and _whole([end.get("answers"), end.get("asked")])
        and isinstance(end.get("ended"), str)
    )
    good = good and isinstance(end.get("notes"), list) and all(isinstance(n, str) for n in end["notes"])
    error = end.get("error") if good else None
    if good and error is not None:
        known = (
            isinstance(error, dict)
            and error.get("class") in list(ENDS)
            and isinstance(error.get("args"), list)
        )
        count = 1 if known and error["class"] == "UnavailableError" else 4
        good = known and len(error["args"]) == count and all(isinstance(a, str) for a in error["args"])
    if not good:
        raise RecordError(where, f"line {number}", "an end that says when, how many, notes, error", "another")
    if end["answers"] != lines:
        raise RecordError(where, "answers", f"{end['answers']}, as its last line says", lines)
    return dict(end)


def _take(found: Recording, one: dict[str, Any], number: int) -> None:
    if set(one) == {"failed"}:
        found.failed += 1
        return
    if set(one) == {"again"}:
        found.again += 1
        return
    try:
        place, query = one["i"], one["query"]
        if type(place) is not int or place < 0 or not isinstance(query, str):
            raise ValueError("i and query")
        kind = one["dtype"] if "dtype" in one else one["kind"]
        values = _numbers(kind, one["answer"]) if "dtype" in one else row_of_plain(kind, one["answer"])
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as exc:
        said = f"{type(exc).__name__}: {exc}"[:120]
        raise RecordError(found.where, f"line {number}", "an answer", said) from exc
    if place in found.lines:
        raise RecordError(found.where, f"line {number}", "of a query that has no answer yet", f"i {place}")
    found.lines[place] = Line(query, kind, values, one.get("cached") is True)


def _numbers(dtype: str, answer: Any) -> Any:
    if not DTYPE.fullmatch(dtype) or not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype {dtype!r}")
    if "float" in dtype or "complex" in dtype:
        return np.array(answer, dtype=np.float64)
    out = np.array(answer)
    if out.dtype.kind not in "bi":
        raise ValueError(f"{out.dtype} for {dtype}")
    return out.astype(np.int64)


class Replay(Suspect):
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
                self.recording.where, "answers", "there for every query that is asked", f"{missing} missing"
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
        scale, least, note = float(told["scale"]), float(told["least"]), told["note"]
        return Answers(kind, torch.zeros(0), 0, None, Reading(kind, scale, least, note))
    except (KeyError, TypeError, ValueError) as exc:
        raise RecordError(where, "read", "how earlier answers were read", type(exc).__name__) from exc


__all__ = [
    "Line",
    "Recording",
    "Replay",
    "is_record",
    "read_record",
]
