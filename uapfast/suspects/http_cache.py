"""Answers that were paid for, by the content of the question: a file, or memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from uapfast.errors import InputError, StorageError
from uapfast.suspects.http_rows import decode_row, encode_row

SCHEMA = "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, kind TEXT, row BLOB) WITHOUT ROWID"


class Cache:
    """Rows by key. Nothing but hashes and answers is stored; it is written after every request.

    Args:
        path: a SQLite file, made (readable by its owner alone) where there is none; None is memory.

    Raises:
        InputError: the file is of another kind.
        StorageError: it cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None and not self.path.exists():
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            except OSError as exc:
                raise StorageError(f"http: cache must be writable, got {exc.strerror}: {self.path}") from exc
        # one coroutine uses it at a time, but where an event loop runs already that is in a thread of its own
        self._base = sqlite3.connect(self.path or ":memory:", check_same_thread=False, timeout=30)
        with self._named_errors():
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute(SCHEMA)
            self._base.execute("SELECT key, kind, row FROM answers LIMIT 1").fetchall()

    @contextlib.contextmanager
    def _named_errors(self) -> Any:
        try:
            yield
        except sqlite3.ProgrammingError as exc:
            raise InputError("http", "the suspect", "open while it is queried", "a closed one") from exc
        except sqlite3.OperationalError as exc:
            raise StorageError(f"http: cache must be readable and writable, got {exc}: {self.path}") from exc
        except sqlite3.DatabaseError as exc:
            raise InputError("http", "cache", "a file of answers that uapfast wrote", self.path) from exc

    def get(self, keys: Sequence[bytes]) -> list[Any]:
        """The row of each key; None where there is none."""
        out = []
        with self._named_errors():
            for key in keys:
                found = self._base.execute("SELECT kind, row FROM answers WHERE key = ?", (key,)).fetchone()
                out.append(None if found is None else decode_row(*found))
        return out

    def put(self, items: Iterable[tuple[bytes, Any]]) -> None:
        """Keep rows; on disk when this returns."""
        with self._named_errors(), self._base:
            self._base.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)",
                [(key, *encode_row(row)) for key, row in items],
            )

    def close(self) -> None:
        """Close the file."""
        self._base.close()


def key(settings: bytes, payload: bytes | memoryview) -> bytes:
    """Of a question: SHA-256 of whom it goes to, how, and what it is."""
    found = hashlib.sha256(settings)
    found.update(payload)
    return found.digest()


__all__ = ["Cache", "key"]
