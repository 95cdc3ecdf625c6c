"""A record of an examination, read again.

Records may come from the other side: they are read line by line, within bounds, and nothing in them is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uapfast.errors import RecordError
from uapfast.files import KINDS, open_plain
from uapfast.models.answers import OUTPUTS
from uapfast.suspects.record_bodies import MOST_LINE
from uapfast.suspects.record_responses import FAULTS, Bodies
from uapfast.suspects.record_writer import ENDS, FORMAT, UNSAID, VERSION, line_of

WORDS = ("NaN", *UNSAID.values())
MARK = KINDS["record"]
MOST_FIRST = 64 << 20  # bytes of the first line, which may name every query that was answered
MOST_CLASSES = 25_000  # of a suspect; the largest of the usual lists of classes has 21,843
MOST_ANSWER = 4096 + 64 * MOST_CLASSES  # bytes of an answer's line
MOST_REPEATS = 1000  # lines of a query: requests that failed, and questions that were asked again
MOST_WHOLE = 1 << 53  # that every reader of JSON knows exactly
HASH = re.compile(r"[0-9a-f]{64}")
DIGESTS = ("sha256", "tensorsSha256", "urlSha256", "endpointSha256")  # that a subject may have
ENDPOINT = ("urlSha256", "endpointSha256")  # of a suspect that has a URL
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
        bodies: of an endpoint's responses, and how many answers were read again from them.
    """

    where: str
    first: dict[str, Any]
    end: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, Line] = field(default_factory=dict)
    failed: int = 0
    again: int = 0
    sha256: str = ""
    bodies: Bodies = field(init=False)

    def __post_init__(self) -> None:
        self.bodies = Bodies(self.where)

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
        with open_plain(path) as stream:
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
        with open_plain(file) as stream:
            found = _read(stream, where, queries)
    except OSError as exc:
        rule = "an existing plain file that can be read"
        raise RecordError(where, "file", rule, f"{exc.strerror or exc}: {file}") from exc
    return found


def _read(stream: Any, where: str, queries: int) -> Recording:
    digest, most = hashlib.sha256(), MOST_REPEATS * (queries + 1)
    found = Recording(where, _first(_line(stream, MOST_FIRST, 1, where, digest), where))
    for number in range(2, most + 3):
        raw = _line(stream, MOST_LINE, number, where, digest)
        if len(raw) > MOST_ANSWER and not raw.startswith(b'{"response":'):
            raise RecordError(where, f"line {number}", f"at most {MOST_ANSWER} bytes", "more")
        one = _object(raw, number, where)
        if set(one) == {"end"}:
            found.end = _checked_end(one["end"], number, where, len(found.lines))
            if stream.read(1):
                raise RecordError(
                    where, f"line {number + 1}", "absent (the last line ends the record)", "a line"
                )
            found.bodies.end()
            found.sha256 = digest.hexdigest()
            return found
        _take(found, one, number, stream.tell())
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
        again = line_of(found)
    except (ValueError, RecursionError) as exc:
        raise RecordError(where, f"line {number}", "a JSON object", str(exc)[:120]) from exc
    if not isinstance(found, dict):
        raise RecordError(where, f"line {number}", "a JSON object", type(found).__name__)
    if again != raw:  # another reader of JSON could see another answer in it
        got = (
            "CR LF at its end (a checkout or an editor did that)" if raw.endswith(b"\r\n") else "another form"
        )
        raise RecordError(where, f"line {number}", "written as uapfast writes it, byte for byte", got)
    return found


