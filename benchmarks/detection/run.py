"""The table: how well each score tells piracy models from innocents, on models that nothing was tuned on.

    python -m benchmarks.detection run --zoo DIR [--jobs 2] [--victims ARCH ...] [--scores NAME ...]

Makes a reference for each victim of the zoo and each variant, judges every suspect by it, and writes
``benchmarks/results/detection[_KIND].{json,md,png}`` (the JSON rows, megabytes that nothing else
reads, are not kept in the repository). Each row's count, interval and access are stated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.detection.compare import kept_rows
from benchmarks.detection.judge import OURS, Row, judge, require_complete, scores, settled
from benchmarks.detection.make import Place
from benchmarks.detection.options import parser_for
from benchmarks.detection.page import text
from benchmarks.detection.plots import plots
from benchmarks.detection.table import by_access, by_attack, by_score, by_victim, levels, paper_level
from benchmarks.detection.workers import over
from benchmarks.detection.zoo import open_zoo
from uapfast.files import write_text

RESULTS = Path(__file__).parents[1] / "results"
console = Console(stderr=True)


def _task(place: Place, pair: tuple[str, str]) -> list[Row]:
    """One victim by one variant; kept in the zoo's folder, so that a second run goes on."""
    path = place.out / f"rows-{pair[0]}-{list(OURS).index(pair[1])}.json"
    if not path.exists():
        write_text(path, json.dumps(judge(place, *pair)))
    rows: list[Row] = json.loads(path.read_text())
    return rows


def _rows(place: Place, names: Sequence[str], victims: Sequence[str], jobs: int) -> list[Row]:
    pairs = [(arch, name) for name in names for arch in victims]
    rows = sum(over(partial(_task, place), pairs, jobs, "victim x score"), [])
    for row in rows:
        record = json.loads(place.suspect_path(row["suspect"]).with_suffix(".json").read_text())
        row |= {k: record[k] for k in ("test_accuracy", "agreement") if k in record}
    return rows


def _some(place: Place, kind: str, victims: Sequence[str], jobs: int) -> None:
    """The default and the paper's encoder, on some victims of a zoo that may lack the suspects of others."""
    rows = _rows(place, ["ours", "paper"], victims, jobs)
    baselines = [kept_rows(place, arch) for arch in victims]
    rows += sum(baselines, []) if all(baselines) else []
    command = f"python -m benchmarks.detection run --zoo DIR --victims {' '.join(victims)}"
    paper = f"The paper's encoder and test at 99.99 % accuse {paper_level(rows)}."
    parts = [by_attack(rows), by_victim(rows), by_access(rows), by_score(rows), levels(rows), [paper]]
    made = {row["suspect"] for row in rows}
    head = f"# Detection, some victims\n\nMade by `{command}`."
    head += f" Zoo: {kind}; {len(made)} suspects, none of them in a pool."
    content = "\n\n".join([head, *("\n".join(part) for part in parts)]) + "\n"
    write_text(RESULTS / f"detection_{'_'.join([kind, *victims])}.md", content)
    console.print(content)


def main() -> None:
    """Judge and write."""
    parser = parser_for(__doc__, jobs=2, victims=True)
    parser.add_argument("--scores", nargs="+", choices=OURS, metavar="NAME", help="only these variants")
    args = parser.parse_args()
    place, kind = open_zoo(args.zoo), json.loads((args.zoo / "zoo.json").read_text())["kind"]
    if args.victims:
        _some(place, kind, args.victims, args.jobs)
        return
    require_complete(place)
    rows = _rows(place, args.scores or scores(place), list(place.size.epochs), args.jobs)
    baselines = [kept_rows(place, arch) for arch in place.size.epochs]
    if all(baselines):
        rows += sum(baselines, [])
    else:
        console.print(f"no baselines: python -m benchmarks.detection compare --zoo {args.zoo} was not run")
    suffix = "" if kind == "full" else f"_{kind}"
    some = f" --scores {' '.join(args.scores)}" if args.scores else ""
    command = f"python -m benchmarks.detection run --zoo DIR{some} (zoo: {kind})"
    accuracy = {
        arch: json.loads(place.victim_path(arch).with_suffix(".json").read_text())["test_accuracy"]
        for arch in place.size.epochs
    }
    content = text(rows, command, place.size, accuracy, settled(place, {}))
    write_text(RESULTS / f"detection{suffix}.md", content)
    write_text(
        RESULTS / f"detection{suffix}.json",
        json.dumps([_short(r) for r in rows], separators=(",", ":")) + "\n",
    )
    plots(rows, RESULTS / f"detection{suffix}.png")
    console.print(content)


def _short(row: Row) -> Row:
    """A row with figures of four digits: the file is megabytes long."""

    def cut(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        return [cut(v) for v in value] if isinstance(value, list) else value

    return {k: cut(v) for k, v in row.items() if k not in ("z_by_views", "raw")}


if __name__ == "__main__":
    main()
