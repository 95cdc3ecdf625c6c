"""``python -m benchmarks.power``: the table of measured power that ``uapfast plan`` shows.

Read from the committed tables that ``benchmarks.detection.few_twins`` wrote, the product's own rule in them,
so that it holds nothing that they do not. Their pools have 40 homologous models and 2 surrogates of each
candidate.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from uapfast.files import write_text
from uapfast.method.spread import WIDTH

RESULTS = Path(__file__).parent / "results"
TABLE = Path(__file__).parents[1] / "uapfast" / "pool" / "power.json"
WORLDS = {
    "few_twins_digits.md": "digits, three victims",
    "few_twins_small.md": "Fashion-MNIST, a VGG-like and a plain victim",
}
HOMOLOGOUS, SURROGATES = 40, 2
RULE = f"widened {WIDTH:g}"
COPIES = ("modified", "last layer anew", "adversarial", "students")


def rows_of(text: str) -> list[dict[str, str]]:
    """Rows of the product's rule, by column."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head = cells[0]
    return [dict(zip(head, row, strict=True)) for row in cells if len(row) == len(head) and row[1] == RULE]


def _counts(cell: str) -> tuple[float, int]:
    """``36.6 of 48``."""
    convicted, _, total = cell.partition(" of ")
    return float(convicted), int(total)


def power_table() -> dict[str, Any]:
    """What ``uapfast/pool/power.json`` holds."""
    out = []
    for name, world in WORLDS.items():
        for row in rows_of((RESULTS / name).read_text(encoding="utf-8")):
            counts = [_counts(row[kind]) for kind in COPIES]
            modified, copies = counts[0], [sum(part) for part in zip(*counts, strict=True)]
            out.append(
                {
                    "twins": int(row["twins"]),
                    "homologous": HOMOLOGOUS,
                    "surrogates": SURROGATES,
                    "world": world,
                    "copies": copies[1],
                    "convicted": round(copies[0] / copies[1], 3),
                    "modified": round(modified[0] / modified[1], 3),
                    "accused": row["accused at 0.001, %"],
                    "source": f"benchmarks/results/{name}",
                }
            )
    return {"made_by": "python -m benchmarks.power", "rows": out}


def main() -> None:
    """Write the table."""
    write_text(TABLE, json.dumps(power_table(), indent=1) + "\n")


if __name__ == "__main__":
    main()
