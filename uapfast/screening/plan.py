"""From a manifest or a folder to suspects. Nothing is opened here: an unreadable file becomes a row later."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from uapfast.config import manifest_numbers
from uapfast.errors import InputError, ManifestError
from uapfast.examination import preprocessing_note
from uapfast.models.answers import OUTPUTS
from uapfast.models.registry import arch_file, code_sha256
from uapfast.safeload.glance import looks_like_weights
from uapfast.safeload.sharded import beside

COLUMNS = ("path", "arch", "name", "mean", "std", "output")
IGNORED = ("relation", "candidate", "parent")  # of pool manifests
NAMED = 5  # skipped files that a summary names
# What a folder is searched for. Formats that are refused are listed too: a row that says so beats silence.
SUFFIXES = frozenset(
    ".safetensors .pt .pth .th .bin .ckpt .pt2 .ptl .torchscript .pkl .pickle .joblib .npz .npy .onnx .h5 "
    ".hdf5 .keras .pb .tflite .gguf .mar".split()
)


@dataclass(frozen=True, slots=True)
class Suspect:
    """One checkpoint to ask.

    Attributes:
        path: weights file.
        arch: SPEC as in :func:`uapfast.models.registry.resolve_arch`. A file in it is executed.
        name: shown in the table; the file's name by default.
        base: folder that a relative file in ``arch`` is relative to.
        mean: per channel; images in 0..1 are normalised by (x - mean) / std before the module.
        std: per channel.
        output: what the model answers with, or ``auto``.
        assumed: whether mean and std are the victim's, since the suspect came without any.
        code: SHA-256 of what the architecture executes, as a screen found it when it began; None for what
            it is now.
    """

    path: str
    arch: str
    name: str = ""
    base: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str = field(default="auto")
    assumed: bool = False
    code: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check the fields; raises ``InputError``."""
        if not isinstance(self.path, str | os.PathLike) or not self.path:
            raise InputError("screen", "path of a suspect", "a file name", repr(self.path))
        if not isinstance(self.arch, str) or not self.arch:
            raise InputError("screen", "arch of a suspect", "a SPEC", repr(self.arch))
        if self.output not in OUTPUTS:
            raise InputError("screen", "output of a suspect", "one of " + ", ".join(OUTPUTS), self.output)
        object.__setattr__(self, "path", os.fspath(self.path))
        object.__setattr__(self, "name", printable(self.name or os.path.basename(self.path.rstrip("/"))))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its verdicts has to know of how it is asked."""
        if not self.assumed or self.mean is None or self.std is None:
            return ()
        return (preprocessing_note(self.mean, self.std),)

    @property
    def shown(self) -> str:
        """The path for people and tables."""
        return printable(self.path)

    def to_json(self) -> str:
        """One JSON object (file names that are no UTF-8 survive)."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Suspect:
        """The suspect that :meth:`to_json` wrote."""
        found = json.loads(text)
        for key in ("mean", "std"):
            found[key] = None if found[key] is None else tuple(found[key])
        return cls(**found)

    @property
    def network(self) -> str:
        """Hash of what it is filled into: equal tensors of equal networks give equal answers."""
        code = self.code or code_of(self)
        return _network(code, self.arch, self.base, self.mean, self.std, self.output)

    @property
    def key(self) -> str:
        """Hash of file and network by name: what a row in the store belongs to, whatever the code is."""
        network = _network(None, self.arch, self.base, self.mean, self.std, self.output)
        own = json.dumps([os.path.abspath(self.path), network])
        return hashlib.sha256(own.encode()).hexdigest()[:32]

    def stamp(self) -> str:
        """Size and time of the file, so that a resumed run sees that it was replaced; ``-`` if absent.

        Of an index, those of its shards too.
        """
        try:
            all_found = [os.stat(path) for path in (self.path, *beside(self.path))]
        except (OSError, ValueError):
            return "-"
        return ",".join(f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}" for found in all_found)


def code_of(suspect: Suspect) -> str:
    """SHA-256 of what a suspect's architecture executes now."""
    return code_sha256(suspect.arch, base=Path(suspect.base) if suspect.base else None)


@lru_cache(maxsize=256)
def _network(code: str | None, arch: str, base: str | None, *preprocessing: object) -> str:
    file = arch_file(arch, base=Path(base) if base else None)
    own = [code, arch, None if file is None else os.path.abspath(file), *preprocessing]
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()[:32]


def printable(text: str) -> str:
    """``text`` without what no table can hold: lone surrogates and control characters are escaped."""
    if text.isprintable():
        return text
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in safe)


def _bad(rule: str, got: object, argument: str = "manifest") -> ManifestError:
    return ManifestError("screen", argument, rule, got)


