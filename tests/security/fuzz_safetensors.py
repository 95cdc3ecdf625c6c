"""Fuzz driver: the header of a safetensors file; what we accept, the format's own parser accepts as well."""

from __future__ import annotations

import json
import struct

import safetensors

from tests.security import fuzzing
from tests.security.fuzzing import Refused, header

LIMITS = fuzzing.SMALL


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SEEDS = [
    struct.pack("<Q", len(text)) + text + b"\0" * size
    for size, text in (
        (0, b"{}"),
        (4, json.dumps({"a": entry("F32", [1], 0, 4)}).encode()),
        (22, json.dumps({"__metadata__": {"format": "pt"}, "a.b": entry("BF16", [2, 3], 0, 12),
                         "c": entry("I64", [], 12, 20), "d": entry("BOOL", [2, 1], 20, 22)}).encode()),
    )
]  # fmt: skip


def one(data: bytes) -> None:
    """Parse; and compare with the format's parser where we say yes."""
    if len(data) < 8:
        return
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        length = len(data) - 8  # as if it had been right, or mutation would hardly get further
    raw, rest = data[8 : 8 + length], data[8 + length :]
    try:
        found = header.parse_header(raw, len(rest), LIMITS)
    except Refused as exc:
        assert exc.rule and exc.got.isprintable()
        return
    assert sum(t.nbytes for t in found.tensors.values()) == len(rest)
    theirs = dict(safetensors.deserialize(struct.pack("<Q", length) + raw + rest))
    assert theirs.keys() == found.tensors.keys()
    for name, info in found.tensors.items():
        assert tuple(theirs[name]["shape"]) == info.shape and len(theirs[name]["data"]) == info.nbytes


if __name__ == "__main__":
    fuzzing.main(one, SEEDS)
