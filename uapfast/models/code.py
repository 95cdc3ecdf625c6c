"""What an architecture executes, as one hash: its file, what that imports from beside itself, packages.

Imports are read from the source and followed, those inside functions included; nothing is executed. A file
that imports in ways that cannot be read (``importlib``, ``exec``, a changed ``sys.path``) is taken to need
every module that lies beside it or below. Files that are read as data do not count.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from importlib import metadata
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import NamedTuple

DYNAMIC = frozenset(
    "__import__ exec import_module exec_module load_module spec_from_file_location SourceFileLoader "
    "run_path run_module addsitedir find_spec".split()
)
FOREIGN = ("__pycache__", "site-packages", "node_modules")  # folders below that hold no neighbours


class _Imports(NamedTuple):
    """``named``: level, module and names of each import; ``hidden``: there may be more."""

    named: tuple[tuple[int, str, tuple[str, ...]], ...]
    hidden: bool


class Source(NamedTuple):
    """The files that a file executes, with their bytes, and the top-level names imported from elsewhere."""

    files: dict[Path, bytes]
    elsewhere: frozenset[str]


@lru_cache(maxsize=512)
def _imports(text: bytes) -> _Imports:
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # it will not run either
        return _Imports((), False)
    named: list[tuple[int, str, tuple[str, ...]]] = []
    hidden = False
    for node in nodes:
        if isinstance(node, ast.Import):
            named += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            named.append((node.level, node.module or "", names))
            hidden |= bool(DYNAMIC & set(names)) or (node.module == "sys" and "path" in names)
        elif isinstance(node, ast.Name):
            hidden |= node.id in DYNAMIC
        elif isinstance(node, ast.Attribute):
            of_sys = node.attr == "path" and isinstance(node.value, ast.Name) and node.value.id == "sys"
            hidden |= of_sys or node.attr in DYNAMIC
    return _Imports(tuple(named), hidden)


def _at(place: Path) -> Iterator[Path]:
    """Files that a module called as ``place`` may be."""
    for suffix in all_suffixes():
        for file in (place.with_name(place.name + suffix), place / f"__init__{suffix}"):
            if file.is_file():
                yield file


def _found(importer: Path, root: Path, level: int, module: str, names: tuple[str, ...]) -> list[Path]:
    """Files beside that one import brings in."""
    place = root
    if level:
        place = importer.parent
        for _ in range(level - 1):
            place = place.parent
    found: list[Path] = []
    for part in filter(None, module.split(".")):
        place = place / part
        found += _at(place)
    if not module:
        found += [f for f in _at(place) if f.parent == place]
    for name in names:
        if name != "*":
            found += _at(place / name)
    return found


def _below(root: Path) -> Iterator[Path]:
    suffixes = tuple(all_suffixes())
    for place, folders, files in os.walk(root):
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".")
            and f not in FOREIGN
            and not os.path.exists(os.path.join(place, f, "pyvenv.cfg"))
        )
        for file in sorted(files):
            if file.endswith(suffixes):
                yield Path(place) / file


def source_of(path: Path) -> Source:
    """A Python file and everything that it imports from its own folder, or from packages in it.

    Raises:
        OSError: ``path`` cannot be read.
    """
    path = path.resolve()
    root, files, elsewhere = path.parent, {path: path.read_bytes()}, set()
    waiting, all_taken = [path], False
    while waiting:
        importer = waiting.pop()
        if importer.suffix != ".py":
            continue
        named, hidden = _imports(files[importer])
        beside: list[Path] = []
        for level, module, names in named:
            found = _found(importer, root, level, module, names)
            beside += found
            if not found and not level:
                elsewhere.add(module.partition(".")[0])
        if hidden and not all_taken:
            all_taken = True
            beside += _below(root)
        for file in beside:
            if file not in files:
                try:
                    files[file] = file.read_bytes()
                except OSError:  # gone meanwhile; whoever imports it fails
                    continue
                waiting.append(file)
    return Source(files, frozenset(elsewhere - set(sys.stdlib_module_names)))


def _hash_of(source: Source, path: Path) -> str:
    own = path.resolve()
    if len(source.files) == 1:
        return sha256(source.files[own]).hexdigest()
    root = own.parent
    told = sorted((os.path.relpath(f, root), sha256(text).hexdigest()) for f, text in source.files.items())
    return sha256(json.dumps([os.path.basename(own), told]).encode()).hexdigest()


def source_sha256(path: Path) -> str:
    """SHA-256 of what :func:`source_of` finds; that of the file itself if it imports nothing from beside.

    Raises:
        OSError: ``path`` cannot be read.
    """
    return _hash_of(source_of(path), path)


@lru_cache(maxsize=512)
def _version(package: str) -> str | None:
    """Without what tells builds of one version apart (``+cpu``); None for what is no package."""
    try:
        return metadata.version(package).partition("+")[0]
    except (metadata.PackageNotFoundError, ValueError):
        return None


def executed_sha256(file: Path | None, library: str | None = None) -> str:
    """SHA-256 of what making a network executes.

    Args:
        file: of an architecture ``FILE.py:NAME``; None for others.
        library: that the architecture is from (``timm``, ``torchvision``).

    Returns:
        Hash of the file's source (:func:`source_sha256`; a file that cannot be read is its own kind) and of
        the versions of torch, of ``library`` and of the packages that the source imports.
    """
    packages, content = {"torch", library or "torch"}, None
    if file is not None:
        try:
            source = source_of(file)
            content = _hash_of(source, file)
            packages |= source.elsewhere
        except (OSError, ValueError, RuntimeError) as exc:
            content = f"unreadable: {type(exc).__name__}"
    versions = {name: version for name in sorted(packages) if (version := _version(name)) is not None}
    return sha256(json.dumps([content, versions]).encode()).hexdigest()


__all__ = ["Source", "executed_sha256", "source_of", "source_sha256"]
