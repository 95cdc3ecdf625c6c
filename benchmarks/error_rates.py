"""``python -m benchmarks.error_rates``: the measured error rates that pages and statements repeat.

Read from the committed tables, the product's own rule in them, with the SHA-256 of each, so that nobody can
state a rate that no table has. A table that was made anew asks for this command again; a test says so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.detection.few_twins import DEGRADED, LEVELS
from benchmarks.detection.subsets import TWINS
from uapfast._version import __version__
from uapfast.examination.error_rates import SHIPPED, earlier
from uapfast.files import write_text
from uapfast.method.spread import WIDTH

RESULTS = Path(__file__).parent / "results"
TABLE = Path(__file__).parents[1] / "uapfast" / "examination" / "error_rates.json"
WORLDS = {
    "few_twins_digits.md": "digits, three victims",
    "few_twins.md": "Fashion-MNIST, a VGG-like and a plain victim",
}
RULE = f"widened {WIDTH:g}"  # the product's own
REAL = {  # table: world, what suspects show
    "few_twins_digits.md": (WORLDS["few_twins_digits.md"], "probabilities"),
    "few_twins_digits_labels.md": (WORLDS["few_twins_digits.md"], "labels"),
    "few_twins.md": (WORLDS["few_twins.md"], "probabilities"),
    "few_twins_labels.md": (WORLDS["few_twins.md"], "labels"),
}
SIMULATED = "spreads.md"
SIMULATED_LEVELS = ("0.01", "0.001", "0.0001")
BEYOND = "3 times as wide"  # the rule holds for suspects that vary at most twice as much as innocents do
DRAWN = re.compile(r"of (\d+) runs")
CELL = re.compile(r"([\d.]+) \(([\d.]+)-([\d.]+)\)")


def rows_of(text: str) -> list[dict[str, str]]:
    """Rows of the product's rule, by column."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head = cells[0]
    return [dict(zip(head, row, strict=True)) for row in cells if len(row) == len(head) and row[1] == RULE]


def _shares(cell: str) -> dict[str, str]:
    """``0.14 (0.05-0.28)``, in percent, as decimal shares of 1 with the cell's own digits."""
    found = CELL.fullmatch(cell)
    if found is None:
        raise ValueError(cell)
    return dict(zip(("accused", "low", "high"), map(_share, found.groups()), strict=True))


def _share(percent: str) -> str:
    _, _, digits = percent.partition(".")
    return f"{float(percent) / 100:.{len(digits) + 2}f}"


def _models(row: dict[str, str], victims: int, twins: int) -> int:
    """Honest models in the half that the table rests on, from the number of pairs with degraded ones.

    Each model is degraded in several ways and stands before every victim, every subset and every place.
    """
    pairs = int(row["degraded: at .01, % / at .001"].rpartition(" of ")[2])
    return pairs // (len(DEGRADED) * victims * TWINS.get(twins, 1) * (twins + 1))


def _interval(shares: dict[str, str], models: int) -> dict[str, str]:
    """With an interval that is one: a bootstrap over models of which none was accused says 0 to 0.

    Then the upper end is the exact one-sided 95 % limit of a share of which ``models`` draws showed nothing,
    as if pairs that share a model said nothing more.
    """
    if float(shares["accused"]):
        return shares | {"interval": "95 % bootstrap over models"}
    limit = f"{1 - 0.05 ** (1 / models):.3f}"
    return shares | {"low": "0", "high": limit, "interval": "95 % limit, exact, by independent models alone"}


def real_rows(name: str, text: str) -> Iterator[dict[str, Any]]:
    """Rows of a table of ``benchmarks.detection.few_twins``."""
    world, access = REAL[name]
    found = re.search(r"victims: ([^)]*)\)", text)
    victims = 0 if found is None else len(found[1].split(","))
    for row in rows_of(text):
        twins = int(row["twins"])
        counted = row["degraded: at .01, % / at .001"].rpartition("/")[2].strip()
        hits, _, pairs = counted.partition(" of ")
        for level in LEVELS:
            degraded = {"hits": int(hits), "pairs": int(pairs)} if level == 0.001 else None
            yield {
                "kind": "models",
                "world": world,
                "access": access,
                "twins": twins,
                "alpha": f"{level:g}",
                **_interval(_shares(row[f"accused at {level:g}, %"]), _models(row, victims, twins)),
                "victims": victims,
                "models": _models(row, victims, twins),
                "degraded": degraded,
            }


def simulated_rows(text: str) -> Iterator[dict[str, Any]]:
    """The worst world within what the rule assumes, and beyond it, of ``benchmarks.detection.spreads``."""
    found = DRAWN.search(text)
    runs = 0 if found is None else int(found[1])
    lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    rows = [cells for cells in lines if len(cells) == 7 and cells[2] == RULE]
    for twins in sorted({int(cells[1]) for cells in rows}):
        for column, level in enumerate(SIMULATED_LEVELS, 3):
            for beyond in (False, True):
                these = [c for c in rows if int(c[1]) == twins and (BEYOND in c[0]) == beyond]
                worst = max(these, key=lambda c: float(_shares(c[column])["high"]))
                yield {
                    "kind": "simulation",
                    "within": not beyond,
                    "world": worst[0],
                    "worlds": len(these),
                    "twins": twins,
                    "alpha": level,
                    **_shares(worst[column]),
                    "interval": "95 % Wilson",
                    "runs": runs,
                }


def table() -> dict[str, Any]:
    """What ``uapfast/examination/error_rates.json`` holds."""
    rows: list[dict[str, Any]] = []
    hashes = {}
    for name in (*REAL, SIMULATED):
        data = (RESULTS / name).read_bytes()
        source = f"benchmarks/results/{name}"
        hashes[source] = hashlib.sha256(data).hexdigest()
        text = data.decode("utf-8")
        found = simulated_rows(text) if name == SIMULATED else real_rows(name, text)
        rows += [row | {"source": source} for row in found]
    return {"made_by": "python -m benchmarks.error_rates", "rule": RULE, "tables": hashes, "rows": rows}


def released() -> set[str]:
    """Versions that CHANGELOG.md has a heading of."""
    text = (TABLE.parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    return set(re.findall(r"^## \[?(\d[\w.]*)", text, re.MULTILINE))


def written(folder: Path, version: str, text: str, out: set[str]) -> None:
    """Make ``text`` the table of a version; an earlier version keeps its own, for whoever audits it.

    Args:
        folder: of the tables.
        version: this one.
        text: of its table.
        out: versions that are released.

    Raises:
        SystemExit: the version is released, with another table: statements that name it would no longer hold.
    """
    history: dict[str, str] = json.loads((folder / SHIPPED).read_text(encoding="utf-8"))
    new = hashlib.sha256(text.encode()).hexdigest()
    if version in out and history.get(version, new) != new:
        raise SystemExit(f"uapfast {version} is released with another table: raise the version first")
    if (folder / TABLE.name).exists():
        old = (folder / TABLE.name).read_bytes()
        sha256 = hashlib.sha256(old).hexdigest()
        if sha256 != new and sha256 in {h for v, h in history.items() if v != version}:
            write_text(folder / earlier(sha256), old.decode())
    write_text(folder / TABLE.name, text)
    write_text(folder / SHIPPED, json.dumps(history | {version: new}, indent=1) + "\n")


def main() -> None:
    """Write the table, and that this version has it."""
    written(TABLE.parent, __version__, json.dumps(table(), indent=1) + "\n", released())


if __name__ == "__main__":
    main()
