"""``python -m benchmarks.power``: the table of measured power that ``uapfast plan`` shows.

Read from the committed tables that ``benchmarks.detection.few_twins`` wrote, the product's own rule in them,
so that it holds nothing that they do not. Their pools have 40 homologous models and 2 surrogates of each
candidate.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.error_rates import WORLDS, real_rows, rows_of
from uapfast.files import write_text

RESULTS = Path(__file__).parent / "results"
TABLE = Path(__file__).parents[1] / "uapfast" / "pool" / "power.json"
HOMOLOGOUS, SURROGATES = 40, 2
COPIES = ("modified", "last layer anew", "adversarial", "students")


def _counts(cell: str) -> tuple[float, int]:
    """``36.6 of 48``."""
    convicted, _, total = cell.partition(" of ")
    return float(convicted), int(total)


def _accused(name: str, text: str, twins: int) -> str:
    """How many honest models were accused at .001: never 0 % of an unknown number."""
    (row,) = [r for r in real_rows(name, text) if r["twins"] == twins and r["alpha"] == "0.001"]
    of = f"{row['models']} honest models"
    most = f"{100 * float(row['high']):.3g} %"
    if not float(row["accused"]):
        return f"none of {of} (at most {most} with 95 % confidence, by models alone)"
    return f"{100 * float(row['accused']):.3g} % of pairs (at most {most}) of {of}"


def power_table() -> dict[str, Any]:
    """What ``uapfast/pool/power.json`` holds."""
    out = []
    for name, world in WORLDS.items():
        text = (RESULTS / name).read_text(encoding="utf-8")
        for row in rows_of(text):
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
                    "accused": _accused(name, text, int(row["twins"])),
                    "source": f"benchmarks/results/{name}",
                }
            )
    return {"made_by": "python -m benchmarks.power", "rows": out}


def main() -> None:
    """Write the table."""
    write_text(TABLE, json.dumps(power_table(), indent=1) + "\n")


if __name__ == "__main__":
    main()
