"""Whether a file could be a model's weights, by a look at its first bytes. Nothing in it is believed."""

from __future__ import annotations

import os
import stat

from uapfast.safeload.checkpoint import error_of
from uapfast.safeload.limits import Limits
from uapfast.safeload.recognise import HEAD, ReadBy, recognise
from uapfast.safeload.refusal import Refused
from uapfast.safeload.source import open_regular

ZIP_HEAD = 30  # bytes before the first member's name
MEMBERS = ("data.pkl", ".format_version", "version", "byteorder", "constants.pkl")
TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6, after the pickle's protocol


def looks_like_weights(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as safetensors do, or as what ``torch.save`` writes (both of its formats).

    A file that cannot be read, or that is no regular file, does not.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError):
        return False
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            return False
        head = os.read(handle, HEAD)
    except (OSError, ValueError):
        return False
    finally:
        os.close(handle)
    if head[:4] == b"PK\x03\x04":
        name = head[ZIP_HEAD : ZIP_HEAD + int.from_bytes(head[26:28], "little")]
        return name.decode("utf-8", "replace").rpartition("/")[2] in MEMBERS and b"/" in name
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= found.st_size - 8:
        return True
    return head[:1] == b"\x80" and head[2 : 2 + len(TORCH_MAGIC)] == TORCH_MAGIC


def reader_of(path: str | os.PathLike[str]) -> ReadBy:
    """Which reader takes a file, by its first bytes.

    Raises:
        WeightsFileError: none does, or there is no such file; what it is instead is named where it is known.
    """
    place = os.fsdecode(path)
    try:
        handle, size = open_regular(place, Limits())
        try:
            return recognise(handle, size, place)
        finally:
            os.close(handle)
    except Refused as exc:
        raise error_of(exc, place) from exc


__all__ = ["looks_like_weights", "reader_of"]
