"""From pytest-benchmark's JSON to Markdown: time, bandwidth, share of the ceiling, ratios in the run.

    python benchmarks/table.py results.json [MORE.json ...] > results.md
    python benchmarks/table.py --merge all.json one.json two.json > all.md
    python benchmarks/table.py --join all.json ceilings.json project_lp.json ... > all.md

Several files, e.g. of one and of two threads, become one table a file; ``--merge`` also writes their entries
into one file, from which the same tables can be made. ``--join`` takes them for parts of one run, each held
against the ceilings of the first that measured them.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

PEERS = ("eager", "compile")
Entries = list[dict[str, Any]]


def milliseconds(entry: dict[str, Any]) -> float:
    """By events where there are any (GPU), else by the clock."""
    return float(entry["extra_info"].get("event_ms", entry["stats"]["median"] * 1e3))


def ceilings(entries: Entries) -> dict[str, float]:
    """GB/s of the copies and GFLOP/s of the products that the run measured."""
    found = {}
    for entry in entries:
        if entry["group"] == "ceilings":
            unit = "GFLOP/s" if "GFLOP/s" in entry["extra_info"] else "GB/s"
            found[f"{entry['name'].removeprefix('bench_')} ({unit})"] = entry["extra_info"][unit]
    return found


def ceiling(entries: Entries, kind: str, nbytes: int) -> float:
    """GB/s of the ``copy`` or ``sum`` whose traffic is nearest to ``nbytes``: a cache is held to a cache."""
    rates = {
        e["extra_info"]["bytes"]: e["extra_info"]["GB/s"] for e in entries if f"bench_{kind}" in e["name"]
    }
    return rates[min(rates, key=lambda b: abs(math.log(b / nbytes)))] if rates else 0.0


def product(entries: Entries, dtype: str) -> float:
    """GFLOP/s of the measured matrix product of ``dtype``."""
    name = f"bench_gemm[{dtype}]"
    return next((e["extra_info"].get("GFLOP/s", 0.0) for e in entries if e["name"] == name), 0.0)


def speed_of(entry: dict[str, Any], entries: Entries) -> list[str]:
    """TFLOP/s on the operations that were counted, and their share of a product of the same dtype."""
    info = entry["extra_info"]
    if not info.get("product"):
        return ["-", "-"]
    rate, top = info["flops"] / milliseconds(entry) / 1e6, product(entries, info["product"])
    return [f"{rate / 1e3:.2f}", f"{100 * rate / top:.0f} %" if top else "-"]


def counted(info: dict[str, Any]) -> str:
    """What must move and be done."""
    flops = info.get("flops", 0)
    return f"{info['bytes'] / 1e6:.1f} MB" + (f", {flops / 1e9:.2f} GFLOP" if flops else "")


def cells_of(entry: dict[str, Any], entries: Entries, times: dict[str, float]) -> list[str]:
    """Time, bandwidth, shares of the ceilings, ratios to the peers."""
    ms, nbytes = milliseconds(entry), entry["extra_info"]["bytes"]
    rate = nbytes / ms / 1e6
    tops = [ceiling(entries, kind, nbytes) for kind in ("copy", "sum")]
    shares = [f"{100 * rate / top:.0f} %" if top else "-" for top in tops]
    return [
        f"{ms:.3f}",
        f"{rate:.1f}",
        *shares,
        *speed_of(entry, entries),
        *(f"{times[p] / ms:.2f}" if p in times else "-" for p in PEERS),
    ]


HEADS = [
    "ms", "GB/s needed", "of a copy", "of a read", "TFLOP/s", "of a product", "times faster than eager",
    "than compile",
]  # fmt: skip


def head(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}"


def times_of(members: Entries) -> dict[str, float]:
    return {e["params"]["implementation"]: milliseconds(e) for e in members}


def summary(groups: dict[str, Entries], entries: Entries) -> str:
    """A row for each op and shape: the op as it chooses, against torch."""
    lines = [head(["op and shape", *HEADS, "peak memory, eager / op", "first call of compile"])]
    for group, members in groups.items():
        ours = [e for e in members if e["extra_info"].get("chosen")]
        if ours:
            by_name = {e["params"]["implementation"]: e["extra_info"] for e in members}
            peaks = [by_name.get("eager", {}).get("peak_MB"), ours[0]["extra_info"].get("peak_MB")]
            memory = f"{peaks[0] / max(peaks[1], 0.01):.0f}" if None not in peaks else "-"
            seconds = by_name.get("compile", {}).get("compile_s")
            last = [memory, "-" if seconds is None else f"{seconds:.1f} s"]
            lines.append(f"| {' | '.join([group, *cells_of(ours[0], entries, times_of(members)), *last])} |")
    return "\n".join(lines)


def rows(members: Entries, entries: Entries) -> list[str]:
    """One table row for each implementation of a group, fastest first; the op's own choice is bold."""
    memory = any("peak_MB" in e["extra_info"] for e in members)
    out = []
    for entry in sorted(members, key=milliseconds):
        name = entry["params"]["implementation"]
        cells = [f"**{name}**" if entry["extra_info"].get("chosen") else name]
        cells += cells_of(entry, entries, times_of(members))
        if memory:
            cells.append(str(entry["extra_info"].get("peak_MB", "-")))
        out.append(f"| {' | '.join(cells)} |")
    return out


