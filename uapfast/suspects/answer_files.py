"""Files of recorded answers: npz, CSV, Parquet, JSON lines. From others: read within bounds, never run."""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import InputError
from uapfast.files import open_plain
from uapfast.models.labels import ClassNames, some
from uapfast.safeload.limits import Limits
from uapfast.safeload.refusal import Refused
from uapfast.safeload.ziparchive import Archive
from uapfast.suspects import answer_tables as tables

SAID = {"npz": "npz", "parquet": "Parquet", "json": "JSON lines", "csv": "CSV"}
# What files of these names are held to be; others may be anything.
NAMED = {
    ".npz": ("npz",), ".parquet": ("parquet",), ".json": ("json",), ".jsonl": ("json",), ".csv": ("csv",),
    ".txt": ("csv", "json"),
}  # fmt: skip
KEYS = ("logits", "probabilities", "labels")
MOST_HEADER = 10_000  # of an array in an npz
NAME_BYTES = 4096  # of one label
FREE_BYTES = 16 << 20  # a file may have this, whatever the number of queries


@dataclass(frozen=True)
class AnswerBounds:
    """What a file may hold for so many queries.

    Attributes:
        rows: answers.
        width: classes.
        columns: of a table.
        bytes: of the file, and of one array.
    """

    rows: int
    width: int
    columns: int
    bytes: int

    @classmethod
    def of(cls, queries: int, width: int) -> AnswerBounds:
        """For so many queries; more rows are read than that, so that double and foreign ids can be named."""
        rows = 2 * queries + 1000
        return cls(rows, width, 2 * width + 64, FREE_BYTES + rows * (64 * width + NAME_BYTES))


@dataclass(frozen=True)
class FileAnswers:
    """Answers as a file has them.

    Attributes:
        ids: int64 ``[N]``.
        values: float32 ``[N,K]`` or int64 labels ``[N]``.
        output: what they are, or ``auto``.
        notes: what a reader of the verdict has to know.
    """

    ids: NDArray[np.int64]
    values: Tensor
    output: str
    notes: tuple[str, ...] = ()


