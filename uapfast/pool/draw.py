"""Designated twins: of models that were trained alike one is drawn to be published, before it is."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uapfast._version import versions
from uapfast.errors import PoolError, StorageError, fault
from uapfast.files import open_plain, write_text
from uapfast.models.checkpoint import load_model

KIND = "draw of a victim"
FORMAT = 1


@dataclass(frozen=True)
class Draw:
    """A draw as its record has it.

    Attributes:
        drawn: name of the victim.
        drawn_sha256: of its tensors.
        others: weights files of the rest, in the order of the record.
        sha256s: of the tensors of all of them, by name.
        time: of the draw, UTC, ISO 8601.
        sha256: of the record's content.
    """

    drawn: str
    drawn_sha256: str
    others: tuple[Path, ...]
    sha256s: dict[str, str]
    time: str
    sha256: str


def designate(
    arch: str, weights: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> dict[str, Any]:
    """Draw the victim from models that were trained alike, uniformly, and record the draw.

    The operating system's randomness decides; nothing can repeat the draw, and an existing record is
    never replaced. Publish the drawn model, keep the others unserved, and let somebody else date the record's
    SHA-256 before that: the record cannot show that it was the only one.

    Args:
        arch: SPEC of all of them.
        weights: files, at least 2, of different tensors; the models are named by the files' stems.
        out: the record (JSON); must not exist.

    Returns:
        The record: format, arch, time (UTC), models (name, file relative to the record, SHA-256 of the
        tensors), drawn, versions, and sha256 of all that.

    Raises:
        PoolError: fewer than 2 models, two with one name or the same tensors, or a record that exists.
        ModelError, SuspectError: weights that do not fit the architecture, or NaN.
        StorageError: the record cannot be written.
    """
    out, files = Path(out), [Path(w) for w in weights]
    if out.exists():
        raise PoolError("designate", "out", "a new file (a draw is made once)", out)
    if len(files) < 2:
        raise PoolError(
            "designate", "weights", "files of at least 2 models, trained in the same way", len(files)
        )
    models: list[dict[str, str]] = []
    for file in files:
        sha256 = load_model(arch, file).sha256
        assert sha256 is not None  # of a module
        for other in models:
            if file.stem == other["name"] or sha256 == other["sha256"]:
                rule = "files with different names and different weights"
                raise PoolError("designate", "weights", rule, f"{file}, beside {other['file']}")
        models.append({"name": file.stem, "file": _relative(file, out.parent), "sha256": sha256})
    record: dict[str, Any] = {
        "what": KIND, "format": FORMAT, "arch": arch,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": models, "drawn": secrets.choice(models)["name"], "versions": versions(),
    }  # fmt: skip
    record["sha256"] = _digest(record)
    write_text(out, json.dumps(record, indent=1) + "\n")
    return record


def read_draw(path: str | os.PathLike[str]) -> Draw:
    """Read a record, and hold it against its SHA-256.

    Raises:
        PoolError: no such record, a damaged or changed one, or files that are not there.
        StorageError: it cannot be read.
    """
    path = Path(path)
    try:
        with open_plain(path) as stream:
            record = json.loads(stream.read().decode("utf-8"))
        claimed, found = record.pop("sha256"), _digest(record)
        models = {str(m["name"]): m for m in record["models"]}
        fits = record["what"] == KIND and record["format"] == FORMAT and record["drawn"] in models
    except OSError as exc:
        raise StorageError(f"pool: designated must be a readable file, got {path} ({exc.strerror})") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        rule = "a record that uapfast designate wrote"
        raise PoolError("pool", "designated", rule, f"{fault(exc)} ({path})") from exc
    if not fits or claimed != found:
        rule = "a record of a draw that is as it was written"
        raise PoolError("pool", "designated", rule, f"SHA-256 {found}, not {claimed} ({path})")
    drawn = str(record["drawn"])
    others = tuple(path.parent / m["file"] for name, m in models.items() if name != drawn)
    for file in others:
        if not file.is_file():
            raise PoolError("pool", "designated", "a record beside the models that it names", file)
    hashes = {name: str(m["sha256"]) for name, m in models.items()}
    return Draw(drawn, hashes[drawn], others, hashes, str(record["time"]), found)


def _relative(file: Path, folder: Path) -> str:
    return os.path.relpath(file.resolve(), folder.resolve())


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