def _first(raw: bytes, where: str) -> dict[str, Any]:
    found = _object(raw, 1, where)
    if found.get("format") != FORMAT:
        raise RecordError(where, "file", "a record that uapfast wrote", repr(found.get("format"))[:80])
    if type(found.get("version")) is not int or found["version"] != VERSION:  # true is not 1
        raise RecordError(where, "version", f"{VERSION} (of this uapfast)", repr(found.get("version"))[:80])
    suspect, looks, order = found.get("suspect"), found.get("looks"), found.get("class_order")
    answered = found.get("answered")
    good = (
        isinstance(suspect, dict)
        and isinstance(suspect.get("name"), str)
        and (suspect.get("sha256") is None or _is_hash(suspect["sha256"]))
        and suspect.get("output") in OUTPUTS
        and suspect.get("replay") in REPLAYS
        and isinstance(suspect.get("settings"), dict)
        and _is_subject(suspect.get("subject"))
        and (suspect["replay"] == "endpoint" or not _is_endpoint(suspect))
        and _texts(suspect["settings"].get("classes"))
        and isinstance(found.get("started"), str)
        and isinstance(found.get("reference_sha256"), str)
        and isinstance(found.get("alpha"), float)
        and _whole(looks)
        and (order is None or _whole(order))
        and (answered is None or _whole(answered))
    )
    if not good:
        raise RecordError(
            where, "line 1", "a line with every field of a record's beginning", "one without some"
        )
    return found


def _is_endpoint(suspect: dict[str, Any]) -> bool:
    """Whether it says that it was asked at a URL: then its rows have to be in its responses."""
    digest = (suspect["subject"] or {}).get("digest") or {}
    return suspect["settings"].get("kind") == "http" or any(name in digest for name in ENDPOINT)


def _is_subject(found: Any) -> bool:
    if found is None:
        return True
    good = isinstance(found, dict) and set(found) == {"name", "digest"} and isinstance(found["name"], str)
    good = good and isinstance(found["digest"], dict)
    return good and set(found["digest"]) <= set(DIGESTS) and all(map(_is_hash, found["digest"].values()))


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and HASH.fullmatch(value) is not None


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
        raise RecordError(where, f"line {number}", "an end with its time, count, notes and error", "another")
    if end["answers"] != lines:
        raise RecordError(where, "answers", f"{end['answers']}, as its last line says", lines)
    return dict(end)


def _take(found: Recording, one: dict[str, Any], number: int, size: int) -> None:
    try:
        if "i" in one:
            _answer(found, one, number)
        else:
            _beside(found, one, size)
    except FAULTS as exc:
        if isinstance(exc, RecordError):
            raise
        said = f"{type(exc).__name__}: {exc}"[:200]
        raise RecordError(found.where, f"line {number}", "an answer or a response", said) from exc


def _beside(found: Recording, one: dict[str, Any], size: int) -> None:
    """A line that is no answer to a query: how responses are read, one of them, or a question once more."""
    ((name, told),) = one.items()
    if name == "reading":
        found.bodies.reading(told)
    elif name == "response":
        found.bodies.response(told, size)
    elif name == "failed":
        found.failed += 1
        found.bodies.failed(told, size)
    elif name == "again":
        found.again += 1
        found.bodies.row(told)
    else:
        raise ValueError(f"a line {name[:40]!r}")


def _answer(found: Recording, one: dict[str, Any], number: int) -> None:
    place, query = one["i"], one["query"]
    if type(place) is not int or place < 0 or not isinstance(query, str):
        raise ValueError("i and query")
    if found.suspect["replay"] == "endpoint":  # whose rows have to be in its responses
        kind, values = one["kind"], found.bodies.row(one)
    else:
        kind, values = one["dtype"], _numbers(one["dtype"], one["answer"])
    if place in found.lines:
        raise RecordError(found.where, f"line {number}", "of a query that has no answer yet", f"i {place}")
    found.lines[place] = Line(query, kind, values, one.get("cached") is True)


def _floats(answer: Any) -> Any:
    """Numbers, and the words for those that JSON lacks; numpy would take more words, and null for NaN."""
    found = np.array(answer)
    if found.dtype.kind == "f":
        return found.astype(np.float64)
    every = np.array(answer, dtype=object)
    for value in every.ravel():
        if type(value) not in (float, int) and value not in WORDS:
            raise ValueError(f"{str(value)[:40]!r} for a number")
    return every.astype(np.float64)


def _numbers(dtype: str, answer: Any) -> Any:
    if not DTYPE.fullmatch(dtype) or not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype {dtype!r}")
    if "float" in dtype or "complex" in dtype:
        return _floats(answer)
    out = np.array(answer)
    if out.dtype.kind not in "bi":
        raise ValueError(f"{out.dtype} for {dtype}")
    return out.astype(np.int64)


__all__ = [
    "Line",
    "Recording",
    "is_record",
    "read_record",
]
