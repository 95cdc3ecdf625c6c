"""Files of a folder as hubs lay them out: its configuration, and its weights, in one file or in parts.

Nothing in the folder is run or believed. Links are followed in one place alone: the cache of a hub, whose
``snapshots/REVISION/NAME`` are links to ``../../blobs/DIGEST``.
"""

from __future__ import annotations

import json
import os
import re
import stat
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from uapfast.errors import ModelError
from uapfast.safeload.recognise import as_onnx
from uapfast.safeload.refusal import shown
from uapfast.safeload.sharded import is_index, part_of, shard_parts
from uapfast.safeload.sharded import shards_of as parts_beside

CONFIG, PREPROCESSOR, ADAPTER = "config.json", "preprocessor_config.json", "adapter_config.json"
MOST_JSON = 8 << 20  # bytes; 21,841 classes with their names twice take 2 MB
MOST_NAMES = 10_000  # files of a folder
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
USUAL = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
NAMED = (*SUFFIXES, ".safetensors.index.json", ".bin.index.json")
# What lies beside a model and is none.
OTHERS = (
    "training_args.bin",
    "optimizer.*",
    "scheduler.*",
    "scaler.*",
    "rng_state*.pth",
    "adapter_*",
    "trainer_state.*",
)
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def bad_hub(argument: str, rule: str, got: object) -> ModelError:
    """The error for something that is wrong with a folder."""
    return ModelError("folder", argument, rule, shown(got, 200))


def hub_folder(path: str | os.PathLike[str]) -> Path:
    """The folder that holds ``config.json``: ``path`` itself, or the one snapshot of a hub's cache.

    Raises:
        ModelError: no folder, no configuration in it, or several snapshots.
    """
    folder = Path(path)
    try:
        if not folder.is_dir():
            raise bad_hub("path", "an existing folder", folder)
        if (folder / "snapshots").is_dir() and not os.path.lexists(folder / CONFIG):
            found = sorted(p for p in (folder / "snapshots").iterdir() if p.is_dir() and not p.is_symlink())
            if len(found) != 1:
                names = ", ".join(p.name for p in found[:4])
                raise bad_hub("path", "a folder of one snapshot (name that of snapshots/)", names or "none")
            folder = found[0]
    except (OSError, ValueError) as exc:  # a NUL in the name
        raise bad_hub("path", "a folder that can be read", f"{folder} ({exc})") from exc
    if not os.path.lexists(folder / CONFIG):
        rule = f"a folder with a {CONFIG} in it"
        got = f"{folder} (several models in it: uapfast screen --dir)"
        if os.path.lexists(folder / "saved_model.pb"):
            rule, got = as_onnx("tensorflow", rule), f"a TensorFlow SavedModel ({folder})"
        raise bad_hub("path", rule, got)
    return folder


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder whose weights are not its network: transformers would put an adapter on top of them."""
    if ADAPTER in names_in(folder):
        rule = f"without {ADAPTER} (merge it into the weights where it was made: peft, merge_and_unload)"
        raise bad_hub("folder", rule, folder)


def file_in(folder: Path, name: str) -> Path:
    """A file of a folder, its link into a hub's cache followed.

    Args:
        folder: as :func:`hub_folder` gives it.
        name: a plain name.

    Returns:
        The path of a regular file that is no link.

    Raises:
        ModelError: no plain name, no such file, or a link to anywhere else.
    """
    if not PLAIN.fullmatch(name):
        raise bad_hub("file", "a plain name inside the folder", name)
    path = folder / name
    try:
        if path.is_symlink():
            path = _blob(folder, path)
        status = os.lstat(path)
    except (OSError, ValueError) as exc:
        raise bad_hub(name, "a file of the folder", f"none ({getattr(exc, 'strerror', exc)})") from exc
    if not stat.S_ISREG(status.st_mode):
        raise bad_hub(name, "a regular file, or a link of a hub's cache to one", "something else")
    return path


def _blob(folder: Path, link: Path) -> Path:
    """Where a link of ``snapshots/REVISION`` leads; blobs are plain files with plain names."""
    target = os.readlink(link)
    parts = target.split("/")
    in_cache = folder.resolve().parent.name == "snapshots"
    if not (in_cache and parts[:-1] == ["..", "..", "blobs"] and PLAIN.fullmatch(parts[-1])):
        raise bad_hub(
            link.name, "a file, or a link to ../../blobs/NAME as in a hub's cache", f"a link to {target}"
        )
    blobs = folder.resolve().parent.parent / "blobs"
    if blobs.is_symlink():
        raise bad_hub(link.name, "a link into a folder blobs that is none itself", "a link")
    return blobs / parts[-1]


def names_in(folder: Path) -> list[str]:
    """Names of a folder's entries, sorted.

    Raises:
        ModelError: it cannot be read, or holds more than ``MOST_NAMES``.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                found.append(entry.name)
                if len(found) > MOST_NAMES:
                    raise bad_hub("path", f"a folder of at most {MOST_NAMES} files", folder)
    except OSError as exc:
        raise bad_hub("path", "a folder that can be read", f"{folder} ({exc.strerror})") from exc
    return sorted(found)


