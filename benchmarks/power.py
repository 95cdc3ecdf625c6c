"""``python -m benchmarks.power``: the table of measured power that ``uapfast plan`` shows.

Read from the committed tables that ``benchmarks.detection.ablate`` wrote (sections *Twins* and *Innocents*),
so that it holds nothing that they do not: pools of 2 surrogates a candidate, and 16 twins or 40 homologous
models where the section does not say another number.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from uapfast.files import write_text

RESULTS = Path(__file__).parent / "results"
TABLE = Path(__file__).parents[1] / "uapfast" / "pool" / "power.json"
WORLDS = {
    "detection_ablation.md": "Fashion-MNIST, 30,000 images a side",
    "detection_ablation_digits.md": "digits, 450 images a side",
}
TWINS, HOMOLOGOUS, SURROGATES = 16, 40, 2
SIZES = {"Twins": r"(?P<twins>\d+) twins?", "Innocents": r"(?:first|all) (?P<homologous>\d+)"}


def rows_of(text: str, section: str) -> list[dict[str, str]]:
    """Rows of a section's table, by column."""
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        return []
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def power_table() -> dict[str, Any]:
    """What ``uapfast/pool/power.json`` holds."""
    out: dict[tuple[str, int, int], dict[str, Any]] = {}
    for name, world in WORLDS.items():
        text = (RESULTS / name).read_text(encoding="utf-8")
        for section, pattern in SIZES.items():
            for row in rows_of(text, section):
                size = re.fullmatch(pattern, row["part"])
                if size is None:
                    continue
                given = {"twins": TWINS, "homologous": HOMOLOGOUS, "surrogates": SURROGATES}
                given |= {key: int(number) for key, number in size.groupdict().items()}
                out[world, given["twins"], given["homologous"]] = {
                    **given,
                    "world": world,
                    "convicted": float(row["convicted at 0.001"].rstrip("%")) / 100,
                    "accused": row["innocents accused"],
                    "auc": float(row["overall"]),
                    "source": f"benchmarks/results/{name}",
                }
    return {"made_by": "python -m benchmarks.power", "rows": [out[key] for key in sorted(out)]}


def main() -> None:
    """Write the table."""
    write_text(TABLE, json.dumps(power_table(), indent=1) + "\n")


if __name__ == "__main__":
    main()
