"""JSON in its one canonical form (RFC 8785); in it decimals are strings, and base64 has no slack."""

from __future__ import annotations

import base64
import binascii
import json
import math
from importlib import import_module
from typing import Any

from uapfast.errors import EvidenceError, MissingDependency, fault, how_to_install

MOST_BYTES = 64 << 20  # of a statement or a commitment


def required_module(name: str) -> Any:
    """A module of the extra ``evidence``.

    Raises:
        MissingDependency: it is not installed; the message names the extra.
    """
    try:
        return import_module(name)
    except ImportError as exc:
        package = name.partition(".")[0].replace("_", "-")
        raise MissingDependency(f"evidence: {package} is needed ({how_to_install('evidence')})") from exc


def dumps(value: Any) -> bytes:
    """Canonical JSON, without a newline at its end. Floats have no place in it: see :func:`decimals`."""
    found: bytes = required_module("rfc8785").dumps(value)
    return found


def loads(data: bytes, where: str) -> Any:
    """Canonical JSON read again.

    Raises:
        EvidenceError: no JSON, or not byte for byte what :func:`dumps` writes.
    """
    try:
        found = json.loads(data, parse_float=_no_float, parse_constant=_no_float)
        again = dumps(found)
    except (ValueError, RecursionError, TypeError) as exc:  # UTF-8 and the library's own errors among them
        said = fault(exc) if isinstance(exc, UnicodeDecodeError) else str(exc)[:160]
        raise EvidenceError(where, "file", "canonical JSON (RFC 8785)", said) from exc
    if again != data:
        at = next((i for i, (a, b) in enumerate(zip(again, data, strict=False)) if a != b), len(again))
        rule = "canonical JSON (RFC 8785), byte for byte"
        raise EvidenceError(where, "file", rule, f"another form from byte {at} on")
    return found


def _no_float(text: str) -> Any:
    raise ValueError(f"a number {text} that is not whole; decimals are strings here")


def decimals(value: Any) -> Any:
    """The same with every float as the shortest decimal that reads back as it; tuples become lists.

    Texts become :func:`utf8_text`.
    """
    if isinstance(value, str):
        return utf8_text(value)
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise EvidenceError("evidence", "numbers", "finite", value)
        return repr(value)
    if isinstance(value, dict):
        return {utf8_text(str(k)): decimals(v) for k, v in value.items()}
    return [decimals(v) for v in value]


def utf8_text(text: str) -> str:
    """A text with what UTF-8 has no bytes for escaped: whoever names a file or a class may put it there."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def encoded(data: bytes) -> str:
    """Base64 in its one form."""
    return base64.b64encode(data).decode("ascii")


def decoded(text: Any, where: str, what: str) -> bytes:
    """Base64 read again; raises ``EvidenceError`` for anything that :func:`encoded` would not write."""
    try:
        if not isinstance(text, str):
            raise ValueError(type(text).__name__)
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as exc:
        raise EvidenceError(where, what, "base64", str(exc)[:120]) from exc
    if encoded(data) != text:
        raise EvidenceError(where, what, "base64 without unused bits in its last character", text[-8:])
    return data


__all__ = ["MOST_BYTES", "decimals", "decoded", "dumps", "encoded", "loads", "required_module", "utf8_text"]
