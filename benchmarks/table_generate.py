"""From the JSON of bench_generate and bench_generate_models to Markdown: ratios, least and median of the seeds.

python benchmarks/table_generate.py results.json > results.md
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

ASKED = {"margin": (100, 2.0), "deepfool": (30, None), "plain loop": (None, None)}


def least_and_median(values: list[float]) -> str:
    return f"{min(values):.3g} / {median(values):.3g}"


def uaps(entries: list[dict[str, Any]]) -> None:
    """Speed at ART's fooling rate, over the seeds."""
    info: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for entry in entries:
        extra = entry["extra_info"]
        info[extra["who"]][extra["seed"]] = {**extra, "ms": entry["stats"]["median"] * 1e3}
    print("| | ms, median | fooling rate, each seed | times faster than ART, least / median | asked "
          "| than the plain loop, least / median | asked |\n|---|---|---|---|---|---|---|")  # fmt: skip
    first = next(iter(info.values()))
    rates = ", ".join(f"{e['art_fooling_rate']:.3f}" for e in first.values())
    seconds = median(e["art_seconds"] for e in first.values())
    print(f"| ART `UniversalPerturbation` | {seconds * 1e3:.0f} | {rates} | 1 | | | |")
    for who, seeds in info.items():
        art = [e["art_seconds"] * 1e3 / e["ms"] for e in seeds.values()]
        loop = [info["plain loop"][s]["ms"] / e["ms"] for s, e in seeds.items() if s in info["plain loop"]]
        asked = [str(x) if x is not None else "" for x in ASKED[who]]
        name = who if who == "plain loop" else f"uapfast `{who}`"
        rates = ", ".join(f"{e['fooling_rate']:.3f}" for e in seeds.values())
        ms = median(e["ms"] for e in seeds.values())
        against = least_and_median(loop) if loop else "-"
        print(
            f"| {name} | {ms:.1f} | {rates} | {least_and_median(art)} | {asked[0]} | {against} | {asked[1]} |"
        )
    print()


def several(entries: list[dict[str, Any]]) -> None:
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
    one = [e for e in entries if "who" in e["extra_info"]]
    if one:
        print("A small convolutional network on Fashion-MNIST a seed, Linf ball of 0.2, 100 images. Fooling rate "
              "on the same 1,000 held-out images; ART runs three passes, the others stop at its rate.\n")  # fmt: skip
        uaps(one)
    more = [e for e in entries if "how" in e["extra_info"]]
    if more:
        print("## `deepfool` of several models of one architecture\n")
        several(more)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