def from_manifest(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Iterator[Suspect]:
    """Suspects of a CSV file with a column ``path`` and optional ``arch,name,mean,std,output``.

    Relative paths are relative to the manifest. ``arch``, ``mean`` and ``std`` are for lines without their
    own. A manifest may come with the files that nobody trusts, so an ``arch`` in it that names a
    Python file is refused unless it is the file of the ``arch`` argument.

    Raises:
        ManifestError: unreadable, an unknown column, an empty or malformed field; it names the line.
    """
    path = Path(path)
    trusted = arch_file(arch) if arch else None
    count = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header: list[str] | None = None
            for row in reader:
                if not any(c.strip() for c in row):
                    continue
                if header is None:
                    header = _header([c.strip() for c in row], arch, path)
                    continue
                if len(row) != len(header):
                    got = f"{len(row)} on line {reader.line_num}"
                    raise _bad(f"of {len(header)} fields on every line", got)
                fields = {k: v.strip() for k, v in zip(header, row, strict=True)}
                count += 1
                yield _line(fields, f"line {reader.line_num} of {path}", path, (arch, mean, std), trusted)
    except OSError as exc:
        raise _bad("a readable CSV file", f"{exc.strerror or exc} ({path})") from exc
    except (UnicodeError, csv.Error) as exc:
        raise _bad("a CSV file in UTF-8", f"{exc} ({path})") from exc
    if not count:
        raise _bad("a CSV file with at least one suspect", f"none ({path})")


def _header(header: list[str], arch: str | None, path: Path) -> list[str]:
    required = ("path",) if arch else ("path", "arch")
    for column in required:
        if column not in header:
            more = "" if column == "path" else " (or --arch for all)"
            raise _bad(f"with a column {column!r}{more}", f"{','.join(header)[:200]} ({path})")
    for column in header:
        if column not in COLUMNS + IGNORED:
            raise _bad("with columns " + ",".join(COLUMNS) + " only", f"{column[:80]!r} ({path})")
    if len(set(header)) != len(header):
        raise _bad("with every column once", ",".join(header)[:200])
    return header


Defaults = tuple[str | None, tuple[float, ...] | None, tuple[float, ...] | None]


def _line(
    row: dict[str, str], where: str, manifest: Path, defaults: Defaults, trusted: Path | None
) -> Suspect:
    own = row.get("arch") or None
    arch = own or defaults[0]
    if not row["path"] or arch is None:
        raise _bad("with path and arch on every line", f"an empty field ({where})")
    base = manifest.parent if own else Path()
    file = arch_file(arch, base=base)
    if own and file is not None and (trusted is None or file.resolve() != trusted.resolve()):
        rule = "a network by name (a Python file is run only if it is that of --arch)"
        raise _bad(rule, f"{arch[:120]!r} ({where})", "arch")
    output = row.get("output") or "auto"
    if output not in OUTPUTS:
        raise _bad("one of " + ", ".join(OUTPUTS), f"{output[:40]!r} ({where})", "output")
    mean, std = (manifest_numbers(row.get(k) or "", "screen", k, where) for k in ("mean", "std"))
    if mean is None and std is None:
        mean, std = defaults[1], defaults[2]
    return Suspect(
        str(manifest.parent / row["path"]),
        arch,
        row.get("name") or row["path"],
        str(base.resolve()),
        mean,
        std,
        output,
    )


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
    folder: str | os.PathLike[str],
    arch: str,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    skipped: Skipped | None = None,
) -> Iterator[Suspect]:
    """Every file below a folder that a name or its first bytes say is a model, by path.

    Links to folders are not followed. A suffix of ``SUFFIXES`` is enough, so is ``.pth.tar``; any other
    file is taken if it begins as safetensors or torch's files do.

    Args:
        folder: searched with all folders below.
        arch: SPEC of all.
        mean: as :class:`Suspect`.
        std: as :class:`Suspect`.
        skipped: told of every other file.

    Raises:
        InputError: no such folder, or nothing in it.
    """
    top = os.fspath(folder)
    if not os.path.isdir(top):
        raise InputError("screen", "--dir", "an existing folder", printable(top))
    count, skipped = 0, Skipped() if skipped is None else skipped
    for place, folders, files in os.walk(top):
        folders.sort()
        for file in sorted(files):
            path = os.path.join(place, file)
            name = os.path.relpath(path, top)
            if not _is_model(path):
                skipped.add(name)
                continue
            count += 1
            yield Suspect(path, arch, name, None, mean, std)
    if not count:
        rule = f"a folder with weights files ({', '.join(sorted(SUFFIXES)[:6])}, ...)"
        raise InputError("screen", "--dir", rule, f"none in {printable(top)}, {skipped} other files")


def _is_model(path: str) -> bool:
    name = path.lower()
    known = os.path.splitext(name)[1] in SUFFIXES or name.endswith((".pth.tar", ".pt.tar"))
    return known or looks_like_weights(path)


def as_suspects(
    suspects: object, arch: str | None = None, skipped: Skipped | None = None
) -> Iterator[Suspect]:
    """What callers of ``uapfast.screen`` give: a manifest, a folder, or suspects and paths.

    Raises:
        InputError: nothing of the kind, or paths without ``arch``.
        ManifestError: see :func:`from_manifest`.
    """
    if isinstance(suspects, str | os.PathLike):
        if os.path.isdir(suspects):
            yield from from_folder(suspects, _needed(arch), skipped=skipped)
        else:
            yield from from_manifest(suspects, arch=arch)
        return
    if not isinstance(suspects, Iterable):
        rule = "a manifest, a folder, or an iterable of Suspect or paths"
        raise InputError("screen", "suspects", rule, type(suspects).__name__)
    for item in suspects:
        if isinstance(item, Suspect):
            yield item
        elif isinstance(item, str | os.PathLike):
            yield Suspect(os.fspath(item), _needed(arch))
        else:
            raise InputError("screen", "suspects", "of Suspect or paths", type(item).__name__)


def _needed(arch: str | None) -> str:
    if not arch:
        raise InputError("screen", "arch", "given for suspects without their own", "none")
    return arch


__all__ = [
    "SUFFIXES",
    "Skipped",
    "Suspect",
    "as_suspects",
    "code_of",
    "from_folder",
    "from_manifest",
    "printable",
]
