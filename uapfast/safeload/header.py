"""The header of a safetensors file, checked more strictly than the format's own parser does.

Beyond it: no duplicate names (JSON keeps the last, so two readers may see two models), a bound on names
and header, no shape whose product overflows behind a zero, printable names, and only known keys.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uapfast.safeload.dtypes import DTYPES, KNOWN_REFUSED
from uapfast.safeload.limits import Limits
from uapfast.safeload.refusal import Refused, check_name, shown

KEYS = {"dtype", "shape", "data_offsets"}
WHOLE = "a whole safetensors file"
TAKEN = "uapfast.taken"  # metadata of what our worker writes: which of several maps of tensors it took


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        name: its key in the state dict.
        dtype: safetensors name, such as ``F32`` or ``BF16``.
        shape: sizes, outermost first; ``()`` for a scalar.
        nbytes: its size in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Header:
    """Tensors in the order of their bytes, where each begins in the file, and the file's free text."""

    tensors: Mapping[str, TensorInfo]
    begins: Mapping[str, int]
    metadata: Mapping[str, str]


def _corrupt(got: str, rule: str = WHOLE) -> Refused:
    return Refused("corrupt", rule, got)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json``: names and values as a dict; a name twice is refused."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise _corrupt(f"the name {shown(twice)} twice in the header", "a file that names everything once")
    return found


def no_constant(name: str) -> None:
    """For ``json``: NaN and infinity are refused."""
    raise _corrupt(f"{name} in the header")


def _integer(text: str) -> int:
    if text.startswith("-"):  # -0 would pass for 0; the format's own parser refuses it
        raise _corrupt(f"the number {shown(text)} in the header, where sizes are not negative")
    return int(text)


def parse_header(raw: bytes, data_bytes: int, limits: Limits) -> Header:
    """Check a header against the bytes that follow it.

    Args:
        raw: JSON text, the length field not included.
        data_bytes: size of what follows.
        limits: bounds.

    Raises:
        Refused: anything that is not exactly as the format has it.
    """
    if raw[:1] != b"{":
        raise _corrupt(f"a header that begins with {shown(raw[:4])}, not with an opening brace")
    if raw.count(b'"data_offsets"') > limits.tensors:  # before the parser spends its time
        raise _many(raw.count(b'"data_offsets"'), limits)
    try:
        table = json.loads(
            raw.decode("utf-8"), object_pairs_hook=once, parse_constant=no_constant, parse_int=_integer
        )
    except (ValueError, RecursionError) as exc:
        raise _corrupt(f"a header that is no JSON ({type(exc).__name__}: {shown(exc)})") from exc
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _corrupt("__metadata__ that is no map of text to text")
    if len(table) > limits.tensors:
        raise _many(len(table), limits)
    return _lay_out([_entry(name, entry, limits) for name, entry in table.items()], 8 + len(raw), data_bytes,
                    metadata, limits)  # fmt: skip


def _many(count: int, limits: Limits) -> Refused:
    return Refused("too large", f"a file of at most {limits.tensors} tensors", str(count))


def _integers(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**62 for n in value)


def _entry(name: str, entry: Any, limits: Limits) -> tuple[TensorInfo, int, int]:
    check_name(name, limits.name_chars)
    if not isinstance(entry, dict) or entry.keys() != KEYS:
        raise _corrupt(f"tensor {shown(name)} without exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        known = isinstance(dtype, str) and dtype in KNOWN_REFUSED
        why = f" ({KNOWN_REFUSED[dtype]})" if known else ""
        raise Refused("unsupported" if known else "corrupt", f"tensors of type {', '.join(DTYPES)}",
                      f"{shown(dtype)}{why} for {shown(name)}")  # fmt: skip
    if not _integers(shape) or not _integers(offsets) or len(offsets) != 2:
        raise _corrupt(f"a shape or offsets of tensor {shown(name)} that are not sizes")
    nbytes = byte_count(name, shape, DTYPES[dtype].size, limits)
    if offsets[1] - offsets[0] != nbytes:
        got = f"{offsets[1] - offsets[0]} bytes for tensor {shown(name)} of {nbytes}"
        raise _corrupt(got)
    return TensorInfo(name, dtype, tuple(shape), nbytes), offsets[0], offsets[1]


def byte_count(name: str, shape: list[int], size: int, limits: Limits) -> int:
    """Bytes of a tensor; a zero in the shape hides no absurd size beside it."""
    if len(shape) > limits.dimensions:
        rule = f"tensors of at most {limits.dimensions} dimensions"
        raise Refused("too large", rule, f"{len(shape)} for {shown(name)}")
    nbytes = span = size
    for n in shape:
        nbytes, span = nbytes * n, span * max(n, 1)
        if span > limits.tensor_bytes:
            rule = f"tensors of at most {limits.tensor_bytes} bytes"
            raise Refused("too large", rule, f"tensor {shown(name)} of shape {shown(shape)}")
    return nbytes


def _lay_out(
    entries: list[tuple[TensorInfo, int, int]],
    start: int,
    data_bytes: int,
    metadata: dict[str, str],
    limits: Limits,
) -> Header:
    """The tensors must cover the data from end to end: no hole to hide in, no overlap, no tail."""
    entries.sort(key=lambda e: (e[1], e[2]))
    at = 0
    for info, begin, end in entries:
        if begin != at:
            what = "a hole" if begin > at else "an overlap"
            raise _corrupt(f"{what} before tensor {shown(info.name)} at byte {begin}")
        at = end
        if at > data_bytes:
            raise _corrupt(f"{data_bytes} bytes of data for tensors of at least {at} (is it truncated?)")
    if at > limits.tensor_bytes:
        raise Refused("too large", f"a file of at most {limits.tensor_bytes} bytes of tensors", str(at))
    if at != data_bytes:
        raise _corrupt(f"{data_bytes - at} bytes after the last tensor")
    return Header(
        {info.name: info for info, _, _ in entries},
        {info.name: start + begin for info, begin, _ in entries},
        metadata,
    )
