"""Pool manifests: CSV with columns ``path,arch`` and optional ``name,relation,candidate,mean,std,parent``."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uapfast.config import manifest_numbers
from uapfast.csv_lines import read_lines
from uapfast.errors import ManifestError, PoolError, PoolWarning, SuspectError, fault
from uapfast.files import write_bytes, write_text
from uapfast.models.checkpoint import load_model
from uapfast.models.model import Model
from uapfast.pool.plan import file_code_sha256
from uapfast.pool.pool import RELATIONS, Pool, PoolModel, family_fault
from uapfast.pool.twins import pool_record_path

KEYS = "images.npy"  # beside pool.json: the images that a pool was made of, as hashes
REQUIRED = ("path", "arch")
OPTIONAL = ("name", "relation", "candidate", "mean", "std", "parent")


@dataclass(frozen=True)
class ManifestEntry:
    """One line.

    Attributes:
        path: weights file, as written (relative to the manifest).
        arch: SPEC; a file in it is relative to the manifest.
        name: unique; the file's stem by default.
        relation: one of :data:`uapfast.pool.pool.RELATIONS`, or None.
        candidate: for a piracy model, the name of the model that it derives from.
        mean: per channel; the model takes (x - mean) / std of images x in 0..1.
        std: per channel, > 0; with ``mean``.
        parent: name of the model that the owner knows it to be made from.
    """

    path: str
    arch: str
    name: str
    relation: str | None = None
    candidate: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    parent: str | None = None


def _bad(rule: str, got: object, argument: str = "manifest") -> ManifestError:
    return ManifestError("manifest", argument, rule, got)


def read_manifest(path: str | os.PathLike[str]) -> list[ManifestEntry]:
    """Read and check a manifest; every file named must exist.

    Raises:
        ManifestError: unreadable, unknown or missing column, missing file, unknown relation, candidate or
            parent, duplicate name, impossible mean or std.
    """
    path = Path(path)
    entries = [_entry(row, where, path) for row, where in read_lines(path, "manifest", REQUIRED, OPTIONAL)]
    _check_entries(entries)
    return entries


def _entry(row: dict[str, str], where: str, path: Path) -> ManifestEntry:
    if not row["path"] or not row["arch"]:
        raise _bad("with path and arch on every line", f"an empty field ({where})")
    try:
        exists = (path.parent / row["path"]).is_file()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise _bad("of existing files", f"{row['path']} ({where})")
    relation = row.get("relation") or None
    if relation is not None and relation not in RELATIONS:
        raise _bad("one of " + ", ".join(RELATIONS), f"{relation!r} ({where})", "relation")
    candidate = row.get("candidate") or None
    if candidate is not None and relation != "piracy":
        raise _bad("given for piracy models only", f"{candidate!r} for {relation} ({where})", "candidate")
    name = row.get("name") or Path(row["path"]).stem
    mean, std = (manifest_numbers(row.get(k) or "", "manifest", k, where) for k in ("mean", "std"))
    if (mean is None) != (std is None) or len(mean or ()) != len(std or ()):
        raise _bad("given together, one value per channel", f"{mean} and {std} ({where})", "mean and std")
    if min(std or (1.0,)) <= 0:
        raise _bad("above 0", f"{row['std']!r} ({where})", "std")
    return ManifestEntry(
        row["path"], row["arch"], name, relation, candidate, mean, std, row.get("parent") or None
    )


def _check_entries(entries: Sequence[ManifestEntry]) -> None:
    seen: set[str] = set()
    for e in entries:
        if e.name in seen:
            raise _bad("of distinct names", f"{e.name!r} twice", "name")
        seen.add(e.name)
    victims = [e.name for e in entries if e.relation == "victim"]
    if len(victims) > 1:
        raise _bad("with at most one victim", ", ".join(victims))
    known = {e.name for e in entries if e.relation in ("victim", "twin")}
    known |= set() if victims else {"victim"}  # a manifest need not list the victim itself
    for e in entries:
        if e.relation == "piracy" and e.candidate not in known:
            own = repr(victims[0]) if victims else "'victim', since no line has that relation"
            rule = f"the name of the victim ({own}) or of a twin for a piracy model"
            raise _bad(rule, f"{e.candidate!r} for {e.name!r}", "candidate")
    fault = family_fault(entries)
    if fault is not None:
        argument, rule, got = fault
        raise _bad(rule, got, argument)


def write_manifest(path: str | os.PathLike[str], entries: Sequence[ManifestEntry]) -> None:
    """Write a manifest, whole or not at all.

    Raises:
        ManifestError: a field that would not be read back as it is (surrounding blanks, line breaks).
        StorageError: the file cannot be written.
    """
    rows = [{c: _written(getattr(e, c)) for c in (*REQUIRED, *OPTIONAL)} for e in entries]
    for row in rows:
        for column, text in row.items():
            if text != text.strip() or not text.isprintable():
                raise _bad("free of surrounding blanks and control characters", repr(text), column)
    out = io.StringIO()
    writer = csv.DictWriter(out, (*REQUIRED, *OPTIONAL), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, out.getvalue())


def _written(value: str | tuple[float, ...] | None) -> str:
    return " ".join(map(repr, value)) if isinstance(value, tuple) else value or ""


def write_keys(folder: Path, keys: NDArray[np.uint64]) -> None:
    """Keep the keys of the images that a pool is made of, beside its record."""
    stream = io.BytesIO()
    np.save(stream, np.unique(keys))
    write_bytes(folder / KEYS, stream.getvalue())


def _read_keys(folder: Path) -> frozenset[int]:
    """The same; none where the file is not there."""
    path = folder / KEYS
    if not path.is_file():
        return frozenset()
    try:
        return frozenset(np.load(path, allow_pickle=False).astype(np.uint64).tolist())
    except (OSError, ValueError, EOFError) as exc:
        raise _bad(f"beside a whole {KEYS}", f"{fault(exc)} ({path})") from exc


@dataclass(frozen=True)
class PoolRecord:
    """What ``pool.json`` beside a manifest says, as far as it is there.

    Attributes:
        kinds: model's name to how it was made.
        hashes: model's name to the SHA-256 of its tensors.
        victim: that of the victim.
        init: where the victim began.
        warnings: what was warned of when the pool was made.
        code: architecture, as the manifest has it, to the SHA-256 of its code.
        twins: what is said of the twins.
        trained: names of homologous models that were trained from labels.
    """

    kinds: dict[str, str]
    hashes: dict[str, str]
    victim: str | None = None
    init: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    code: Mapping[str, str | None] = field(default_factory=dict)
    twins: dict[str, Any] | None = None
    trained: frozenset[str] = frozenset()


def _made(path: Path) -> PoolRecord:
    record = pool_record_path(path)
    if not record.is_file():
        return PoolRecord({}, {})
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        models, base = found["models"], found.get("base", {})
        kinds = {str(m["name"]): str(m["kind"]) for m in models}
        hashes = {str(m["name"]): str(m["sha256"]) for m in models if "sha256" in m}
        warned = tuple(map(str, found.get("warnings", ())))
        code, twins = dict(found.get("code", {})), found.get("twins")
        honest = (m for m in models if m.get("relation") == "homologous" and m.get("how") == "train")
        trained = frozenset(str(m["name"]) for m in honest if "sha256" in m)
        return PoolRecord(kinds, hashes, base.get("victim"), base.get("init"), warned, code, twins, trained)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise _bad("beside a whole pool.json", f"{type(exc).__name__} ({record})") from exc


def _check_hash(entry: ManifestEntry, model: Model, made: PoolRecord) -> None:
    """A file that was replaced since the pool was made is another model than the record tells of."""
    wanted = made.victim if entry.relation == "victim" else made.hashes.get(entry.name)
    if wanted is not None and wanted != model.sha256:
        rule = f"those that pool.json records, SHA-256 {wanted} (make the pool anew, or rename the line)"
        raise PoolError("pool", f"weights of {entry.name}", rule, f"SHA-256 {model.sha256} in {entry.path}")


def _changed_code(entries: Sequence[ManifestEntry], made: PoolRecord, base: Path) -> str | None:
    """What is said of architectures whose code is not what the pool was trained with."""
    archs = sorted({e.arch for e in entries if e.arch in made.code})
    changed = [arch for arch in archs if file_code_sha256(arch, base) != made.code[arch]]
    if not changed:
        return None
    return (
        f"pool: the code of {', '.join(changed)} is not what the pool was trained with (pool.json): "
        "make the pool anew, unless the change leaves all answers as they were"
    )


def load_pool(manifest: str | os.PathLike[str], device: str = "cpu") -> Pool:
    """Load every model of a manifest.

    Args:
        manifest: path of the CSV file.
        device: device of the models.

    Raises:
        ManifestError: see :func:`read_manifest`; or a line has no relation.
        PoolWarning: (given, and kept in ``Pool.warnings``) the code of an architecture changed.
        PoolError: a model has NaN weights, or other weights than ``pool.json`` beside it records.
        ModelError: a file does not fit its architecture.
    """
    path = Path(manifest)
    entries, made, models = read_manifest(path), _made(path), []
    changed = _changed_code(entries, made, path.parent)
    if changed is not None:
        warnings.warn(changed, PoolWarning, stacklevel=3)
    for e in entries:
        if e.relation is None:
            raise _bad("given for every model of a pool", f"none for {e.name!r}", "relation")
        try:
            model = load_model(
                e.arch, path.parent / e.path, base=path.parent, mean=e.mean, std=e.std, device=device,
                name=e.name,
            )  # fmt: skip
        except SuspectError as exc:
            raise PoolError("pool", f"weights of {e.name}", "finite", exc.got) from exc
        _check_hash(e, model, made)
        kind = made.kinds.get(e.name, e.arch if e.relation == "piracy" else e.relation)
        models.append(PoolModel(e.name, e.relation, e.candidate, kind, model, e.parent))
    said = made.warnings if changed is None else (*made.warnings, changed)
    written = hashlib.sha256(path.read_bytes()).hexdigest()
    seen = _read_keys(path.parent)
    return Pool(tuple(models), made.init, said, made.twins, made.trained, written, seen)
