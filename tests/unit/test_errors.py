"""What an exception of Python's own says, in words that need no Python."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from uapfast.errors import fault


def raised(call: object) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (whatever it is)
        call()  # type: ignore[operator]
    return caught.value


def objects() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([None, "a"], dtype=object))
    stream.seek(0)
    np.load(stream, allow_pickle=False)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: b"ab\x93".decode(), "bytes that are no text (byte 2 is no UTF-8)"),
        (lambda: open("/no/such/file"), "No such file or directory"),
        (
            lambda: json.loads("{"),
            "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (objects, "Python objects, which are never read"),
        (lambda: [][0], "IndexError: list index out of range"),
    ],
)
def test_in_plain_words(call: object, said: str) -> None:
    assert fault(raised(call)) == said
