"""What the report of a screening table shows, as plain data."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from uapfast.errors import InputError, fault
from uapfast.files import open_plain
from uapfast.reference import Reference
from uapfast.screening.listing.history import SuspectList, says
from uapfast.screening.table.correction import Correction
from uapfast.screening.table.export import KEY
from uapfast.screening.table.population import Population
from uapfast.screening.table.rows import COLUMNS, SCHEMA_VERSION

ORDER = {"piracy": 0, "inconclusive": 1, "independent": 2, "invalid": 3, "unavailable": 4}
TableRow = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Screened:
    """What a table says of one reference.

    Attributes:
        name: of the reference.
        sha256: of its content.
        rows: its rows, ranked.
        population: what all rows together say; None if the table does not tell.
        reference: the reference itself, if it was given.
        correction: what its p-values are corrected for; None if the table does not tell.
    """

    name: str
    sha256: str
    rows: tuple[TableRow, ...]
    population: Population | None
    reference: Reference | None = None
    correction: Correction | None = None

    @property
    def decisions(self) -> dict[str, int]:
        """How many rows have each decision, in the order of the report."""
        found = Counter(r["decision"] for r in self.rows)
        return {d: found[d] for d in ORDER}


@dataclass(frozen=True)
class ScreenReport:
    """Everything on the page.

    Attributes:
        title: heading.
        table: name of the table's file.
        fdr: convictions have a q-value at or below it; None if the table does not tell.
        parts: by reference, in the order of the table.
        errors: error class to (rows, one message).
        settings: distinct settings of the rows, JSON types.
        versions: distinct versions.
        lists: what is to be said of the list of suspects, as sentences.
    """

    title: str
    table: str
    fdr: float | None
    parts: tuple[Screened, ...]
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)
    settings: tuple[Any, ...] = ()
    versions: tuple[Any, ...] = ()
    lists: tuple[str, ...] = ()

    @property
    def rows(self) -> list[TableRow]:
        """All rows, ranked over all references."""
        return sorted((r for part in self.parts for r in part.rows), key=rank_key)

    @property
    def decisions(self) -> dict[str, int]:
        """How many rows have each decision."""
        return {d: sum(p.decisions[d] for p in self.parts) for d in ORDER}


def rank_key(row: TableRow) -> tuple[int, float, str, str]:
    """Convictions first, then what is open, then the independent, each by p; the unusable last."""
    p = row["p_value"]
    return ORDER[row["decision"]], 2.0 if p is None else p, row["name"], row["reference"]


def escaped_text(text: object) -> str:
    """``text`` with control and direction characters escaped, so that no name can pose as another."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in str(text)
    )


def read_table(path: str | os.PathLike[str]) -> tuple[list[TableRow], dict[str, Any]]:
    """The rows of a table that ``screen`` wrote, and its metadata.

    Raises:
        InputError: missing, no Parquet file, not from ``screen``, or of another schema version.
    """

    def bad(got: object) -> InputError:
        return InputError("report", "TABLE", "a Parquet table that uapfast screen wrote", got)

    try:
        with open_plain(path) as stream:  # Arrow takes no file name that is not UTF-8
            table = pq.read_table(stream)
    except (pa.ArrowException, OSError) as exc:
        said = fault(exc) if isinstance(exc, OSError) else " ".join(str(exc).split())[:200]
        raise bad(f"{path} ({said})") from exc
    try:
        told = json.loads((table.schema.metadata or {})[KEY.encode()])
        version = told["schema_version"]
    except (KeyError, TypeError, ValueError) as exc:
        raise bad(f"{path} without its metadata") from exc
    if version != SCHEMA_VERSION:
        raise bad(f"{path} of schema version {version!r} (this uapfast reads {SCHEMA_VERSION})")
    missing = {c.name for c in COLUMNS} - set(table.column_names)
    if missing:
        raise bad(f"{path} without {', '.join(sorted(missing))}")
    rows = table.select([c.name for c in COLUMNS]).to_pylist()
    strange = {r["decision"] for r in rows} - ORDER.keys()
    if strange:
        raise bad(f"{path} with the decision {sorted(strange)[0]!r}")
    return rows, told


def _read(kind: Callable[..., T], found: Any) -> T | None:
    """What a table's metadata say, if they are of this kind."""
    try:
        return kind(**found) if found else None
    except TypeError:
        return None


def _distinct(rows: Sequence[TableRow], column: str) -> tuple[Any, ...]:
    out = []
    for text in dict.fromkeys(r[column] for r in rows):
        try:
            out.append(json.loads(text))
        except ValueError:
            out.append(text)
    return tuple(out)


def _errors(rows: Sequence[TableRow]) -> dict[str, tuple[int, str]]:
    count = Counter(r["error_class"] for r in rows if r["error_class"])
    first = {r["error_class"]: r["error_message"] or "" for r in reversed(rows) if r["error_class"]}
    return {name: (n, first[name]) for name, n in count.most_common()}


def collect_screen(
    table: str | os.PathLike[str], references: Sequence[Reference] = (), *, title: str | None = None
) -> ScreenReport:
    """The report of a table that ``screen`` wrote.

    Args:
        table: Parquet file.
        references: of the table, for their UAPs, candidates and innocents; any of them, or none.
        title: heading; names the table by default.

    Raises:
        InputError: no such table, or a reference that is not in it.
    """
    rows, told = read_table(table)
    by: dict[str, list[TableRow]] = {}
    for row in rows:
        by.setdefault(row["reference_sha256"], []).append(row)
    known = {r.sha256: r for r in references}
    for sha256 in known.keys() - by.keys():
        names = ", ".join(f"{r[0]['reference']} {s[:12]}" for s, r in by.items()) or "none"
        raise InputError("report", "--reference", f"one of the table's ({names})", sha256[:12])
    parts = tuple(
        Screened(
            found[0]["reference"],
            sha256,
            tuple(sorted(found, key=rank_key)),
            _read(Population, (told.get("populations") or {}).get(sha256)),
            known.get(sha256),
            _read(Correction, (told.get("corrections") or {}).get(sha256)),
        )
        for sha256, found in by.items()
    )
    name = Path(table).name
    lists = [
        one for one in (_read(SuspectList, found) for found in told.get("lists") or ()) if one is not None
    ]
    fdr = told.get("fdr")
    return ScreenReport(
        title=title or f"Screening: {Path(name).stem}",
        table=name,
        fdr=float(fdr) if isinstance(fdr, (int, float)) else None,
        parts=parts,
        errors=_errors(rows),
        settings=_distinct(rows, "settings"),
        versions=_distinct(rows, "versions"),
        lists=tuple(says(lists)),
    )


__all__ = ["ORDER", "ScreenReport", "Screened", "collect_screen", "escaped_text", "rank_key", "read_table"]
