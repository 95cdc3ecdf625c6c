"""Records of a screen: one file a suspect and reference, as ``verify --record`` writes it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from uapfast.errors import StorageError, TimeLimitError
from uapfast.examination import Examination, Reading
from uapfast.examination.asking import begin_record
from uapfast.files import make_folder
from uapfast.screening.asking.panel import PreparedReference
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.record_reader import is_record
from uapfast.suspects.record_writer import Recorder, now
from uapfast.suspects.subject import file_sha256
from uapfast.threads import is_abandoned

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
NAME = 80  # characters of a suspect's name in the name of its record


def record_path(folder: str, entry: Entry, sha256: str | None, asked: PreparedReference) -> Path:
    """Where the record of a suspect before a reference lies; suspects that answer alike share one."""
    who = [entry.network, sha256] if sha256 is not None else [entry.to_json()]
    s = asked.settings  # other settings give another record
    how = [s.alpha, s.queries, s.early, s.precision]
    name = hashlib.sha256(json.dumps([*who, asked.reference.sha256, *how]).encode()).hexdigest()[:24]
    return Path(folder) / f"{UNSAFE.sub('-', entry.name)[:NAME].strip('.-') or 'suspect'}-{name}.jsonl"


def record_folder(record: str | os.PathLike[str] | None, overwrite: bool, resumed: Path | None) -> str | None:
    """The folder of a run's records, made if it is not there; None where nobody wants any.

    Args:
        record: that was named.
        overwrite: whether records that are there may be replaced: others may rest on them.
        resumed: the store of the run that is gone on with, if there is one; what that asks once more had no
            row yet.

    Raises:
        StorageError: it cannot be made, or has records that are not to be replaced.
    """
    if record is None:
        return None
    folder = make_folder(record)
    there = next((path for path in sorted(folder.glob("*.jsonl")) if is_record(path)), None)
    if there is not None and not overwrite and (resumed is None or not resumed.exists()):
        rule = "record must be a folder without records, or that of the run which is resumed (or --overwrite)"
        raise StorageError(f"screen: {rule}, got {there}")
    return os.fspath(folder)


@contextlib.contextmanager
def recording(
    folder: str | None, entry: Entry, subject: Any, asked: PreparedReference
) -> Iterator[Recorder | None]:
    """What takes down a suspect that is asked as it is; None where nobody wants a record.

    Raises:
        StorageError: it cannot be written.
        TimeLimitError: nobody waits any longer.
    """
    if folder is None:
        yield None
        return
    with Recorder(record_path(folder, entry, None, asked), subject=subject) as record:
        yield record
        if is_abandoned():
            raise TimeLimitError("screen", entry.name, "asked in time", "no result")


class PendingRecord:
    """The answers of one suspect before one reference, until its record is written.

    Args:
        folder: of records.
        asked: the reference.
        entry: the suspect.
        sha256: of its tensors.
        reading: how it is asked, if its answers told that.
    """

    def __init__(
        self,
        folder: str,
        asked: PreparedReference,
        entry: Entry,
        sha256: str,
        reading: Reading | None = None,
    ) -> None:
        self.folder, self.asked, self.entry, self.sha256 = folder, asked, entry, sha256
        self._reading = reading
        self.started = now()
        self._parts: list[tuple[range | None, Tensor | None]] = []

    def take(self, part: range | None, values: Tensor | None) -> None:
        """Answers to some views, or to the probes (None); None where the network failed."""
        self._parts.append((part, values))

    def write(self, examination: Examination) -> None:
        """The record of an examination that has ended; raises ``StorageError``."""
        if is_abandoned():
            return
        entry, asked = self.entry, self.asked
        settings: dict[str, Any] = {
            "kind": "weights",
            "arch": entry.arch,
            "mean": entry.mean,
            "std": entry.std,
            "channel_order": entry.channel_order,
        }
        settings |= {"key": entry.key, "device": asked.settings.device, "precision": asked.settings.precision}
        if self._reading is not None:
            settings["tried"] = self._reading.to_dict()
        about: dict[str, Any] = {"name": entry.name, "sha256": self.sha256, "output": entry.output}
        about |= {"replay": "suspect", "settings": settings}
        path = record_path(self.folder, entry, self.sha256, asked)
        with Recorder(path, subject=self._subject()) as record:
            alpha, order = examination.alpha, entry.class_order
            begin_record(record, asked.design, about, alpha, order, self.started)
            for part, values in self._parts:
                record.stage()
                for images in self._images(part):
                    record.asked(images)
                if values is not None:
                    record.took(values)
            record.end(examination.notes, examination.failure)

    def _images(self, part: range | None) -> Iterator[Tensor]:
        if part is not None:
            yield from (self.asked.images(view) for view in part)
        elif (probes := self.asked.reference.probe_images) is not None:
            yield probes

    def _subject(self) -> dict[str, Any]:
        digest = {"tensorsSha256": self.sha256}
        if os.path.isfile(self.entry.path):
            digest["sha256"] = file_sha256(self.entry.path)
        return {"name": Path(self.entry.path).name, "digest": digest}


__all__ = ["PendingRecord", "record_folder", "record_path", "recording"]
