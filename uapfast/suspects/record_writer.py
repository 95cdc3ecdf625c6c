"""The record of an examination: every answer as it came, in a file that ``verify --answers`` decides from.

JSON lines (docs/recorded.md): what was asked and how; a line an answer; how it ended. It is written as
answers come, so that a million of them need no memory, and takes its name when the last line is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from uapfast._version import versions
from uapfast.errors import InputError, SuspectError, TimeLimitError, UapfastError, UnavailableError
from uapfast.files import atomic_path
from uapfast.suspects.http_rows import kind_of_row, plain_row
from uapfast.suspects.record_bodies import MANY, encode_body, fits, kept_headers

FORMAT, VERSION = "uapfast record", 2
ENDS = {kind.__name__: kind for kind in (TimeLimitError, SuspectError, UnavailableError)}
UNSAID = {math.inf: "Infinity", -math.inf: "-Infinity"}  # numbers that JSON has no word for; NaN is "NaN"


def said(time: datetime) -> str:
    """A time, UTC, as RFC 3339 with milliseconds."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now() -> str:
    """The time, as :func:`said` writes it."""
    return said(datetime.now(UTC))


def line_of(values: Any) -> bytes:
    """A line of a record, in its one form; raises ``ValueError`` for what JSON has no number for."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def query_sha256(image: Tensor) -> str:
    """Of one query, float32 ``[C,H,W]`` in 0..1: SHA-256 of its bytes, little-endian, row by row."""
    return hashlib.sha256(image.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()).hexdigest()


class Recorder:
    """Writes a record, whole or not at all: it takes its name where the block ends without an error.

    Implements :class:`uapfast.models.tape.Tape`. One thread.

    Args:
        path: of the record.
        subject: the suspect as a statement names it (``name``, ``digest``).
        answered: ids of the queries that were answered, where answers come from a file of a part of them.

    Attributes:
        sha256: of the file, once it is written.
        answers: taken down so far.
        started: when the examination began.
        ended: when it ended.
        begun: whether there is anything in it.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        subject: Mapping[str, Any] | None = None,
        answered: Sequence[int] | None = None,
    ) -> None:
        self.path, self.sha256 = path, ""
        self.subject = None if subject is None else dict(subject)
        self.answered = None if answered is None else [int(i) for i in answered]
        self.answers, self.started, self.ended, self.begun = 0, "", "", False
        self._hash, self._queries = hashlib.sha256(), list[bytes]()
        self._reading: Any = None
        self._size = self._bodies = 0  # bytes of the record, and of the bodies in it
        self._first = self._next = 0  # of the images that are asked now; of those whose answers came in order
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Recorder:
        """Open the file under another name."""
        temporary = self._stack.enter_context(atomic_path(self.path))
        self._stream = self._stack.enter_context(open(temporary, "wb"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it its name, or remove it."""
        if error is None and not self.ended:
            error = InputError("record", "examination", "ended before its record is written", "an open one")
            self._stack.__exit__(type(error), error, None)
            raise error
        self.sha256 = self._hash.hexdigest()
        self._stack.__exit__(kind, error, trace)

    def _line(self, values: Mapping[str, Any]) -> None:
        line = line_of(values)
        self._hash.update(line)
        self._stream.write(line)
        self._size += len(line)

    # -- what the examination tells ----------------------------------------------------------------
    def start(
        self, reference_sha256: str, suspect: Mapping[str, Any], started: str | None = None, **how: Any
    ) -> None:
        """The first line.

        Args:
            reference_sha256: of the reference's content.
            suspect: its ``name``, ``sha256``, ``output``, ``replay`` and ``settings``.
            started: when the examination began; now if None.
            **how: ``alpha``, ``looks`` and ``class_order``.
        """
        self.started, self.begun = started or now(), True
        first: dict[str, Any] = {
            "reference_sha256": reference_sha256,
            "started": self.started,
            "answered": self.answered,
        }
        first |= {"versions": versions(), "suspect": {**suspect, "subject": self.subject}, **how}
        self._line({"format": FORMAT, "version": VERSION, **dict(sorted(first.items()))})

    def stage(self) -> None:
        """What is asked from now on comes after all that was asked before."""
        self._first = self._next = len(self._queries)

    def asked(self, images: Tensor) -> None:
        """Images ``[n,C,H,W]`` that are asked next, in their order."""
        self._queries += [bytes.fromhex(query_sha256(image)) for image in images]

    def end(self, notes: Sequence[str], error: UapfastError | None, spent: Any = None) -> None:
        """The last line: what a reader has to know, and why no more was asked, if it failed."""
        self.ended = now()
        end: dict[str, Any] = {"ended": self.ended, "asked": len(self._queries), "answers": self.answers}
        end |= {"notes": list(notes), "spent": spent}
        self._line({"end": {**end, "error": None if error is None else _plain_error(error)}})

    # -- what suspects tell (Tape) -----------------------------------------------------------------
    def took(self, values: Tensor) -> None:
        """See :class:`uapfast.models.tape.Tape`."""
        dtype = str(values.dtype).removeprefix("torch.")
        rows = plain_numbers(values) if values.ndim else []
        for answer in rows[: len(self._queries) - self._next]:  # a wrong number of rows is an error later
            query = self._queries[self._next].hex()
            self._line({"i": self._next, "query": query, "dtype": dtype, "answer": answer})
            self._next += 1
            self.answers += 1

    def response(self, trip: Any, reading: Any, images: int, body: bytes | None = None) -> None:
        """See :class:`uapfast.models.tape.Tape`."""
        if reading != self._reading:
            self._line({"reading": reading})
            self._reading = reading
        self._line({"response": {**trip.told(), "images": images, **self._sent(trip, body)}})

    def row(self, place: int, row: Any, trip: Any = None, nth: int = 0) -> None:
        """See :class:`uapfast.models.tape.Tape`."""
        i = self._first + place
        line = {"i": i, "query": self._queries[i].hex(), "kind": kind_of_row(row), "answer": plain_row(row)}
        self._line(line | ({"cached": True} if trip is None else {**trip.told(), "row": nth}))
        self.answers += 1

    def again(self, image: Tensor, row: Any, trip: Any) -> None:
        """See :class:`uapfast.models.tape.Tape`."""
        line = {"query": query_sha256(image), "kind": kind_of_row(row), "answer": plain_row(row)}
        self._line({"again": line | trip.told() | {"row": 0}})

    def failed(self, trip: Any, images: int, body: bytes | None = None) -> None:
        """See :class:`uapfast.models.tape.Tape`."""
        sent = {} if trip.response is None else self._sent(trip, body)
        self._line({"failed": {**trip.told(), "images": images, **sent}})

    def _sent(self, trip: Any, body: bytes | None) -> dict[str, Any]:
        """A response as the record has it; headers that belong to a body only.

        A server that pads its answers must not make a record that nobody may read.
        """
        size = 0 if body is None else len(body)
        if not fits(self._bodies + size, self._size):
            return {"headers": {}, "withheld": MANY}
        self._bodies += size
        headers = {} if body is None or trip.response is None else kept_headers(trip.response.headers)
        return {"headers": headers, **encode_body(body)}


def plain_numbers(values: Tensor) -> list[Any]:
    """An answer a row, as JSON has it, exactly; what it has no number for as ``"NaN"``, ``"Infinity"``."""
    v = values.detach().to("cpu")
    v = v.dequantize() if v.is_quantized else v
    v = torch.view_as_real(v.resolve_conj()) if v.is_complex() else v
    if not v.dtype.is_floating_point:
        return list(v.tolist())
    v = v.to(torch.float64)
    found: list[Any] = v.tolist()
    if bool(torch.isfinite(v).all()):
        return found
    return [_said(one) for one in found]


def _said(value: Any) -> Any:
    if isinstance(value, list):
        return [_said(one) for one in value]
    return value if math.isfinite(value) else UNSAID.get(value, "NaN")


def _plain_error(error: UapfastError) -> dict[str, Any]:
    """An error that ends an examination, so that it can be made again."""
    kind = next(name for name, known in ENDS.items() if isinstance(error, known))
    if isinstance(error, InputError):
        return {"class": kind, "args": [error.where, error.argument, error.rule, error.got]}
    return {"class": kind, "args": [str(error)]}


__all__ = ["ENDS", "FORMAT", "VERSION", "Recorder", "line_of", "now", "plain_numbers", "query_sha256", "said"]
