"""The false-accusation rates that statements cite: taken out of the tables in ``results``, with their hashes.

python -m benchmarks.stated_rates      # writes uapfast/evidence/rates.json; a test compares it with them
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from uapfast.files import write_text

RESULTS = Path(__file__).parent / "results"
RATES = Path(__file__).parents[1] / "uapfast" / "evidence" / "rates.json"
LEVELS = ("0.05", "0.01", "0.001")
SHARE = re.compile(r"([\d.]+)%? \(([\d.]+)%?-([\d.]+)%?\)")
RULE = "widened 2"  # of few_twins_*: the rule of the product


def worst(table: Path, rows: list[list[str]], world: str, sample: str) -> list[dict[str, Any]]:
    """The largest share of each level over rows of ``share (low-high)``, as decimals of 1."""
    out = []
    for column, level in enumerate(LEVELS):
        found = [SHARE.fullmatch(row[column].strip()) for row in rows]
        shares = [tuple(float(m[k]) for k in (1, 3)) for m in found if m is not None]
        assert len(shares) == len(rows) > 0, f"{table.name}: a cell is no share"
        share, high = max(shares)
        out.append(
            {
                "level": level,
                "accused": f"{share / 100:.4f}",
                "upTo": f"{max(h for _, h in shares) / 100:.4f}",
                "world": world,
                "sample": sample,
                "table": f"benchmarks/results/{table.name}",
                "sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
            }
        )
        assert high <= float(out[-1]["upTo"]) * 100 + 1e-9
    return out


def cells(table: Path) -> list[list[str]]:
    """The rows of a file's tables."""
    lines = [line.strip() for line in table.read_text(encoding="utf-8").splitlines()]
    return [line.strip("|").split("|") for line in lines if line.startswith("| ")]


def rates() -> list[dict[str, Any]]:
    """What statements cite."""
    table = RESULTS / "levels.md"
    rows = [row[1:4] for row in cells(table) if SHARE.fullmatch(row[1].strip())]
    runs = re.search(r"(\d+) pools and innocent suspects a setting", table.read_text(encoding="utf-8"))
    assert runs is not None
    world = f"simulated scores, the worst of {len(rows)} settings"
    found = worst(table, rows, world, f"{runs[1]} pools and innocents a setting")
    table = RESULTS / "few_twins_digits.md"
    rows = [row[2:5] for row in cells(table) if row[1].strip() == RULE]
    world = "honest networks on digits, every candidate in the victim's place, the worst number of twins"
    sample = "three victims with 16 twins; intervals by bootstrap over models"
    return found + worst(table, rows, world, sample)


def main() -> None:
    """Write them."""
    write_text(RATES, json.dumps(rates(), indent=1) + "\n")


if __name__ == "__main__":
    main()
