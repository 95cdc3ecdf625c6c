"""A model in several files beside an index, as transformers, timm and the hub keep large ones.

The index is JSON: ``weight_map`` from tensors to plain file names in its own folder. No other file is opened:
no path, no link out of the folder (but into ``blobs`` of a hub's cache, where snapshots keep their files). A
tensor that is missing, in two shards, or in no map is an error, so that index and shards have one reading.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from uapfast.safeload import source
from uapfast.safeload.checkpoint import Checkpoint
from uapfast.safeload.choose import asked, part_under, under
from uapfast.safeload.header import Header, TensorInfo, no_constant, once
from uapfast.safeload.limits import Limits
from uapfast.safeload.refusal import Refused, check_name, shown

ENDING = ".index.json"
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
MOST = 128  # shards
PART = re.compile(r"-(\d{5})-of-(\d{5})\.(?:safetensors|bin|pt|pth)$")
WHOLE = "an index and shards that agree"
PLAIN = f"an index that names files in its own folder ({', '.join(SUFFIXES)})"


def is_index(path: str) -> bool:
    """Whether a file is read as an index: by its name alone."""
    return path.lower().endswith(ENDING)


def part_of(path: str) -> tuple[int, int] | None:
    """``(2, 3)`` for a file that is called the second of three parts, else None: by its name alone."""
    found = PART.search(os.path.basename(path))
    if found is None or int(found[2]) < 2:
        return None
    return int(found[1]), int(found[2])


class ShardIndex:
    """What an index says, and which tensors were met so far.

    Attributes:
        shards: file names, in order.
    """

    def __init__(self, weight_map: Mapping[str, str]) -> None:
        self._map = weight_map
        self.shards = sorted(set(weight_map.values()))
        self._bytes = 0

    def check(self, shard: str, tensors: Mapping[str, TensorInfo], limits: Limits) -> None:
        """A shard must hold what the index says, and all together no more than one file may.

        Raises:
            Refused: it does not.
        """
        for name in tensors:
            meant = self._map.get(name)
            if meant != shard:
                why = "in no map" if meant is None else f"which the index has in {shown(meant, 80)}"
                raise Refused("corrupt", WHOLE, f"tensor {shown(name)} of {shown(shard, 80)}, {why}")
        missing = [name for name, place in self._map.items() if place == shard and name not in tensors]
        if missing:
            got = f"no tensor {shown(missing[0])} in {shown(shard, 80)} ({len(missing)} missing)"
            raise Refused("corrupt", WHOLE, got)
        self._bytes += sum(info.nbytes for info in tensors.values())
        if self._bytes > limits.tensor_bytes:
            rule = f"shards of at most {limits.tensor_bytes} bytes of tensors in all"
            raise Refused("too large", rule, "more")


def read_index(path: str, limits: Limits) -> ShardIndex:
    """Read an index; nothing that it names is opened.

    Raises:
        Refused: missing, no such JSON, names that are no plain file names, too many shards or tensors.
    """
    handle, size = source.open_regular(path, limits)
    try:
        if size > limits.header_bytes:
            raise Refused("too large", f"an index of at most {limits.header_bytes} bytes", str(size))
        raw = source.read_bytes(handle, 0, size)
    finally:
        os.close(handle)
    try:
        table: Any = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_constant=no_constant)
    except (ValueError, RecursionError) as exc:
        got = f"an index that is no JSON ({type(exc).__name__}: {shown(exc)})"
        raise Refused("corrupt", WHOLE, got) from exc
    found = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(found, dict) or not found:
        raise Refused("corrupt", "an index with a weight_map from tensors to files", "none")
    if len(found) > limits.tensors:
        raise Refused("too large", f"an index of at most {limits.tensors} tensors", str(len(found)))
    for name, shard in found.items():
        check_name(name, limits.name_chars)
        if not _plain(shard):
            raise Refused("unsafe", PLAIN, f"{shown(shard)} for tensor {shown(name)}")
    if len(set(found.values())) > MOST:
        raise Refused("too large", f"an index of at most {MOST} shards", str(len(set(found.values()))))
    return ShardIndex(found)


def _plain(name: object) -> bool:
    return (
        isinstance(name, str)
        and 0 < len(name) <= 255
        and name.isprintable()
        and not name.startswith(".")
        and "/" not in name
        and "\\" not in name
        and name.lower().endswith(SUFFIXES)
    )


def shard_path(index: str, shard: str) -> tuple[str, int]:
    """Path and size of a shard beside its index.

    Raises:
        Refused: missing, or a link to another place.
    """
    folder = os.path.dirname(os.path.abspath(index))
    path, home = os.path.join(folder, shard), os.path.realpath(folder)
    place = os.path.dirname(os.path.realpath(path))
    above, last = os.path.split(os.path.dirname(home))
    blobs = os.path.join(above, "blobs") if last == "snapshots" else home
    if place not in (home, blobs):
        raise Refused("unsafe", PLAIN, f"a link out of it, {shown(shard, 80)}")
    try:
        return path, os.stat(path).st_size
    except OSError as exc:
        missing = isinstance(exc, FileNotFoundError)
        got = f"{'no' if missing else 'an unreadable'} shard {shown(shard, 80)}"
        raise Refused("corrupt", "an index with all of its shards beside it", got) from exc


def shards_of(path: str) -> list[str]:
    """Files that are read with ``path``: the shards of an index that can be read; none for other files."""
    if not is_index(path):
        return []
    try:
        return [shard_path(path, shard)[0] for shard in read_index(path, Limits()).shards]
    except Refused:
        return []


def shard_parts(index: str) -> set[str]:
    """Of the files that an index names those that are called parts of a whole; no other can hide there."""
    return {name for path in shards_of(index) if part_of(name := os.path.basename(path)) is not None}


class Sharded(Checkpoint):
    """Shards that were opened, read as one file; ``header.begins`` are places in the shard of each tensor.

    Args:
        path: of the index.
        parts: its shards by name.
        key: the beginning of the names that are taken; all of them if None.

    Raises:
        Refused: no name begins so.
    """

    def __init__(self, path: str, parts: Mapping[str, Checkpoint], key: str | None = None) -> None:
        self._parts = tuple(parts.values())
        of = {name: part for part in self._parts for name in part.tensors}
        header = Header(
            {name: part.header.tensors[name] for name, part in of.items()},
            {name: part.header.begins[name] for name, part in of.items()},
            {k: v for part in self._parts for k, v in part.metadata.items()},
        )
        self._of, self._renamed = of, key is not None
        if key is not None:
            header = part_under(header, key)
            self._of = {name: of[source] for name, source in under(of, key).items()}
        tier = "+".join(dict.fromkeys(part.tier for part in self._parts))
        super().__init__(path, "sharded", None, header, tier)
        self.metadata = header.metadata
        said = dict.fromkeys(note for part in self._parts for note in part.notes)
        self.notes = (*said, *([] if key is None else [asked(key)]))

    def close(self) -> None:
        """Close all shards."""
        for part in getattr(self, "_parts", ()):
            part.close()

    def _read(self, info: TensorInfo, view: memoryview, offset: int) -> None:
        self._of[info.name]._read(info, view, offset)

    def _read_run(self, run: list[tuple[str, memoryview]]) -> None:
        if self._renamed:  # the parts know these tensors by other names
            for name, view in run:
                self._read(self.tensors[name], view, self.header.begins[name])
            return
        for part in self._parts:
            own = [(name, view) for name, view in run if self._of[name] is part]
            if own:
                part._read_run(own)


__all__ = [
    "ShardIndex",
    "Sharded",
    "is_index",
    "part_of",
    "read_index",
    "shard_parts",
    "shard_path",
    "shards_of",
]
