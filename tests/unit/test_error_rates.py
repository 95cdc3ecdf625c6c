"""The measured error rates that pages and statements repeat: those of the committed tables, and no others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from benchmarks.error_rates import TABLE, real_rows, table
from uapfast.examination.error_rates import error_rates, rates_for

ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_numbers_are_those_of_the_tables() -> None:
    assert json.loads(TABLE.read_text()) == table(), "python -m benchmarks.error_rates"
    shipped = error_rates()
    for path, digest in shipped["tables"].items():
        assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest() == digest
    assert {row["source"] for row in shipped["rows"]} == set(shipped["tables"])


def test_a_number_that_a_table_does_not_have_is_noticed() -> None:
    name = "few_twins_digits.md"
    text = (ROOT / "benchmarks" / "results" / name).read_text()
    before, after = "| 2 | widened 2 | 0.14 (", "| 2 | widened 2 | 0.70 ("
    assert text.count(before) == 1
    rows = list(real_rows(name, text))
    assert rows != list(real_rows(name, text.replace(before, after)))
    first = next(r for r in rows if (r["twins"], r["alpha"]) == (2, "0.05"))
    assert (first["accused"], first["low"], first["high"]) == ("0.0014", "0.0003", "0.0027")
    assert (first["models"], first["victims"]) == (30, 3)  # half of the 60 innocents of that zoo


def test_none_accused_is_no_proof_of_zero() -> None:
    rows = [r for r in error_rates()["rows"] if r["kind"] == "models" and float(r["accused"]) == 0]
    assert rows
    for row in rows:
        assert float(row["high"]) == pytest.approx(1 - 0.05 ** (1 / row["models"]), abs=5e-4)


@pytest.mark.parametrize(
    ("alpha", "twins", "level", "count"),
    [(1e-3, 16, "0.001", 16), (1e-3, 13, "0.001", 12), (5e-4, 1, "0.0001", 2), (1e-9, 99, "0.0001", 16)],
)
def test_the_rows_that_fit_a_pool_best(alpha: float, twins: int, level: str, count: int) -> None:
    rows = rates_for(alpha, twins)
    digits = next(r for r in rows if r["world"].startswith("digits"))
    assert (digits["alpha"], digits["twins"]) == (level, count)
    assert {r.get("within") for r in rows} == {None, True, False}
    assert all(len(r["source_sha256"]) == 64 for r in rows)
    assert {r["access"] for r in rates_for(alpha, twins, labels=True) if "access" in r} == {"labels"}


def test_every_number_is_text_or_whole() -> None:
    assert not any(isinstance(v, float) for row in rates_for(1e-3, 12) for v in row.values())