def is_training_state(name: str) -> bool:
    """Whether a file lies beside a model and holds none: the state of its training."""
    return any(fnmatchcase(name, pattern) for pattern in OTHERS)


def weights_in(folder: Path, named: object = None) -> Path:
    """The one weights file of a folder, or the index of weights in several.

    Args:
        folder: as :func:`hub_folder` gives it.
        named: what the configuration says (``transformers_weights``), if anything.

    Returns:
        A regular file that is no link; an index by its own name, beside whose parts it lies.

    Raises:
        ModelError: none, several of which no name is the usual one, or parts without their index.
    """
    names = names_in(folder)
    if named is not None:
        if not isinstance(named, str) or not named.endswith(NAMED) or is_training_state(named):
            raise bad_hub(f"{CONFIG}: transformers_weights", "the plain name of a weights file", named)
        return _indexed(folder, named) if is_index(named) else file_in(folder, named)
    for name in USUAL:
        if name in names:
            return file_in(folder, name)
    indexes = [n for n in INDEXES if n in names] or [n for n in names if n.endswith(NAMED[-2:])]
    if indexes and (len(indexes) == 1 or indexes[0] in INDEXES):
        return _indexed(folder, indexes[0])
    found = indexes or [n for n in names if n.endswith(SUFFIXES) and not is_training_state(n)]
    parts = [n for n in found if part_of(n) is not None]
    if parts:
        raise bad_hub(
            "path", f"a folder with the index of its parts ({INDEXES[0]})", f"{parts[0]} without it"
        )
    if len(found) != 1:
        got = f"{len(found)}: {', '.join(found[:4])}" if found else "none"
        raise bad_hub(
            "path", f"a folder of one weights file, or one called {' or '.join(USUAL[:1] + USUAL[2:])}", got
        )
    return file_in(folder, found[0])


def _indexed(folder: Path, name: str) -> Path:
    """An index, itself and its parts found to be files of the folder; what it says is read by its reader."""
    file_in(folder, name)
    for part in parts_beside(str(folder / name)):
        file_in(folder, os.path.basename(part))
    return folder / name


def weights_beside(folder: Path, taken: Path) -> list[str]:
    """Names of weights files that lie beside the one that was taken."""
    own = {os.path.realpath(path) for path in (str(taken), *parts_beside(str(taken)))}
    return [
        name
        for name in names_in(folder)
        if name.endswith(SUFFIXES)
        and not is_training_state(name)
        and os.path.realpath(folder / name) not in own
    ]


def sets_of_weights(path: str | os.PathLike[str]) -> tuple[list[str | None], set[str]] | None:
    """The sets of weights of a hub folder, and the names of all files that belong to one or describe them.

    Each is the name of a file or of an index; None stands for the one that :func:`weights_in` takes. Of the
    files that an index names those are its parts that are called so.

    Returns:
        None for a folder whose configuration names no network, as that of timm and transformers does.
    """
    folder = Path(path)
    if not os.path.lexists(folder / CONFIG):
        return None
    try:
        config = read_json(folder, CONFIG)
    except ModelError:
        return None
    if not (isinstance(config.get("architecture"), str) or isinstance(config.get("architectures"), list)):
        return None
    try:
        names = [n for n in names_in(folder) if not is_training_state(n)]
    except ModelError:  # whoever opens it is told
        return [None], set()
    index = [n for n in names if n.endswith(NAMED[-2:])]
    parts = {part for n in index for part in shard_parts(os.path.join(folder, n))}
    sets = [*index, *(n for n in names if n.endswith(SUFFIXES) and n not in parts)]
    try:
        taken = os.path.realpath(weights_in(folder, config.get("transformers_weights")))
        keys: list[str | None] = [None, *(n for n in sets if os.path.realpath(folder / n) != taken)]
    except ModelError:
        keys = [*sets] or [None]
    return keys, {*sets, *parts, CONFIG, PREPROCESSOR}


def files_of(path: str | os.PathLike[str]) -> list[str]:
    """Every file that a hub folder, or the cache of a hub, may be read from."""
    try:
        folder = hub_folder(path)
        names = names_in(folder)
    except ModelError:
        return []
    return [path for name in names if os.path.isfile(path := os.path.join(folder, name))]


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of a folder, with nothing in it that two readers could read differently.

    Raises:
        ModelError: no such file, too large, no JSON object, a name twice, NaN or infinity.
    """
    path = file_in(folder, name)
    try:
        with open(path, "rb") as stream:
            raw = stream.read(MOST_JSON + 1)
    except OSError as exc:
        raise bad_hub(name, "a file that can be read", exc.strerror) from exc
    if len(raw) > MOST_JSON:
        raise bad_hub(name, f"a file of at most {MOST_JSON} bytes", f"{path.stat().st_size}")
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise bad_hub(name, "a JSON object", f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(found, dict):
        raise bad_hub(name, "a JSON object", f"a {type(found).__name__}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in it")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} stands in it")


__all__ = [
    "CONFIG",
    "PREPROCESSOR",
    "bad_hub",
    "file_in",
    "files_of",
    "hub_folder",
    "is_training_state",
    "names_in",
    "refuse_adapter",
    "read_json",
    "sets_of_weights",
    "weights_beside",
    "weights_in",
]
