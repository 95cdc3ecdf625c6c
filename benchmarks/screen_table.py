"""What ``bench_screen`` measured, as a table beside what was to be reached."""

from __future__ import annotations

from typing import Any

TEXT = """# Screening: against a plain loop, over many checkpoints, and killed

Made by `{command}` on {cpus} cores ({arch}), torch {torch}; 1-minute load before each part: {loads}.

| what | against | at least | measured |
|---|---|---|---|
{rows}

The plain loop builds the network, `torch.load`, `load_state_dict` and `verify`, one by one, with torch's
own threads; it and the two ways of screening take turns, and each ratio is the median over the rounds.
Checkpoints have 0.3 MB, no two alike; they are residual networks, 95 % of them innocent, but where VGG-like
ones are named. Decisions of that loop: {decisions}.
"""


def _overhead(found: dict[str, Any]) -> list[str]:
    ms = found["cpu_ms"]
    got = f"{found['ratio']:.1f} times ({ms['ours']:.2f} against {ms['plain']:.2f} ms of CPU)"
    return [f"| before the first answer | build, torch.load, load_state_dict | 10 times less | {got} |"]


def _throughput(found: dict[str, Any]) -> list[str]:
    what = {"early": "checkpoints a second", "full": "the same without early stopping"}
    return _paces(found, what, {"early": "10 times", "full": "1.5 times"})


def _pooling(found: dict[str, Any]) -> list[str]:
    what = {"early": "VGG-like networks, all innocent", "full": "the same without early stopping"}
    return _paces(found, what, {"early": "-", "full": "-"})


def _paces(found: dict[str, Any], what: dict[str, str], least: dict[str, str]) -> list[str]:
    lines = []
    for name in what:
        one = found[name]
        pace = f"{one['cpu_ratio']:.2f} by CPU time; {one['per_second']:.1f} a second"
        spread = f"{min(one['ratios']):.2f}-{max(one['ratios']):.2f} in {found['rounds']} rounds"
        got = (
            f"{one['ratio']:.2f} times ({spread}; {pace}; "
            f"{one['queries_used']:.1%} of the queries; {one['other_decisions']} other decisions, "
            f"{one['contrary_decisions']} contrary)"
        )
        lines.append(f"| {what[name]} | plain loop, full budget | {least[name]} | {got} |")
    return lines


def _many(found: dict[str, Any]) -> list[str]:
    few, many = found["few"], found["many"]
    memory = f"{found['memory_ratio']:.3f} ({many['peak_mib']:.0f} against {few['peak_mib']:.0f} MiB)"
    each = f"{found['cpu_time_ratio']:.3f} by CPU time; {many['wall_ms']:.1f} ms each"
    time = f"{found['time_ratio']:.3f} ({each})"
    count = f"{many['suspects']:,} checkpoints"
    return [
        f"| {count}, peak memory | {few['suspects']} | within 10 % | {memory} |",
        f"| {count}, time each | {found['tenth']['suspects']:,} | within 10 % | {time} |",
    ]


def _killed(found: dict[str, Any]) -> list[str]:
    same = "identical" if found["identical"] else "DIFFERENT"
    what = f"{found['kills']} random SIGKILLs during {found['rows']:,} checkpoints"
    return [f"| {what} | uninterrupted run | identical table | {same} |"]


PARTS = {
    "overhead": _overhead,
    "throughput": _throughput,
    "pooling": _pooling,
    "many": _many,
    "killed": _killed,
}


def table(found: dict[str, Any]) -> str:
    """Markdown of the parts that were run."""
    there = [name for name in PARTS if name in found]
    rows = [line for name in there for line in PARTS[name](found[name])]
    decisions = found.get("throughput", {}).get("decisions", {})
    return TEXT.format(
        command=found["command"],
        cpus=found["machine"]["cpus"],
        arch=found["machine"]["arch"],
        torch=found["versions"].get("torch", "?"),
        loads=", ".join(f"{found[name]['load_before']:.1f}" for name in there),
        rows="\n".join(rows),
        decisions=", ".join(f"{count} {what}" for what, count in decisions.items()) or "not taken",
    )
