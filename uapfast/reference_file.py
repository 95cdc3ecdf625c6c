"""The reference's file and its rows.

One ``.safetensors`` file with a JSON object and a SHA-256 in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from uapfast.errors import ReferenceFileError
from uapfast.files import open_plain
from uapfast.method.lineage import Roster

FORMAT = 6
KEY = "uapref"
MAX_HEADER = 16_000_000


@dataclass(frozen=True)
class Record:
    """One model of the pool as the reference remembers it (``relation`` as in a manifest).

    ``counted`` is False for a homologous model that is a variant of another one: it is recorded, and no
    innocent of its own. ``parent`` is the model that the owner says it was made from.
    """

    name: str
    relation: str
    candidate: str | None
    kind: str
    sha256: str | None
    trains_encoder: bool = False
    parent: str | None = None
    counted: bool = True


def make_roster(records: tuple[Record, ...]) -> Roster:
    """Rows by role. Only surrogate kinds that every candidate has, once each, are templates."""
    rows = {
        r: [i for i, x in enumerate(records) if x.relation == r and x.counted]
        for r in ("victim", "twin", "homologous")
    }
    candidates = rows["victim"] + rows["twin"]
    names = [records[i].name for i in candidates]
    table: dict[str, dict[str, int]] = {}
    for i, record in enumerate(records):
        if record.relation == "piracy" and record.candidate in names:
            table.setdefault(record.kind, {}).setdefault(str(record.candidate), i)
    full = [[found[n] for n in names] for _, found in sorted(table.items()) if len(found) == len(names)]
    surrogates = np.array(full, dtype=np.int64).reshape(len(full), len(names))
    return Roster(
        np.array(candidates, dtype=np.int64), np.array(rows["homologous"], dtype=np.int64), surrogates
    )


def content_sha256(tensors: dict[str, Tensor], header: dict[str, Any]) -> str:
    """SHA-256 over the header and every tensor's name, dtype, shape and bytes."""
    h = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        h.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        h.update(tensor.contiguous().numpy().tobytes())
    return h.hexdigest()


def reference_bytes(tensors: dict[str, Tensor], header: dict[str, Any], sha256: str) -> bytes:
    """The content of a file with its :func:`content_sha256`."""
    stamped = json.dumps(header | {"sha256": sha256}, sort_keys=True)
    return safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, {KEY: stamped})


def bad_reference(path: object, rule: str, got: object) -> ReferenceFileError:
    """The error of a reference that cannot be read."""
    return ReferenceFileError("load", "reference", rule, f"{got} ({path})")


def _header(stream: BinaryIO, size: int, path: object) -> dict[str, Any]:
    """The JSON object in the metadata, before any tensor is read."""
    try:
        length = struct.unpack("<Q", stream.read(8))[0]
        raw = stream.read(length) if length <= min(MAX_HEADER, size) else b""
        header = json.loads(json.loads(raw)["__metadata__"][KEY])
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as exc:
        rule = "a whole file written by uapfast generate"
        raise bad_reference(path, rule, "a damaged, truncated or foreign one") from exc
    if not isinstance(header, dict) or type(header.get("format")) is not int or header["format"] != FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise bad_reference(
            path, f"of format version {FORMAT} (make it anew with this uapfast)", f"version {found}"
        )
    return header


def parse_reference(
    stream: BinaryIO, size: int, path: object
) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Tensors, header and :func:`content_sha256` of a whole content.

    Args:
        stream: at its begin, and seekable.
        size: bytes of it.
        path: for messages.

    Raises:
        OSError: it cannot be read.
        ReferenceFileError: damaged, truncated, or of another version.
    """
    header = _header(stream, size, path)
    stream.seek(0)
    raw = stream.read()
    try:
        tensors = safetensors.torch.load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, RuntimeError) as exc:
        raise bad_reference(path, "whole", "a damaged or truncated one") from exc
    claimed, found = header.pop("sha256", None), content_sha256(tensors, header)
    if found != claimed:
        raise bad_reference(path, "unchanged since it was written", "content that does not match its SHA-256")
    return tensors, header, found


def read_reference_file(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """The same of a file.

    Raises:
        ReferenceFileError: missing, damaged, truncated, or of another version.
    """
    try:
        with open_plain(path) as stream:
            return parse_reference(stream, os.fstat(stream.fileno()).st_size, path)
    except FileNotFoundError as exc:
        raise bad_reference(path, "an existing file", "none") from exc
    except OSError as exc:
        raise bad_reference(path, "a readable file", exc.strerror or exc) from exc
