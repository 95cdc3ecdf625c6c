"""From the JSON of bench_generate and bench_generate_models to Markdown: ratios, least and median of seeds.

python benchmarks/table_generate.py results.json > results.md
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

ASKED = {"margin": ("100", "2"), "deepfool": ("30", ""), "plain loop": ("", "")}
Entries = list[dict[str, Any]]
INTRODUCTION = """\
A small convolutional network on Fashion-MNIST a seed, Linf ball of 0.2; fooling rates on the same 1,000
held-out images. From 100 images, of which ART makes three passes, to the rate that ART ends with; and from
400 to a rate that ART does not reach.
"""


def least_and_median(values: list[float]) -> str:
    return f"{min(values):.3g} / {median(values):.3g}"


def head(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}"


def race(entries: Entries) -> None:
    """Speed at one fooling rate, over the seeds."""
    info: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for entry in entries:
        extra = entry["extra_info"]
        info[extra["who"]][extra["seed"]] = {**extra, "ms": entry["stats"]["median"] * 1e3}
    first = next(iter(info.values()))
    with_art = all(e["art_seconds"] > 0 for e in first.values())
    columns = ["times faster than ART, least / median", "asked"] if with_art else []
    print(head(["", "ms, median", "fooling rate, each seed", *columns, "than the plain loop", "asked"]))
    if with_art:
        rates = ", ".join(f"{e['asked_rate']:.3f}" for e in first.values())
        seconds = median(e["art_seconds"] for e in first.values())
        print(f"| ART `UniversalPerturbation` | {seconds * 1e3:.0f} | {rates} | 1 | | | |")
    loops = info.get("plain loop", {})
    for who, seeds in info.items():
        cells = [who if who == "plain loop" else f"uapfast `{who}`"]
        cells.append(f"{median(e['ms'] for e in seeds.values()):.1f}")
        short = ("" if e["fooling_rate"] >= e["asked_rate"] else " (missed)" for e in seeds.values())
        rates = (f"{e['fooling_rate']:.3f}" for e in seeds.values())
        cells.append(", ".join(r + s for r, s in zip(rates, short, strict=True)))
        if with_art:
            cells.append(least_and_median([e["art_seconds"] * 1e3 / e["ms"] for e in seeds.values()]))
            cells.append(ASKED[who][0])
        against = [loops[s]["ms"] / e["ms"] for s, e in seeds.items() if s in loops]
        cells += [least_and_median(against) if against else "-", ASKED[who][1]]
        print(f"| {' | '.join(cells)} |")
    print()


def several(entries: Entries) -> None:
    """Models in shared steps against one by one."""
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for entry in entries:
        groups[entry["group"]][entry["extra_info"]["how"]] = entry["stats"]["min"] * 1e3
    print("| | one by one, ms | together, ms | times faster |\n|---|---|---|---|")
    for group, ms in groups.items():
        if len(ms) == 2:
            one, all_ = ms["one by one"], ms["together"]
            print(f"| {group} | {one:.0f} | {all_:.0f} | {one / all_:.2f} |")
    print()


def main(path: Path) -> None:
    data = json.loads(path.read_text())
    machine, entries = data["machine_info"], data["benchmarks"]
    print("# UAPs: ours, ART's, a plain loop\n")
    print(f"Taken {data['datetime'][:10]} on {machine['cpu'].get('brand_raw', 'a CPU')}, torch threads "
          f"{machine['torch_threads']}, load {machine.get('load', '?')} at the end; "
          + ", ".join(f"{k} {v}" for k, v in machine["versions"].items()) + ".\n")  # fmt: skip
    print(INTRODUCTION)
    races: dict[str, Entries] = defaultdict(list)
    for entry in entries:
        if "who" in entry["extra_info"]:
            races[entry["extra_info"]["what"]].append(entry)
    for what, members in races.items():
        print(f"## At {what}\n")
        race(members)
    more = [e for e in entries if "how" in e["extra_info"]]
    if more:
        print("## `deepfool` of several models of one architecture\n")
        several(more)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