def read_answer_file(
    path: str | os.PathLike[str], where: str, bounds: AnswerBounds, names: ClassNames | None, output: str
) -> FileAnswers:
    """Read a file, its kind told by its content; see :func:`uapfast.suspects.recorded.open_recorded`."""
    file = Path(path)
    try:
        with open_plain(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(16).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as exc:
        said = f"{exc.strerror or exc} ({file})"
        raise InputError(where, "file", "an existing one that can be read", said) from exc
    if size > bounds.bytes:
        raise InputError(where, "file", f"of at most {bounds.bytes} bytes for these queries", size)
    kind = _kind(start)
    if kind == "npz":
        found = _npz(file, size, where, bounds, names, output)
    else:
        columns = tables.read_columns(file, kind, where, bounds.rows, bounds.columns)
        read_all = functools.partial(tables.answers, columns, where, bounds.width, names, output)
        found = FileAnswers(*tables.guarded(read_all, kind, where))
    if not len(found.ids):
        raise InputError(where, "file", "a file with answers", "no rows")
    named = file.suffix.lower()
    if named in NAMED and kind not in NAMED[named]:
        found = replace(
            found, notes=(*found.notes, f"{where} was read as {SAID[kind]}, which it is by content")
        )
    return found


def _kind(start: bytes) -> str:
    """What a file is, by its first bytes."""
    if start[:2] == b"PK":
        return "npz"
    return "parquet" if start[:4] == b"PAR1" else "json" if start[:1] == b"{" else "csv"


# -- npz -------------------------------------------------------------------------------------------
def _npz(
    file: Path, size: int, where: str, bounds: AnswerBounds, names: ClassNames | None, output: str
) -> FileAnswers:
    try:
        with open_plain(file) as stream:
            archive = Archive(stream.fileno(), size, Limits(header_bytes=1 << 20, tensors=1000))
            ids = _array(archive, "id", where, bounds)
            present = [key for key in KEYS if f"{key}.npy" in archive.records]
            key = _chosen(present, output, where)
            values = _array(archive, key, where, bounds)
    except Refused as exc:
        raise InputError(where, "file", f"{exc.rule} (write it by numpy.savez)", exc.got) from None
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(where, "id", "[N] integers", f"{list(ids.shape)} {ids.dtype}")
    if len(ids) > bounds.rows:
        raise InputError(where, "id", f"at most {bounds.rows}, for these queries", len(ids))
    if ids.dtype.kind == "u" and len(ids) and int(ids.max()) >= 2**63:
        raise InputError(where, "id", "below 2^63", int(ids.max()))
    if values.ndim != (1 if key == "labels" else 2) or len(values) != len(ids):
        shape = f"[{len(ids)}]" if key == "labels" else f"[{len(ids)},K]"
        raise InputError(where, key, f"{shape}, as id has it", list(values.shape))
    said = output if output != "auto" else key
    return FileAnswers(ids.astype(np.int64), _numbers(values, key, where, bounds, names), said)


def _chosen(present: list[str], output: str, where: str) -> str:
    """Which array is read."""
    if output in present:
        return output
    if output == "labels" and len(present) == 1:
        return present[0]
    if output != "auto" or len(present) != 1:
        rule = f"with id and one of {', '.join(KEYS)} (or say by output= which)"
        asked = "" if output == "auto" else f", where {output} are asked for"
        raise InputError(where, "npz", rule, f"{' and '.join(present) or 'none'}{asked}")
    return present[0]


def _array(archive: Archive, key: str, where: str, bounds: AnswerBounds) -> NDArray[Any]:
    """One array, read only if its header fits its bytes and both the bounds."""
    record = archive.records.get(f"{key}.npy")
    if record is None:
        raise InputError(where, "npz", f"a file with an array {key}", some(archive.records) or "none")
    if record.size > bounds.bytes:
        raise InputError(where, key, f"of at most {bounds.bytes} bytes", record.size)
    stream = io.BytesIO(archive.read(record))
    try:
        version = np.lib.format.read_magic(stream)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = headers[version](stream, max_header_size=MOST_HEADER)
    except (ValueError, KeyError, RecursionError, MemoryError, OverflowError, TypeError) as exc:
        raise InputError(where, key, "an array in NumPy's format", str(exc)[:200]) from exc
    body = stream.getbuffer()[stream.tell() :]
    if dtype.kind not in "iufUSb" or math.prod(shape) * dtype.itemsize != len(body) or not dtype.itemsize:
        raise InputError(where, key, "a whole array of numbers (or text)", f"{list(shape)[:8]} {dtype}")
    flat = np.frombuffer(body, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _numbers(v: NDArray[Any], key: str, where: str, bounds: AnswerBounds, names: ClassNames | None) -> Tensor:
    if key != "labels":
        if v.dtype.kind not in "iuf" or v.shape[1] < 2 or (names is not None and v.shape[1] != len(names)):
            rule = f"numbers [N,{'K' if names is None else len(names)}]"
            raise InputError(where, key, rule, f"{list(v.shape)} {v.dtype}")
        with np.errstate(over="ignore"):  # infinity is refused later, with all other kinds of suspects
            return torch.from_numpy(np.ascontiguousarray(v, np.float32))
    if v.dtype.kind == "f" or v.dtype.kind == "b":
        raise InputError(where, key, "integers, or names of classes", v.dtype)
    texts, places = np.unique(v, return_inverse=True)
    known = [tables.label(text, where, bounds.width, names) for text in _plain(texts)]
    return torch.tensor(known, dtype=torch.int64)[torch.from_numpy(places.reshape(-1))]


def _plain(values: NDArray[Any]) -> Iterator[int | str]:
    for value in values.tolist():
        yield value.decode("utf-8", "replace") if isinstance(value, bytes) else value


__all__ = ["AnswerBounds", "FileAnswers", "read_answer_file"]
