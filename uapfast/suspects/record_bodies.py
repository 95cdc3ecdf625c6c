"""The bodies of an endpoint's responses, as its record keeps them."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Mapping
from typing import Any

HEADERS = ("content-type", "inference-header-content-length")  # of a response, as far as reading needs them
PLAIN = 4096  # bytes; larger bodies are compressed
MOST_BODY = 48 << 20  # bytes of one; of larger ones only the rows are kept
MOST_LINE = 65 << 20  # bytes of its line: compressed, in base64
KEPT = ("body", "base64", "gzip", "withheld")
MOST_ALL, MOST_TIMES = 1 << 30, 20  # bytes of all bodies, and how many times as many as the record has
SECRET, LARGE = "it repeats a secret", f"it has more than {MOST_BODY} bytes"
MANY = f"all of them have more than {MOST_ALL} bytes, and {MOST_TIMES} times those of the record"


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of a response that its record keeps."""
    return {name: headers[name] for name in HEADERS if name in headers}


def fits(bodies: int, size: int) -> bool:
    """Whether a record of so many bytes may hold so many bytes of bodies: whoever reads it unpacks them."""
    return bodies <= MOST_ALL + MOST_TIMES * size


def encode_body(body: bytes | None) -> dict[str, str]:
    """A body as a record has it: text as it is, other bytes in base64, large ones compressed.

    Args:
        body: None for one that may not be kept.
    """
    if body is None or len(body) > MOST_BODY:
        return {"withheld": SECRET if body is None else LARGE}
    if len(body) > PLAIN:
        return {"gzip": base64.b64encode(gzip.compress(body, 6, mtime=0)).decode("ascii")}
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode("ascii")}


def decode_body(told: Mapping[str, Any]) -> bytes | None:
    """The body that :func:`encode_body` was given; None for one that was not kept.

    Raises:
        ValueError: nothing that it makes, or more than it takes.
    """
    (name,) = [name for name in KEPT if name in told]
    text = told[name]
    if not isinstance(text, str):
        raise ValueError(f"{type(text).__name__} for a body")
    if name == "withheld":
        return None
    if name == "body":
        return text.encode("utf-8")
    data = base64.b64decode(text, validate=True)
    if name == "base64":
        return data
    stream = zlib.decompressobj(wbits=31)
    body = stream.decompress(data, MOST_BODY + 1)
    if len(body) > MOST_BODY or not stream.eof or stream.unused_data:
        raise ValueError(f"no whole gzip of at most {MOST_BODY} bytes")
    return body


__all__ = ["KEPT", "MANY", "MOST_LINE", "decode_body", "encode_body", "fits", "kept_headers"]
