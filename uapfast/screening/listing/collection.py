"""A folder of models as a list of suspects: hub folders, ONNX files, indexes of shards, weights files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from uapfast.errors import InputError
from uapfast.safeload.glance import looks_like_weights
from uapfast.safeload.sharded import is_index, shard_parts
from uapfast.screening.listing.entry import Defaults, Entry, printable
from uapfast.suspects import hub_files
from uapfast.suspects.onnx import is_onnx
from uapfast.suspects.resolve import FOLDER, ONNX, WEIGHTS

NAMED = 5  # skipped files that a summary names
# What a folder is searched for. Formats that are refused are listed too: a row that says so beats silence.
SUFFIXES = frozenset(
    ".safetensors .pt .pth .th .bin .ckpt .pt2 .ptl .torchscript .pkl .pickle .joblib .npz .npy .onnx .ort "
    ".h5 .hdf5 .keras .pb .tflite .gguf .mar .msgpack .pdparams .params .pte .mlmodel".split()
)
ONNX_SUFFIXES = (".onnx", ".ort")


@dataclass
class Skipped:
    """Files below a folder that are no suspects.

    Attributes:
        count: how many.
        names: the first ``NAMED`` of them, relative to the folder.
    """

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """One more."""
        self.count += 1
        if len(self.names) < NAMED:
            self.names.append(printable(name))

    def __str__(self) -> str:
        """``3 (a.txt, b.json, c.log)``."""
        more = ", ..." if self.count > len(self.names) else ""
        return f"{self.count} ({', '.join(self.names)}{more})" if self.count else "0"


def from_folder(
    folder: str | os.PathLike[str], defaults: Defaults | None = None, *, skipped: Skipped | None = None
) -> Iterator[Entry]:
    """Every model below a folder, by path.

    A folder that timm or transformers wrote is one suspect; each further weights file in it is one more. A
    model in several files is its index. Any other file is taken if its suffix is one of ``SUFFIXES`` or
    ``.pth.tar``, or if it begins as safetensors, torch's files or ONNX do. Links to folders are not followed;
    of a hub's cache the snapshots are taken, not the blobs that they link to.

    Args:
        folder: searched with all folders below.
        defaults: for all; without an ``arch`` weights files get a row that says so.
        skipped: told of every other file.

    Raises:
        InputError: no such folder, or nothing in it.
    """
    top = os.fspath(folder)
    if not os.path.isdir(top):
        raise InputError("screen", "--dir", "an existing folder", printable(top))
    count, skipped, defaults = 0, Skipped() if skipped is None else skipped, defaults or Defaults()
    for place, folders, files in os.walk(top, onerror=lambda exc: skipped.add(_below(exc.filename, top))):
        folders.sort()
        for link in (f for f in folders if os.path.islink(os.path.join(place, f))):
            skipped.add(_below(os.path.join(place, link), top))
        linked = _linked(place)
        for path, kind, key in _listed(place, sorted(file for file in files if file not in linked)):
            name = _below(path, top)
            if kind is None:
                skipped.add(name)
                continue
            count += 1
            shown = os.path.basename(os.path.abspath(top)) if name == "." else name
            yield defaults.entry(path, kind, f"{shown}/{key}" if key else shown, key)
    if not count:
        rule = f"a folder with models ({', '.join(sorted(SUFFIXES)[:6])}, ...)"
        raise InputError("screen", "--dir", rule, f"none in {printable(top)}, {skipped} other files")


def _below(path: object, top: str) -> str:
    return os.path.relpath(os.fsdecode(str(path)), top)


def _linked(place: str) -> set[str]:
    """Of the blobs of a hub's cache those that its snapshots link to, and are listed there."""
    cache = os.path.dirname(place)
    if os.path.basename(place) != "blobs" or not os.path.isdir(os.path.join(cache, "snapshots")):
        return set()
    found = set()
    for snapshot, _, files in os.walk(os.path.join(cache, "snapshots")):
        for file in files:
            path = os.path.join(snapshot, file)
            target = os.path.realpath(path)
            if os.path.islink(path) and os.path.dirname(target) == os.path.realpath(place):
                found.add(os.path.basename(target))
    return found


FoundModel = tuple[str, str | None, str | None]  # path, kind (None: no model), key


def _listed(place: str, files: list[str]) -> Iterator[FoundModel]:
    """What is in one folder."""
    found = hub_files.sets_of_weights(place)
    if found is None:
        yield from _in_folder(place, files)
    else:
        yield from _in_hub_folder(place, files, *found)


def _in_hub_folder(
    place: str, files: list[str], keys: list[str | None], read: set[str]
) -> Iterator[FoundModel]:
    """The folder itself, once for each of its sets of weights; ONNX files in it."""
    yield from ((place, FOLDER, key) for key in keys)
    for file in files:
        path = os.path.join(place, file)
        if _is_onnx(path):
            yield path, ONNX, None
        elif file not in read:
            yield path, WEIGHTS if _is_model(path) and not hub_files.is_training_state(file) else None, None


def _in_folder(place: str, files: list[str]) -> Iterator[FoundModel]:
    indexes = [file for file in files if is_index(file)]
    names = {part for file in indexes for part in shard_parts(os.path.join(place, file))}
    for file in files:
        path = os.path.join(place, file)
        if file in indexes:
            yield path, WEIGHTS, None
        elif _is_onnx(path):
            yield path, ONNX, None
        elif file not in names:
            yield path, WEIGHTS if _is_model(path) else None, None


def _is_onnx(path: str) -> bool:
    return path.lower().endswith(ONNX_SUFFIXES) or is_onnx(path)


def _is_model(path: str) -> bool:
    name = path.lower()
    known = os.path.splitext(name)[1] in SUFFIXES or name.endswith((".pth.tar", ".pt.tar"))
    return known or looks_like_weights(path)


__all__ = ["SUFFIXES", "Skipped", "from_folder"]