def verdict(members: Entries) -> str:
    """Who wins: the op as it chooses, or torch at its best."""
    ours = [e for e in members if e["extra_info"].get("chosen")]
    torch = [e for e in members if e["params"]["implementation"] in PEERS]
    if not ours or not torch:
        return ""
    best = min(torch, key=milliseconds)
    ratio, peer = milliseconds(best) / milliseconds(ours[0]), best["params"]["implementation"]
    if ratio < 1:
        return f"Torch wins: {peer} is {1 / ratio:.2f} times faster than the op."
    return f"The op is {ratio:.2f} times faster than the best of torch ({peer})."


def section(data: dict[str, Any]) -> None:
    """Everything of one run."""
    machine, entries = data["machine_info"], data["benchmarks"]
    print(f"## Torch threads: {machine['torch_threads']}\n")
    print(
        f"Taken {data['datetime'][:10]}; SIMD {machine['simd']}, {machine.get('timer', 'perf_counter')}, "
        f"load {machine.get('load', '?')} at the end; ",
        end="",
    )
    print(", ".join(f"{k} {v}" for k, v in machine["versions"].items()) + ".\n")
    print("Ceilings of the run: " + "; ".join(f"{k} {v}" for k, v in ceilings(entries).items()) + ".\n")
    groups: dict[str, Entries] = defaultdict(list)
    for entry in entries:
        if entry["group"] != "ceilings" and "implementation" in (entry["params"] or {}):
            groups[entry["group"]].append(entry)
    print(summary(groups, entries) + "\n")
    for group, members in groups.items():
        print(f"### {group}\n\nMust move or do: {counted(members[0]['extra_info'])}.\n")
        memory = ["peak MB"] if any("peak_MB" in m["extra_info"] for m in members) else []
        print(head(["implementation", *HEADS, *memory]))
        print("\n".join(rows(members, entries)) + "\n")
        if verdict(members):
            print(verdict(members) + "\n")


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One run made of parts."""
    return parts[0] | {"benchmarks": [entry for part in parts for entry in part["benchmarks"]]}


def main(arguments: list[str]) -> None:
    how = arguments.pop(0) if arguments[0].startswith("--") else ""
    merged = Path(arguments.pop(0)) if how else None
    runs: list[dict[str, Any]] = []
    for path in arguments:
        data = json.loads(Path(path).read_text())
        runs += data.get("runs", [data])
    if how == "--join":
        runs = [joined(runs)]
    machine = runs[0]["machine_info"]
    print(f"# Ops: {machine.get('gpu') or machine['cpu'].get('brand_raw', 'CPU')}\n")
    for data in runs:
        section(data)
    if merged:
        for data in runs:  # the figures stay, the single rounds need not
            for entry in data["benchmarks"]:
                entry["stats"].pop("data", None)
        merged.write_text(json.dumps({"runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
