"""From pytest-benchmark's JSON to Markdown: time, bandwidth, share of the ceiling, ratios in the run.

python benchmarks/table.py results.json > results.md
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def milliseconds(entry: dict[str, Any]) -> float:
    """By events where there are any (GPU), else by the clock."""
    return float(entry["extra_info"].get("event_ms", entry["stats"]["median"] * 1e3))


def ceilings(entries: list[dict[str, Any]]) -> dict[str, float]:
    """GB/s of the copies and GFLOP/s of the products that the run measured."""
    found = {}
    for entry in entries:
        if entry["group"] == "ceilings":
            unit = "GFLOP/s" if "GFLOP/s" in entry["extra_info"] else "GB/s"
            found[f"{entry['name'].removeprefix('bench_')} ({unit})"] = entry["extra_info"][unit]
    return found


def rows(entries: list[dict[str, Any]], copy: float) -> list[str]:
    """One table row for each implementation of a group, fastest first."""
    times = {e["params"]["implementation"]: milliseconds(e) for e in entries}
    out = []
    for entry in sorted(entries, key=milliseconds):
        name, ms = entry["params"]["implementation"], milliseconds(entry)
        rate = entry["extra_info"]["bytes"] / ms / 1e6
        ratios = [f"{times[p] / ms:.2f}" if p in times else "-" for p in ("eager", "compile")]
        share = f"{100 * rate / copy:.0f} %" if copy else "-"
        out.append(f"| {name} | {ms:.3f} | {rate:.1f} | {share} | {ratios[0]} | {ratios[1]} |")
    return out


def main(path: Path) -> None:
    data = json.loads(path.read_text())
    machine = data["machine_info"]
    entries = data["benchmarks"]
    top = ceilings(entries)
    copy = max((v for k, v in top.items() if k.startswith("copy[256")), default=0.0)
    print(f"# Ops: {machine.get('gpu') or machine['cpu'].get('brand_raw', 'CPU')}\n")
    print(
        f"Taken {data['datetime'][:10]}; torch threads {machine['torch_threads']}, SIMD {machine['simd']}; ",
        end="",
    )
    print(", ".join(f"{k} {v}" for k, v in machine["versions"].items()) + ".\n")
    print("Ceilings of the run: " + "; ".join(f"{k} {v}" for k, v in top.items()) + ".\n")
    groups = defaultdict(list)
    for entry in entries:
        if entry["group"] != "ceilings" and "implementation" in (entry["params"] or {}):
            groups[entry["group"]].append(entry)
    for group, members in groups.items():
        print(f"## {group}\n")
        print("| implementation | ms | GB/s needed | of a copy | times faster than eager | than compile |")
        print("|---|---|---|---|---|---|")
        print("\n".join(rows(members, copy)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
