"""The measured error rates that pages and statements repeat: those of the committed tables, and no others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from benchmarks.error_rates import TABLE, real_rows, released, table, written
from uapfast._version import __version__
from uapfast.examination.error_rates import SHIPPED, earlier, error_rates, rates_for, shipped, table_of

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
    before, after = "| 2 | widened 2 | 0.19 (", "| 2 | widened 2 | 0.70 ("
    assert text.count(before) == 1
    rows = list(real_rows(name, text))
    assert rows != list(real_rows(name, text.replace(before, after)))
    first = next(r for r in rows if (r["twins"], r["alpha"]) == (2, "0.05"))
    assert (first["accused"], first["low"], first["high"]) == ("0.0019", "0.0007", "0.0032")
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


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_tables_do_not_change_unless_the_history_of_versions_does() -> None:
    """An audit holds what a statement says against what its version shipped: that must not be forgotten."""
    history = shipped()
    assert history.get(__version__) == sha256(TABLE), "python -m benchmarks.error_rates"
    assert released() <= set(history)
    for version, digest in history.items():
        kept = TABLE if digest == sha256(TABLE) else TABLE.parent / earlier(digest)
        assert sha256(kept) == digest
        found = table_of(version)
        assert found is not None and found["rows"] and found["tables"]
    assert table_of("0.0.0") is None and table_of("") is None


def test_a_released_version_keeps_its_table(tmp_path: Path) -> None:
    for name in (TABLE.name, SHIPPED):
        (tmp_path / name).write_bytes((TABLE.parent / name).read_bytes())
    first, old = sha256(tmp_path / TABLE.name), dict(shipped())

    def history() -> dict[str, str]:
        found: dict[str, str] = json.loads((tmp_path / SHIPPED).read_text())
        return found

    with pytest.raises(SystemExit, match=f"{__version__} is released with another table: raise the version"):
        written(tmp_path, __version__, "{}\n", {__version__})
    assert history() == old and sha256(tmp_path / TABLE.name) == first
    written(
        tmp_path, __version__, '{"unreleased": 1}\n', set()
    )  # a table that no version shipped is not kept
    assert history() == old | {__version__: sha256(tmp_path / TABLE.name)}
    assert not (tmp_path / earlier(first)).exists()
    written(tmp_path, __version__, TABLE.read_text(), set())
    written(tmp_path, "9.9.9", '{"anew": 1}\n', {__version__})
    assert history() == old | {"9.9.9": sha256(tmp_path / TABLE.name)}
    assert sha256(tmp_path / earlier(first)) == first
