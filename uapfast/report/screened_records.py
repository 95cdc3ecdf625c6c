"""The records that a screen wrote, beside the rows that came of them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from uapfast.errors import InputError, UapfastError
from uapfast.files import open_plain
from uapfast.method.decision import Assessment
from uapfast.reference import Reference
from uapfast.report.screened import TableRow
from uapfast.suspects.record_reader import is_record
from uapfast.types import Verdict
from uapfast.verbs.replay import verify_record

FIRST = 1 << 20  # bytes of a record's first line that are looked at
SAME = ("p_value", "z", "similarity", "views_used", "queries_used")


class RowRecord(NamedTuple):
    """A record that a row came of.

    Attributes:
        path: of the record.
        assessed: what its verdict rests on; None where nothing was scored.
    """

    path: Path
    assessed: Assessment | None


class Records:
    """The records in a folder that ``screen --record`` wrote.

    Args:
        folder: of them.

    Raises:
        InputError: no folder, or none of them in it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        place, self._of = Path(folder), dict[tuple[str, str], list[tuple[str, Path]]]()
        found = [path for path in sorted(place.glob("*.jsonl")) if is_record(path)]
        if not found:
            raise InputError("report", "--record", "a folder of records that uapfast screen wrote", place)
        for path in found:
            for key, name in _told(path):
                self._of.setdefault(key, []).append((name, path))

    def of(self, row: TableRow, reference: Reference) -> RowRecord | None:
        """The record that a row came of: what is decided from it is what the row says. None where none is.

        Args:
            row: of the table.
            reference: of the row.
        """
        who = row["sha256"] or row["name"]
        there = self._of.get((row["reference_sha256"], who), [])
        for _, path in sorted(there, key=lambda one: one[0] != row["name"]):
            seen = list[Assessment]()
            try:
                verdict = verify_record(reference, path, alpha=row["alpha"], seen=seen.append).verdict
            except UapfastError:
                continue
            if all(_alike(getattr(verdict, name), row[name]) for name in SAME) and _tensors(verdict, row):
                return RowRecord(path, seen[0] if seen else None)
        return None


def _told(path: Path) -> list[tuple[tuple[str, str], str]]:
    """By what a record is found, and the suspect's name; nothing where its first line does not say."""
    try:
        with open_plain(path) as stream:
            first = json.loads(stream.readline(FIRST))
        about = first["suspect"]
        name = str(about["name"])
        return [((str(first["reference_sha256"]), str(about["sha256"] or name)), name)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _tensors(verdict: Verdict, row: TableRow) -> bool:
    return row["sha256"] is None or verdict.suspect_sha256 == row["sha256"]


def _alike(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


__all__ = ["Records", "RowRecord"]
