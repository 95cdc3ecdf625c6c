"""The list of suspects, fixed before anybody is asked: its hash, and how it differs from the lists before it.

Numbers that are corrected for a list hold for one that was fixed beforehand. So a store remembers every list
that it was given, and everybody who ever was a suspect: whoever was asked counts on, though a later list
leaves it out or declares it a known copy, and so does what a file held before it was replaced. Where one
known copy becomes a suspect, all who ever were declared count: else a list of copies could be asked first,
and the nearest of them be named alone.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

TABLES = (
    "CREATE TABLE IF NOT EXISTS suspected(suspect TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS declared(suspect TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS replaced(reference TEXT NOT NULL, suspect TEXT NOT NULL, "
    "settings TEXT NOT NULL, sha256 TEXT NOT NULL, p_value REAL NOT NULL, "
    "PRIMARY KEY(reference, suspect, settings, sha256)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS lists(position INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, "
    "fixed TEXT NOT NULL, suspects INTEGER NOT NULL, known INTEGER NOT NULL, added INTEGER NOT NULL, "
    "gone INTEGER NOT NULL, counted INTEGER)",
)


@dataclass(frozen=True)
class SuspectList:
    """One list of suspects.

    Attributes:
        sha256: of everybody on it and how each is asked, sorted; the same list in another order has the same.
        fixed: when it was given first, before anybody on it was asked (ISO 8601, UTC).
        suspects: on it, each once.
        known: of these, those that it declares known copies.
        added: not on the list before it.
        gone: on the list before it, not on this one.
        counted: p-values that its numbers are corrected for, the most of any reference; None until a screen
            of it has ended.
    """

    sha256: str
    fixed: str
    suspects: int
    known: int
    added: int
    gone: int
    counted: int | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)


def fix_list(db: sqlite3.Connection) -> None:
    """Remember the list in the table ``plan``, unless it is the last one; inside the caller's transaction.

    The list before it stands in the temporary table ``before``.
    """
    told = hashlib.sha256()
    for suspect, known in db.execute("SELECT DISTINCT suspect, known FROM plan ORDER BY suspect, known"):
        told.update(f"{suspect} {known}\n".encode())
    db.execute("INSERT OR IGNORE INTO suspected SELECT suspect FROM plan WHERE NOT known")
    db.execute("INSERT OR IGNORE INTO declared SELECT suspect FROM plan WHERE known")
    withdrawn = "SELECT 1 FROM plan WHERE NOT known AND suspect IN (SELECT suspect FROM declared)"
    if db.execute(f"{withdrawn} LIMIT 1").fetchone():
        db.execute("INSERT OR IGNORE INTO suspected SELECT suspect FROM declared")
    last = db.execute("SELECT sha256 FROM lists ORDER BY position DESC LIMIT 1").fetchone()
    if last == (told.hexdigest(),):
        return

    def count(query: str) -> int:
        return int(db.execute(f"SELECT count(DISTINCT suspect) FROM {query}").fetchone()[0])

    db.execute(
        "INSERT INTO lists(sha256, fixed, suspects, known, added, gone) VALUES (?, ?, ?, ?, ?, ?)",
        (
            told.hexdigest(),
            datetime.now(UTC).isoformat(timespec="seconds"),
            count("plan"),
            count("plan WHERE known"),
            count("plan WHERE suspect NOT IN (SELECT suspect FROM before)"),
            count("before WHERE suspect NOT IN (SELECT suspect FROM plan)"),
        ),
    )


def read_lists(db: sqlite3.Connection) -> tuple[SuspectList, ...]:
    """All lists, the one in force last."""
    query = "SELECT sha256, fixed, suspects, known, added, gone, counted FROM lists ORDER BY position"
    return tuple(SuspectList(*row) for row in db.execute(query))


def says(lists: Sequence[SuspectList]) -> list[str]:
    """What a reader has to know of the list, as sentences; nothing of none."""
    if not lists:
        return []
    now = lists[-1]
    said = [
        f"list of {now.suspects} suspects, fixed {now.fixed} before they were asked, SHA-256 {now.sha256}"
    ]
    if len(lists) > 1:
        before = lists[-2]
        counts = "" if now.counted is None else f": q and p_holm are corrected for {now.counted} suspects"
        if counts and before.counted is not None:
            counts += f", {before.counted} before"
        said.append(
            f"another list than before: {now.added} added, {now.gone} gone since {before.sha256[:12]} of "
            f"{before.fixed} ({len(lists) - 1} earlier in this store){counts}; "
            "every suspect that was asked still counts"
        )
    return said


__all__ = ["TABLES", "SuspectList", "fix_list", "read_lists", "says"]
