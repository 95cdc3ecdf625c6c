"""Responses of an endpoint as they came, read once more by whoever doubts the rows of its record.

A record has a ``reading`` line that says how responses are read, a ``response`` line with the body of each,
and after it the rows that were read from it. Whoever reads the record reads the bodies again, and gets these.
"""

from __future__ import annotations

import binascii
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from uapfast.errors import InputError, RecordError
from uapfast.suspects.http_client import Response
from uapfast.suspects.http_reading import ResponseReader, response_reader
from uapfast.suspects.http_rows import row_of_plain
from uapfast.suspects.record_bodies import KEPT, decode_body, fits

TRIP = ("at", "attempt", "status")  # what a row says of its response
AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")  # sorts by time


class Bodies:
    """The responses of a record while it is read, and whether its rows are what they hold.

    Args:
        where: how errors name the record.

    Attributes:
        read: rows that were read again from a body, and are the same.
        withheld: rows whose body was not kept.
        first: when the first response came, None without one.
        last: when the last one came.
    """

    def __init__(self, where: str) -> None:
        self.where, self.read, self.withheld = where, 0, 0
        self._reader: ResponseReader | None = None
        self._rows: dict[
            int, list[Any]
        ] = {}  # by request: rows that are not named yet, None each if withheld
        self._trips: dict[int, dict[str, Any]] = {}
        self.first: str | None = None
        self.last: str | None = None
        self._bytes = 0

    def reading(self, told: Any) -> None:
        """How what follows is read; raises as :meth:`response`."""
        self._reader = response_reader(told, self.where)

    def response(self, told: Any, size: int) -> None:
        """A response, before its rows.

        Args:
            told: its line.
            size: bytes of the record so far.

        Raises:
            ValueError, TypeError, KeyError, InputError: it cannot be read, or gives other rows.
        """
        request, images = told["request"], told["images"]
        if type(request) is not int or request in self._trips or type(images) is not int or images < 1:
            raise ValueError(f"request {request!r}, images {images!r}")
        self._trips[request] = {name: told[name] for name in TRIP}
        if not isinstance(told["at"], str) or AT.fullmatch(told["at"]) is None:
            raise ValueError(f"at {told['at']!r}"[:80])
        self.first, self.last = min(self.first or told["at"], told["at"]), max(self.last or "", told["at"])
        body = self._body(told, size)
        if body is None:
            self._rows[request] = [None] * images if images <= size else []
            return
        if self._reader is None:
            raise ValueError("nothing says how it is read")
        headers = told["headers"]
        if not isinstance(headers, dict) or not all(isinstance(v, str) for v in headers.values()):
            raise ValueError("headers")
        self._rows[request] = self._reader(Response(body, headers), images)

    def _body(self, told: Mapping[str, Any], size: int) -> bytes | None:
        body = decode_body(told)
        self._bytes += 0 if body is None else len(body)
        if not fits(self._bytes, size):
            raise ValueError("more in its bodies than so large a record may hold")
        return body

    def failed(self, told: Any, size: int) -> None:
        """A response that could not be read, if one came; raises as :meth:`response`."""
        if isinstance(told, dict) and any(name in told for name in KEPT):
            self._body(told, size)

    def row(self, one: Mapping[str, Any]) -> Any:
        """The row of a line, which has to be the one that its response holds.

        Raises:
            ValueError, TypeError, KeyError: it is another, or of a response that is not there.
        """
        row = row_of_plain(one["kind"], one["answer"])
        if one.get("cached") is True:
            return row
        request, place = one["request"], one["row"]
        rows = self._rows.get(request) if type(request) is int else None
        if rows is None or type(place) is not int or not 0 <= place < len(rows):
            raise ValueError(f"row {place!r} of request {request!r}, whose response is not there")
        if any(type(one[n]) is not type(v) or one[n] != v for n, v in self._trips[request].items()):
            raise ValueError(f"row {place} of request {request} with other {', '.join(TRIP)}")
        found, rows[place] = rows[place], _Named
        if found is _Named:
            raise ValueError(f"row {place} of request {request} a second time")
        if found is None:
            self.withheld += 1
        elif not same(found, row):
            raise ValueError(f"another row than its response holds, row {place} of request {request}")
        else:
            self.read += 1
        if all(left is _Named for left in rows):
            del self._rows[request]
        return row

    def end(self) -> None:
        """Raise ``RecordError`` where a row that came is left out."""
        if self._rows:
            rule = "there for every row of every response"
            raise RecordError(self.where, "answers", rule, f"rows of request {min(self._rows)} left out")


class _Named:
    """In the place of a row that was named."""


def same(a: Any, b: Any) -> bool:
    """Whether two rows of an endpoint are the same; NaN is NaN."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        both = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
        return both and a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=True))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(*pair) for pair in zip(_flat(a), _flat(b), strict=True))
    if isinstance(a, float) and isinstance(b, float) and a != a:
        return b != b
    return type(a) is type(b) and bool(a == b)


def _flat(pairs: tuple[Any, ...]) -> list[Any]:
    return [value for pair in pairs for value in pair]


FAULTS: tuple[type[Exception], ...] = (
    *(KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, IndexError),
    *(InputError, zlib.error, binascii.Error, MemoryError),
)  # of a body that somebody made up

__all__ = ["FAULTS", "Bodies", "same"]
