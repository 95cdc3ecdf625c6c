"""The transactional truth of a screen: SQLite in WAL mode, every commit synced.

A row is there whole or not at all, once for each (reference, suspect file and network, settings). A run
that was killed at any point goes on with what is missing. One process at a time holds a store.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from uapfast.errors import StorageError
from uapfast.screening.listing import history
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.rows import DECLARED, SCHEMA_VERSION, Row
from uapfast.screening.table.stamps import holds

APPLICATION = 0x75617073  # "uaps" in the file's header
PAGE = 256
TABLES = """
CREATE TABLE IF NOT EXISTS rows(
  reference TEXT NOT NULL, suspect TEXT NOT NULL, settings TEXT NOT NULL, stamp TEXT NOT NULL,
  network TEXT NOT NULL, sha256 TEXT, decision TEXT NOT NULL, p_value REAL, z_pool REAL, row TEXT NOT NULL,
  PRIMARY KEY(reference, suspect, settings)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_content ON rows(sha256, network, reference, settings);
CREATE TABLE IF NOT EXISTS plan(position INTEGER PRIMARY KEY, suspect TEXT NOT NULL, known INTEGER NOT NULL,
  given TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_suspect ON plan(suspect);
CREATE TABLE IF NOT EXISTS lent(network TEXT NOT NULL, sha256 TEXT NOT NULL,
  PRIMARY KEY(network, sha256)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refuted(network TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class RowNumbers(NamedTuple):
    """What the statistics over all rows of one reference need of one row."""

    position: int
    p_value: float | None
    z_pool: float | None
    sha256: str | None
    declared: bool  # a known copy


class Store:
    """Rows of a screen on disk.

    Args:
        path: of the SQLite file; ``-wal`` beside it is part of it.
        references: SHA-256 of the references of this run, in the order of the table, each with the hash of
            everything else that its rows depend on.
        resume: keep the rows that are there; otherwise :meth:`set_plan` removes them.

    Attributes:
        recoded: rows that :meth:`pending` handed out again because the code of their architecture is
            another one than it was.

    Raises:
        StorageError: unwritable, in use by another process, damaged, of another version, or a full disk.
    """

    def __init__(
        self, path: str | os.PathLike[str], references: Mapping[str, str], *, resume: bool = True
    ) -> None:
        self.path, self.references, self._keep = Path(path), dict(references), resume
        self.recoded = 0
        with self._typed():
            self._db = sqlite3.connect(self.path, timeout=2.0, isolation_level=None, check_same_thread=False)
        try:
            with self._typed():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        # exclusive: two runs on one store would do the work twice; the lock goes with the process
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._check()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-4096"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("BEGIN IMMEDIATE")
        for statement in (*TABLES.split(";\n"), *history.TABLES):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA application_id={APPLICATION}")
        self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._db.execute("COMMIT")

    def _check(self) -> None:
        """Refuse a file that is not ours, before anything is written to it."""
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION:
            raise StorageError(
                f"screen: store must be one that uapfast made, got another database ({self.path})"
            )
        if tables and version != SCHEMA_VERSION:
            raise StorageError(
                f"screen: store must be of version {SCHEMA_VERSION}, got {version} ({self.path}; its rows "
                "have another meaning in this version: remove it, or write another table)"
            )

    @contextlib.contextmanager
    def _typed(self) -> Iterator[None]:
        """SQLite's errors as ours; what was not committed is gone, what was is kept."""
        try:
            yield
        except sqlite3.Error as exc:
            self._rollback()
            what = str(exc)
            if "locked" in what:
                what = "one that another process is using"
            raise StorageError(
                f"screen: store must be readable and writable, got {what} ({self.path})"
            ) from exc
        except BaseException:
            self._rollback()
            raise

    def _rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error, AttributeError):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    # -- what is to be done ----------------------------------------------------------------------
    def set_plan(self, suspects: Iterable[Entry]) -> int:
        """Replace the list of suspects, and remember it; returns how many are on it.

        :mod:`uapfast.screening.listing.history` remembers. All of them, or the old list is kept, and
        the old rows as well where they are not to be resumed.
        """
        with self._typed():
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("CREATE TEMP TABLE before AS SELECT DISTINCT suspect FROM plan")
            self._db.execute("CREATE INDEX temp.by_before ON before(suspect)")
            self._db.execute("DELETE FROM plan")
            given = ((i, s.identity, s.known_copy, s.to_json()) for i, s in enumerate(_with_code(suspects)))
            self._db.executemany("INSERT INTO plan VALUES (?, ?, ?, ?)", given)
            (count,) = self._db.execute("SELECT count(*) FROM plan").fetchone()
            if not self._keep:
                for table in ("rows", "lent", "refuted", "lists", "suspected", "declared", "replaced"):
                    self._db.execute(f"DELETE FROM {table}")
            history.fix_list(self._db)
            self._db.execute("DROP TABLE before")
            self._db.execute("COMMIT")
            self._keep = True
        return int(count)

    def pending(self, timeout: float = math.inf) -> Iterator[tuple[Entry, str]]:
        """Suspects with a row missing or older than their file or code, with the file's stamp; each once.

        So are those that took more than an earlier time limit, if ``timeout`` (seconds) gives them more.
        """
        position = -1
        while page := self._page(position):
            for position, key, text in page:  # noqa: B007
                suspect = Entry.from_json(text)
                stamp = suspect.stamp()
                found = self._stamps(key)
                own = suspect.networks
                done = all(f is not None and f[1] in own and holds(f[0], stamp, timeout) for f in found)
                if not done and not self._earlier(position, key):
                    self.recoded += sum(f is not None and f[1] not in own for f in found)
                    yield suspect, stamp

    def _page(self, after: int) -> list[tuple[int, str, str]]:
        query = "SELECT position, suspect, given FROM plan WHERE position > ? ORDER BY position LIMIT ?"
        with self._typed():
            return self._db.execute(query, (after, PAGE)).fetchall()

    def _stamps(self, key: str) -> list[tuple[str, str] | None]:
        """Stamp and network of a suspect's row for each reference."""
        query = "SELECT stamp, network FROM rows WHERE reference = ? AND suspect = ? AND settings = ?"
        with self._typed():
            return [self._db.execute(query, (r, key, s)).fetchone() for r, s in self.references.items()]

    def _earlier(self, position: int, key: str) -> bool:
        """Whether the list names the same suspect before ``position``."""
        query = "SELECT 1 FROM plan WHERE suspect = ? AND position < ?"
        with self._typed():
            return self._db.execute(query, (key, position)).fetchone() is not None

    # -- what was done ---------------------------------------------------------------------------
    def add(
        self,
        done: Iterable[tuple[Entry, str, Sequence[Row]]],
        lent: Iterable[tuple[str, str | None]] = (),
    ) -> None:
        """Write results in one transaction: suspect, stamp of its file, and its row for every reference.

        ``lent`` are networks and hashes of tensors whose rows rest on a network that others had before.
        """
        done = list(done)
        with self._typed():
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                # a file with other content is another suspect: the one before it counts on
                "INSERT OR REPLACE INTO replaced "
                "SELECT reference, suspect, settings, sha256, p_value FROM rows WHERE reference = ? "
                "AND suspect = ? AND settings = ? AND sha256 <> ? AND p_value IS NOT NULL",
                (
                    (key := row.reference_sha256, suspect.identity, self.references[key], row.sha256 or "")
                    for suspect, _, rows in done
                    for row in rows
                ),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (row.reference_sha256, suspect.identity, self.references[row.reference_sha256], stamp)
                    + (suspect.network, row.sha256, row.decision, row.p_value, row.z_pool, row.to_json())
                    for suspect, stamp, rows in done
                    for row in rows
                ),
            )
            self._db.executemany("INSERT OR IGNORE INTO lent VALUES (?, ?)", lent)
            self._db.execute("COMMIT")

    def refute(self, network: str) -> int:
        """Remove what rests on the reuse of a network, of earlier runs as well; returns how many rows."""
        lent = "SELECT sha256 FROM lent WHERE network = ?"
        with self._typed():
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR IGNORE INTO refuted VALUES (?)", (network,))
            count = self._db.execute(
                f"DELETE FROM rows WHERE network = ? AND sha256 IN ({lent})", (network, network)
            ).rowcount
            self._db.execute("DELETE FROM lent WHERE network = ?", (network,))
            self._db.execute("COMMIT")
        return int(count)

    def refuted(self) -> frozenset[str]:
        """Networks that are built for every suspect."""
        with self._typed():
            return frozenset(network for (network,) in self._db.execute("SELECT network FROM refuted"))

    def same_tensors(self, suspect: Entry, sha256: str) -> list[Row] | None:
        """Rows of a suspect with the same tensors and network, one a reference; or None."""
        query = (  # by itself SQLite takes the primary key, and reads every row of the reference
            "SELECT row FROM rows INDEXED BY by_content "
            "WHERE sha256 = ? AND network = ? AND reference = ? AND settings = ? LIMIT 1"
        )
        with self._typed():
            found = []
            for reference, settings in self.references.items():
                given = (sha256, suspect.network, reference, settings)
                one = self._db.execute(query, given).fetchone()
                row = Row.from_json(one[0]) if one else None
                if row is None or row.error_class is not None:  # an error may name its file
                    return None
                found.append(row)
            return found

    # -- what came of it -------------------------------------------------------------------------
    # CROSS: the plan outside, in its order; the other way round all rows would have to be sorted
    _JOIN = (
        "FROM plan CROSS JOIN rows "
        "ON rows.suspect = plan.suspect AND rows.reference = ? AND rows.settings = ?"
    )

    def counts(self) -> tuple[int, int]:
        """Suspects in the plan, and how many of them have all their rows."""
        each = " INTERSECT ".join(f"SELECT plan.position {self._JOIN}" for _ in self.references)
        given = [v for item in self.references.items() for v in item]
        with self._typed():
            (total,) = self._db.execute("SELECT count(*) FROM plan").fetchone()
            (done,) = self._db.execute(f"SELECT count(*) FROM ({each})", given).fetchone()
        return int(total), int(done)

    def numbers(self, reference: str) -> Iterator[RowNumbers]:
        """One for each row of a reference, in the order of the plan."""
        columns = "plan.position, rows.p_value, rows.z_pool, rows.sha256, plan.known"
        query = f"SELECT {columns} {self._JOIN} ORDER BY plan.position"
        with self._typed():
            for found in self._db.execute(query, (reference, self.references[reference])):
                yield RowNumbers(*found)

    def taken_off(self, reference: str) -> list[tuple[float, str | None]]:
        """p-value and content of whoever was a suspect, has an answer, and is none on the list in force."""
        query = (
            "SELECT rows.p_value, rows.sha256 FROM suspected CROSS JOIN rows "
            "ON rows.suspect = suspected.suspect AND rows.reference = ? AND rows.settings = ? "
            "WHERE rows.p_value IS NOT NULL "
            "AND NOT EXISTS (SELECT 1 FROM plan WHERE plan.suspect = suspected.suspect AND NOT plan.known) "
            "UNION ALL SELECT replaced.p_value, replaced.sha256 FROM suspected CROSS JOIN replaced "
            "ON replaced.suspect = suspected.suspect AND replaced.reference = ? AND replaced.settings = ?"
        )
        with self._typed():
            return self._db.execute(query, (reference, self.references[reference]) * 2).fetchall()

    def other_tries(self, reference: str) -> list[tuple[float, str | None]]:
        """p-value and content of suspects asked at another level or budget, or by another version.

        Each is a further try, whether he is on the list in force or not.
        """
        each = (
            "SELECT {0}.p_value, {0}.sha256 FROM suspected CROSS JOIN {0} ON {0}.suspect = "
            "suspected.suspect AND {0}.reference = ? AND {0}.settings <> ? WHERE {0}.p_value IS NOT NULL"
        )
        query = f"{each.format('rows')} UNION ALL {each.format('replaced')}"
        with self._typed():
            return self._db.execute(query, (reference, self.references[reference]) * 2).fetchall()

    def held_against(self) -> int:
        """References that anybody of this store was held against, in this run or an earlier one."""
        with self._typed():  # the primary key gives each by one step, however many rows it has
            found = self._db.execute(
                "WITH RECURSIVE r(x) AS (SELECT min(reference) FROM rows UNION ALL "
                "SELECT (SELECT min(reference) FROM rows WHERE reference > x) FROM r WHERE x IS NOT NULL) "
                "SELECT x FROM r WHERE x IS NOT NULL"
            ).fetchall()
        return len(self.references.keys() | {reference for (reference,) in found})

    def lists(self) -> tuple[history.SuspectList, ...]:
        """All lists that this store was given, the one in force last."""
        with self._typed():
            return history.read_lists(self._db)

    def counted(self, count: int) -> None:
        """Remember how many p-values the numbers of the list in force are corrected for."""
        with self._typed():
            self._db.execute(
                "UPDATE lists SET counted = ? WHERE position = (SELECT max(position) FROM lists)", (count,)
            )

    def rows(self, reference: str) -> Iterator[Row]:
        """Rows of a reference in the order of the plan, named as the plan names them."""
        query = f"SELECT plan.given, rows.row {self._JOIN} ORDER BY plan.position"
        with self._typed():
            for given, text in self._db.execute(query, (reference, self.references[reference])):
                row, suspect = Row.from_json(text), Entry.from_json(given)
                yield _as_listed(row, suspect)

    def close(self) -> None:
        """Let another process have the store."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def __enter__(self) -> Store:
        """The store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def _with_code(suspects: Iterable[Entry]) -> Iterator[Entry]:
    """Suspects with the code that their architecture has now, so that one run knows one code."""
    known: dict[tuple[object, ...], str] = {}
    for suspect in suspects:
        which = suspect.arch, suspect.choices, suspect.base
        if which not in known:
            known[which] = suspect.code_now()
        yield replace(suspect, code=known[which])


def _as_listed(row: Row, suspect: Entry) -> Row:
    """A row with the name that the list has for the suspect now, and whether it declares it a known copy."""
    known = DECLARED if suspect.known_copy else None
    if (row.name, row.known_copy) == (suspect.name, known):
        return row
    return replace(row, name=suspect.name, known_copy=known)


__all__ = ["RowNumbers", "Store"]
