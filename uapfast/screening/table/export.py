"""The table: Parquet, one schema, written whole from the store."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uapfast.errors import StorageError
from uapfast.files import atomic_path
from uapfast.screening.listing.history import SuspectList, says
from uapfast.screening.table.correction import TERMS, Correction, counted, holm, q_values
from uapfast.screening.table.population import Population, compare_with_pool, finished
from uapfast.screening.table.rows import COLUMNS, SCHEMA_VERSION, VICTIM, About, Row
from uapfast.screening.table.store import Store
from uapfast.suspects.resolve import WEIGHTS

BATCH = 512  # rows in memory; more would show beside the rest of a screen
TYPES = {"string": pa.string(), "float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_()} | {
    "list<string>": pa.list_(pa.string())
}
KEY = "uapfast"


@dataclass(frozen=True)
class Summary:
    """What a finished screen comes to.

    Attributes:
        suspects: in the plan.
        rows: in the table.
        decisions: how many rows have each decision.
        errors: how many rows have each error class.
        messages: of each error class the first message.
        queries_used: asked, over all rows.
        queries_full: that full budgets would have asked.
        populations: by the reference's SHA-256.
        corrections: what p-values are corrected for, by the reference's SHA-256.
        lists: of suspects that the store was given, the one in force last.
        seconds: by stage, of all workers together: ``read``, ``load``, ``forward``, ``score``.
        skipped: files of a folder that are no suspects.
        skipped_names: the first few of them.
        code_changed: rows of an earlier run that were asked again because the code of their architecture
            (:mod:`uapfast.models.code`) is another one now.
    """

    suspects: int
    rows: int
    decisions: dict[str, int]
    errors: dict[str, int]
    queries_used: int
    queries_full: int
    populations: dict[str, Population]
    skipped: int = 0
    skipped_names: tuple[str, ...] = ()
    code_changed: int = 0
    messages: dict[str, str] = field(default_factory=dict)
    corrections: dict[str, Correction] = field(default_factory=dict)
    lists: tuple[SuspectList, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """1 if any row is piracy; else 3 if any is inconclusive, 4 invalid, 5 unavailable, 0."""
        codes = {"piracy": 1, "inconclusive": 3, "invalid": 4, "unavailable": 5}
        return next((code for decision, code in codes.items() if self.decisions.get(decision)), 0)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        found: dict[str, Any] = {
            "populations": {k: p.to_dict() for k, p in self.populations.items()},
            "corrections": {k: c.to_dict() for k, c in self.corrections.items()},
            "lists": [one.to_dict() for one in self.lists],
            "terms": TERMS,
        }
        return vars(self) | found | {"skipped_names": list(self.skipped_names)}

    def of_the_list(self) -> list[str]:
        """What a reader has to know of the list and what it does to p-values, as sentences."""
        return [*says(self.lists), *dict.fromkeys(c.says() for c in self.corrections.values())]

    def profile(self) -> list[str]:
        """Where the time went, a line a stage; rows of an earlier run count as they took then."""
        whole = sum(self.seconds.values()) or 1.0
        spent = [f"  {stage:<8} {s:10.1f} s  {s / whole:4.0%}" for stage, s in self.seconds.items()]
        return ["time of all workers, by stage (docs/screening.md):", *spent]


def schema() -> pa.Schema:
    """The table's Arrow schema; its metadata holds ``schema_version`` as a JSON object under ``uapfast``."""
    fields = [pa.field(c.name, TYPES[c.type], nullable=c.null) for c in COLUMNS]
    return pa.schema(fields, {KEY: json.dumps({"schema_version": SCHEMA_VERSION})})


def finished_rows(
    store: Store, reference: str, about: About, population: Population, fdr: float
) -> Iterator[Row]:
    """Rows of one reference, named as ``about`` says, with what all rows together say."""
    p, same, known = tests = _tests(store, reference, about)
    tries = _tries(store, reference, about)
    q = q_values(p, about.alpha, same, known, tries)
    named = holm(*tests, references=store.held_against(), tries=tries)
    for row, one, other in zip(store.rows(reference), q, named, strict=False):  # the list's come first
        by_bytes = row.sha256 is not None and row.sha256 == about.victim
        own = replace(row, reference=about.name, known_copy=VICTIM if by_bytes else row.known_copy)
        yield finished(own, one, other, population, fdr)


def _tests(
    store: Store, reference: str, about: About
) -> tuple[list[float | None], list[str | None], list[bool]]:
    """p-value, content, and whether it is a known copy, of every row, then of who was taken off the list."""
    rows = [(n.p_value, n.sha256, bool(n.declared)) for n in store.numbers(reference)]
    rows += [(p, sha256, False) for p, sha256 in store.taken_off(reference)]
    known = [declared or (sha256 is not None and sha256 == about.victim) for _, sha256, declared in rows]
    return [p for p, _, _ in rows], [sha256 for _, sha256, _ in rows], known


