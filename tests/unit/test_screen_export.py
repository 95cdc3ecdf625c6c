"""The table: one schema, readable by others, whole or not there, from a store of any size."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uapfast.errors import StorageError
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table import export as module
from uapfast.screening.table.export import export, schema
from uapfast.screening.table.rows import COLUMNS, SCHEMA_VERSION, About, Row, error_line
from uapfast.screening.table.store import Store

REFERENCES = {"a": About("a", 30, 1e-3), "b": About("b", 30, 1e-3)}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "screening.md"


def make(suspect: Entry, reference: str, number: int) -> Row:
    if number == 1:
        return Row(
            reference=reference, reference_sha256=reference, name=suspect.name, path=suspect.shown,
            arch=suspect.arch, sha256=None, decision="invalid", alpha=1e-3, settings="{}", versions="{}",
            queries_full=100, error_class="ModelError", error_message="no such file",
        )  # fmt: skip
    p = 1e-6 if number == 0 else number / 5000
    return Row(
        reference=reference, reference_sha256=reference, name=suspect.name, path=suspect.shown,
        arch=suspect.arch, sha256="00", decision="piracy" if p < 1e-3 else "independent", alpha=1e-3,
        settings='{"x": 1}', versions="{}", queries_full=100, queries_used=40, views_used=2, p_value=p,
        z_pool=(number % 7 - 3) / 2, z=1.0, reasons=("first", "second"), rank=1, similarity=0.5,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    suspects = [Entry(f"/x/{i}.pt", "uapfast:mlp-small") for i in range(5000)]
    with Store(tmp_path / "s", {"a": "s", "b": "s"}) as store:
        store.set_plan(suspects)
        store.add([(s, "-", [make(s, "a", i), make(s, "b", i)]) for i, s in enumerate(suspects)])
        yield store


def test_the_table_holds_every_row_once_in_order(store, tmp_path):
    path = tmp_path / "t.parquet"
    summary = export(store, path, REFERENCES, 0.05)
    table = pq.read_table(path)
    assert table.schema.equals(schema()) and table.column_names == [c.name for c in COLUMNS]
    names = [f"{i}.pt" for i in range(5000)]
    assert table["name"].to_pylist() == names * 2
    assert table["reference"].to_pylist() == ["a"] * 5000 + ["b"] * 5000
    assert summary.suspects == 5000 and summary.rows == 10_000
    # numbers 2, 3, 4 lie below alpha but not below q: 5000 rows at 0.05
    assert summary.decisions == {"piracy": 2, "invalid": 2, "inconclusive": 6, "independent": 9990}
    assert summary.errors == {"ModelError": 2} and summary.exit_code == 1
    assert summary.queries_used == 2 * 4999 * 40 and summary.queries_full == 1_000_000
    q = table["q_value"].to_pylist()
    assert (
        q[1] is None and q[0] == pytest.approx(1e-6 * 4999) and all(0 <= v <= 1 for v in q if v is not None)
    )
    told = json.loads(pq.read_schema(path).metadata[b"uapfast"])
    assert told["schema_version"] == SCHEMA_VERSION and told["fdr"] == 0.05
    assert told["populations"]["a"]["suspects"] == 4999
    json.dumps(summary.to_dict(), allow_nan=False)


def test_pandas_duckdb_and_polars_read_the_same(store, tmp_path):
    duckdb, pandas, polars = (pytest.importorskip(n) for n in ("duckdb", "pandas", "polars"))
    path = str(tmp_path / "t.parquet")
    export(store, path, REFERENCES, 0.05)
    sql = f"SELECT name, p_value, reasons FROM '{path}' WHERE decision = 'piracy' AND reference = 'b'"
    # p 1e-6 of 4999, of two references
    holm = "to name one party of this list, cite 0.01 (p_holm; it knows no tries in other stores); "
    holm += "q 0.005 ranks the list"
    want = ("0.pt", 1e-6, ["first", "second", holm])
    assert duckdb.sql(sql).fetchall() == [want]
    frame = pandas.read_parquet(path)
    got = frame[(frame.decision == "piracy") & (frame.reference == "b")].iloc[0]
    assert (got["name"], got.p_value, list(got.reasons)) == want
    rows = polars.read_parquet(path).filter(
        (polars.col("decision") == "piracy") & (polars.col("reference") == "b")
    )
    assert rows.select("name", "p_value", "reasons").rows() == [want]


def test_no_table_rather_than_half_of_one(store, tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    path.write_text("the old one")

    def fail(self, table):
        if self.where_count:
            raise OSError(28, "No space left on device")
        self.where_count = 1

    monkeypatch.setattr(module.pq.ParquetWriter, "where_count", 0, raising=False)
    monkeypatch.setattr(module.pq.ParquetWriter, "write_table", fail)
    with pytest.raises(StorageError, match="No space left"):
        export(store, path, REFERENCES, 0.05)
    assert path.read_text() == "the old one" and len(list(tmp_path.glob("*.tmp"))) == 0
    with pytest.raises(StorageError):
        export(store, tmp_path / "none" / "t.parquet", REFERENCES, 0.05)


@pytest.mark.parametrize(
    ("decisions", "code"),
    [
        ({"independent": 5}, 0),
        ({}, 0),
        ({"invalid": 1, "independent": 5}, 4),
        ({"inconclusive": 1, "invalid": 1}, 3),
        ({"piracy": 1, "inconclusive": 9, "invalid": 9}, 1),
    ],
)
def test_exit_codes(decisions, code):
    assert module.Summary(1, 1, decisions, {}, 0, 0, {}).exit_code == code


def test_rows_survive_json():
    row = make(Entry("/x/0.pt", "a:b"), "r", 3)
    assert Row.from_json(row.to_json()) == row
    moved = row.moved_to("other", "/y", seconds_read=0.5)
    assert (moved.same_as, moved.p_value, moved.seconds_forward) == ("0.pt", row.p_value, 0.0)
    assert pa.Table.from_pylist([row.to_dict()], schema=schema()).to_pylist()[0]["name"] == "0.pt"


def test_messages_are_one_short_printable_line():
    text = error_line(ValueError("a\nb\x1b[31m" + "c" * 9000))
    assert text.startswith("a b\\x1b[31mccc") and len(text) == 500


def test_the_documented_schema_is_the_schema():
    lines = [f"| `{c.name}` | {c.type} | {'yes' if c.null else 'no'} | {c.says} |" for c in COLUMNS]
    text = DOCS.read_text(encoding="utf-8")
    missing = [line for line in lines if line not in text]
    assert not missing, "docs/screening.md lacks:\n" + "\n".join(lines)
    assert f"version {SCHEMA_VERSION}" in text
