"""From a screening table to pages of its suspects, and to the convicted ones of a bill of materials."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from uapfast.errors import InputError
from uapfast.files import make_folder
from uapfast.method.decision import Assessment
from uapfast.reference import Reference
from uapfast.report.bom import Accused
from uapfast.report.evidence import Evidence, attach
from uapfast.report.screened import Screened, ScreenReport, TableRow
from uapfast.report.screened_records import Records
from uapfast.report.suspect import ScreenContext, collect_suspect
from uapfast.report.suspect_page import write_suspect_page
from uapfast.types import Verdict

PAGED = ("piracy", "inconclusive")  # decisions that somebody has to act upon
MOST = 50  # pages, unless told


class WrittenPages(NamedTuple):
    """Pages that were written.

    Attributes:
        pages: how many.
        rows: that would have one.
        alone: of the pages, those without a record.
    """

    pages: int
    rows: int
    alone: int


def verdict_of(row: Mapping[str, Any]) -> Verdict:
    """The verdict that a row of a table holds; fields that the table does not have are their defaults."""
    found = {f.name: row[f.name] for f in dataclasses.fields(Verdict) if f.name in row}
    try:
        settings = json.loads(row["settings"])
    except ValueError:
        settings = {}
    return Verdict(
        **found | {"reasons": tuple(row["reasons"]), "settings": settings, "suspect_sha256": row["sha256"]}
    )


def write_pages(
    report: ScreenReport,
    page: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    most: int = MOST,
    files: Mapping[str, str | os.PathLike[str]] | None = None,
    records: Records | None = None,
) -> WrittenPages:
    """A page for each convicted or inconclusive suspect, the strongest first, linked from the rows.

    Args:
        report: its rows get ``page``, the address of their own as the screening page has it.
        page: where the screening page goes.
        folder: where the pages go; made if it is not there.
        most: pages.
        files: the reference's file by its SHA-256, for the hashes on the pages.
        records: of the screen: each page gets that which its row came of, and the command that decides from
            it.

    Raises:
        InputError: ``most`` below 1, or no reference that the pool's models could be drawn from.
        StorageError: a page cannot be written.
    """
    if isinstance(most, bool) or most < 1:
        raise InputError("report", "--most", "a whole number >= 1", most)
    parts = {part.sha256: part for part in report.parts if part.reference is not None}
    if not parts:
        rule = "given with --reference, for the models that a suspect stands among"
        raise InputError("report", "--pages", rule, "none")
    wanted = [
        row
        for row in report.rows
        if row["decision"] in PAGED and row["reference_sha256"] in parts and row.get("known_copy") is None
    ]
    place = make_folder(folder)
    base = quote(os.path.relpath(place.absolute(), Path(page).absolute().parent))
    alone, beside = (
        0,
        dict[tuple[str, float], Evidence](),
    )  # of all pages of a reference: they lie in one folder
    for number, row in enumerate(wanted[:most], 1):
        name, key = f"suspect-{number:04d}-{_short(row)}.html", (row["reference_sha256"], row["alpha"])
        if key not in beside:
            found = attach(place / name, alpha=key[1], reference=(files or {}).get(key[0]))
            beside[key] = dataclasses.replace(found, listed=True)
        reference = parts[key[0]].reference
        kept = None if records is None or reference is None else records.of(row, reference)
        alone += kept is None
        evidence = beside[key] if kept is None else beside[key].beside(place / name, "record", kept.path)
        _write(row, parts[key[0]], report, place / name, evidence, None if kept is None else kept.assessed)
        row["page"] = f"{base}/{name}"
    return WrittenPages(min(most, len(wanted)), len(wanted), alone)


def _short(row: TableRow) -> str:
    told = json.dumps([row["reference_sha256"], row["path"], row["name"]])
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _write(
    row: TableRow,
    part: Screened,
    report: ScreenReport,
    path: Path,
    evidence: Evidence,
    assessed: Assessment | None,
) -> None:
    assert part.reference is not None
    verdict = verdict_of(row)
    found = collect_suspect(
        part.reference,
        verdict,
        name=row["name"],
        victim=part.name,
        assessed=assessed,
        among=ScreenContext(len(part.rows), row.get("p_holm"), row["q_value"]),
        evidence=evidence,
        spent={"file": row["path"], "found in": report.table},
    )
    write_suspect_page(found, path)


def accused_of(report: ScreenReport, references: Sequence[Reference] = ()) -> list[Accused]:
    """The rows of a table whom a bill may name, the strongest first.

    Convicted, no known copies, and with ``p_holm``, which naming one party rests on, at or below the level.
    """
    known = {r.sha256: r for r in references}
    return [
        Accused(
            name=row["name"],
            victim=row["reference"],
            verdict=row | {"suspect_sha256": row["sha256"]},
            # of an ONNX file these are the file's bytes, of everything else its tensors'
            file_sha256=row["sha256"] if row["kind"] == "onnx" else None,
            reference=known.get(row["reference_sha256"]),
        )
        for row in report.rows
        if row["decision"] == "piracy" and row.get("known_copy") is None and _nameable(row)
    ]


def _nameable(row: TableRow) -> bool:
    corrected = row.get("p_holm")
    return corrected is not None and corrected <= row["alpha"]


__all__ = ["MOST", "WrittenPages", "accused_of", "verdict_of", "write_pages"]