def _tries(store: Store, reference: str, about: About) -> list[tuple[float, str | None]]:
    """What the same suspects came to at another level or budget, the victim's own tensors left out."""
    found = store.other_tries(reference)
    return [(p, sha256) for p, sha256 in found if sha256 is None or sha256 != about.victim]


def corrections(store: Store, references: Mapping[str, About]) -> dict[str, Correction]:
    """What the numbers of every reference (by SHA-256) are corrected for; the store remembers how many."""
    out = {}
    for reference in store.references:
        about, off = references[reference], store.taken_off(reference)
        tests = _tests(store, reference, about)
        left = sum(sha256 is None or sha256 != about.victim for _, sha256 in off)
        known = sum(tests[2]) - (len(off) - left)
        count, own = counted(*tests, _tries(store, reference, about)), counted(*tests)
        held = store.held_against()
        out[reference] = Correction(count, known, left, held, about.alpha, count - own)
    store.counted(max(c.counted for c in out.values()))
    return out


def populations(store: Store, references: Mapping[str, About]) -> dict[str, Population]:
    """The population of every reference (by SHA-256), compared with its pool."""
    out = {}
    for reference in store.references:
        z = np.array([n.z_pool for n in store.numbers(reference) if n.z_pool is not None], dtype=np.float64)
        out[reference] = compare_with_pool(z, references[reference].innocents)
    return out


def export(
    store: Store, path: str | os.PathLike[str], references: Mapping[str, About], fdr: float
) -> Summary:
    """Write the table, whole or not at all, and count what is in it.

    Args:
        store: of a finished run.
        path: of the Parquet file.
        references: what to know of each, by SHA-256.
        fdr: convictions need a q-value at or below it.

    Raises:
        StorageError: the folder is missing or unwritable, or the disk is full.
    """
    with atomic_path(path) as temporary:
        try:
            return _write(store, str(temporary), references, fdr)
        except pa.ArrowException as exc:
            raise StorageError(f"write: {path} must be writable, got {exc}") from exc


def summarise(store: Store, references: Mapping[str, About], fdr: float) -> Summary:
    """What a finished run comes to, without a table."""
    found, count, corrected = populations(store, references), _Count(), corrections(store, references)
    for reference in store.references:
        for batch in _batches(finished_rows(store, reference, references[reference], found[reference], fdr)):
            count.add(batch)
    return count.summary(store, found, corrected)


def _write(store: Store, path: str, references: Mapping[str, About], fdr: float) -> Summary:
    found, corrected = populations(store, references), corrections(store, references)
    told: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "fdr": fdr}
    told["populations"] = {k: p.to_dict() for k, p in found.items()}
    told["corrections"] = {k: c.to_dict() for k, c in corrected.items()}
    told |= {"lists": [one.to_dict() for one in store.lists()], "terms": TERMS}
    kept = schema().with_metadata({KEY: json.dumps(told)})
    count = _Count()
    # a stream: Arrow takes no file name that is not UTF-8
    with open(path, "wb") as stream, pq.ParquetWriter(stream, kept, compression="zstd") as writer:
        for reference in store.references:
            for batch in _batches(
                finished_rows(store, reference, references[reference], found[reference], fdr)
            ):
                count.add(batch)
                writer.write_table(pa.Table.from_pylist([r.to_dict() for r in batch], schema=kept))
    return count.summary(store, found, corrected)


class _Count:
    def __init__(self) -> None:
        self.rows = self.used = self.full = 0
        self.decisions: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.messages: dict[str, str] = {}
        self.seconds = dict.fromkeys(("read", "load", "forward", "score"), 0.0)
        self.first: str | None = None  # the reference whose rows count what all references share

    def summary(
        self, store: Store, found: dict[str, Population], corrected: dict[str, Correction]
    ) -> Summary:
        decisions, errors, suspects = dict(self.decisions), dict(self.errors), store.counts()[0]
        counts = (suspects, self.rows, decisions, errors, self.used, self.full, found)
        more: dict[str, Any] = {"corrections": corrected, "lists": store.lists(), "seconds": self.seconds}
        return Summary(*counts, messages=self.messages, **more)

    def add(self, rows: list[Row]) -> None:
        self.rows += len(rows)
        self.used += sum(r.queries_used for r in rows)
        self.full += sum(r.queries_full for r in rows)
        self.decisions.update(r.decision for r in rows)
        for row in rows:
            self._spent(row)
            if row.error_class:
                self.errors[row.error_class] += 1
                self.messages.setdefault(row.error_class, str(row.error_message))

    def _spent(self, row: Row) -> None:
        self.first = self.first or row.reference_sha256
        once = row.reference_sha256 == self.first
        self.seconds["score"] += row.seconds_score
        if once:
            self.seconds["read"] += row.seconds_read
            self.seconds["load"] += row.seconds_load
        if once or row.kind != WEIGHTS:  # others are asked for each reference apart
            self.seconds["forward"] += row.seconds_forward


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


__all__ = ["Summary", "corrections", "export", "finished_rows", "populations", "schema", "summarise"]
