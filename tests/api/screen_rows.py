"""What a screen wrote, as the tests compare it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from uapfast.screening.table.rows import SECONDS


def table(path: Path) -> dict[tuple[str, str], dict]:
    rows = pq.read_table(path).to_pylist()
    found = {(r["reference"], r["name"]): r for r in rows}
    assert len(found) == len(rows)
    return found


def bare(rows: dict) -> dict:
    """Without what no two runs share."""
    return {k: {c: v for c, v in row.items() if c not in SECONDS} for k, row in rows.items()}
