"""A CSV file as a list of suspects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from uapfast.config import manifest_numbers
from uapfast.csv_lines import read_lines
from uapfast.errors import ManifestError
from uapfast.models.answers import OUTPUTS
from uapfast.models.preprocessing import CHANNEL_ORDERS
from uapfast.models.registry import arch_file
from uapfast.screening.listing.entry import Defaults, Entry
from uapfast.suspects.resolve import ENDPOINT, FOLDER, KINDS, ONNX, URLS, WEIGHTS, kind_of

OWN = ("kind", "arch", "name", "mean", "std", "channel_order", "output", "key", "class_order", "known_copy")
COLUMNS = (*OWN, "relation", "candidate", "parent")  # the last three are of pool manifests, and not looked at


def _bad(rule: str, got: object, argument: str = "manifest") -> ManifestError:
    return ManifestError("screen", argument, rule, got)


def from_manifest(
    path: str | os.PathLike[str], defaults: Defaults | None = None, *, endpoints: bool = False
) -> Iterator[Entry]:
    """Suspects of a CSV file with a column ``path`` and optional others (``COLUMNS``).

    Relative paths are relative to the manifest. A ``kind`` that is not given is told by content. A manifest
    may come with the files that nobody trusts. So an ``arch`` in it that names a Python file is refused
    unless it is the file of an ``arch`` of ``defaults``, and no address in it is asked unless ``endpoints``
    says so.

    Args:
        path: of the manifest.
        defaults: for lines without their own.
        endpoints: whether hosts that it names may be asked.

    Raises:
        ManifestError: unreadable, an unknown column, an empty or malformed field; it names the line.
    """
    path, defaults = Path(path), defaults or Defaults()
    line = _Line(path, defaults, endpoints)
    empty = True
    for fields, where in read_lines(path, "screen", ("path",), COLUMNS):
        empty = False
        yield line.entry(fields, where)
    if empty:
        raise _bad("a CSV file with at least one suspect", f"none ({path})")


class _Line:
    """Lines of one manifest."""

    def __init__(self, manifest: Path, defaults: Defaults, endpoints: bool) -> None:
        self._manifest, self._defaults, self._endpoints = manifest, defaults, endpoints
        files = (arch_file(one) for one in defaults.arch)
        self._trusted = {file.resolve() for file in files if file is not None}

    def entry(self, row: dict[str, str], where: str) -> Entry:
        """The entry of one line."""
        if not row["path"]:
            raise _bad("with a path on every line", f"an empty field ({where})")
        url = row["path"].startswith(URLS)
        place = row["path"] if url else str(self._manifest.parent / row["path"])
        kind = row.get("kind") or kind_of(place)
        self._check_kind(kind, row, where)
        found = self._defaults.entry(place, kind, row.get("name") or row["path"], row.get("key") or None)
        if row.get("arch"):
            base = self._manifest.parent
            self._check_arch(row["arch"], base, where)
            found = replace(found, arch=row["arch"], choices=(), base=str(base.resolve()))
        elif kind == WEIGHTS:
            found = replace(found, base=str(Path().resolve()))
        mean, std = (manifest_numbers(row.get(k) or "", "screen", k, where) for k in ("mean", "std"))
        if mean is not None or std is not None:
            found = replace(found, mean=mean, std=std)
        if order := row.get("channel_order"):
            if order not in CHANNEL_ORDERS:
                raise _bad("rgb or bgr", f"{order[:40]!r} ({where})", "channel_order")
            found = replace(found, channel_order=order)
        if row.get("class_order"):
            found = replace(found, class_order=_whole(row["class_order"], where))
        known = row.get("known_copy") or ""
        if known not in ("", "yes"):
            raise _bad("yes, or empty", f"{known[:40]!r} ({where})", "known_copy")
        output = row.get("output") or "auto"
        if output not in OUTPUTS:
            raise _bad("one of " + ", ".join(OUTPUTS), f"{output[:40]!r} ({where})", "output")
        return replace(found, output=output, known_copy=known == "yes")

    def _check_kind(self, kind: str, row: dict[str, str], where: str) -> None:
        if kind not in KINDS:
            raise _bad("one of " + ", ".join(KINDS), f"{kind[:40]!r} ({where})", "kind")
        if kind == ENDPOINT and not self._endpoints:
            rule = "without addresses, unless --endpoints allows queries to the hosts that it names"
            raise _bad(rule, f"{row['path'][:120]!r} ({where})")
        if kind == WEIGHTS and not row.get("arch") and not self._defaults.arch:
            rule = "with an arch for every weights file (or --arch for all)"
            raise _bad(rule, f"an empty field 'arch' ({where})")
        images = ("mean", "std", "channel_order")
        free = {WEIGHTS: (), ONNX: ("arch",), FOLDER: ("arch", *images, "output")}
        for column in free.get(kind, ("arch", *images, "key")):
            if row.get(column):
                rule = f"empty for the kind {kind}, because such a suspect says it itself"
                raise _bad(rule, f"{row[column][:80]!r} ({where})", column)

    def _check_arch(self, arch: str, base: Path, where: str) -> None:
        file = arch_file(arch, base=base)
        if file is not None and file.resolve() not in self._trusted:
            rule = "the name of a network (a Python file is executed only if --arch names it, too)"
            raise _bad(rule, f"{arch[:120]!r} ({where})", "arch")


def _whole(text: str, where: str) -> tuple[int, ...]:
    parts = text.replace(",", " ").replace(";", " ").split()
    if not parts or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise _bad("whole numbers with blanks between", f"{text[:80]!r} ({where})", "class_order")
    return tuple(map(int, parts))


__all__ = ["COLUMNS", "from_manifest"]
