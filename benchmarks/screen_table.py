"""What ``bench_screen`` measured, as a table beside what was to be reached."""

from __future__ import annotations

from typing import Any

TEXT = """# Screening: against a plain loop, over many checkpoints, and killed

Made by `{command}` on {cpus} cores ({arch}), torch {torch}; 1-minute load before each part: {loads}.

| what | against | at least | measured |
|---|---|---|---|
{rows}

The plain loop builds the network, `torch.load`, `load_state_dict` and `verify`, one by one, with torch's
own threads. Checkpoints have 0.3 MB, no two alike; 95 % are innocent. Decisions of that loop: {decisions}.
"""


def _overhead(found: dict[str, Any]) -> list[str]:
    ms = found["cpu_ms"]
    got = f"{found['ratio']:.1f} times ({ms['ours']:.2f} against {ms['plain']:.2f} ms of CPU)"
    return [f"| before the first answer | build, torch.load, load_state_dict | 10 times less | {got} |"]


def _throughput(found: dict[str, Any]) -> list[str]:
    lines = []
    for name, what, least in (
        ("early", "checkpoints a second", "10 times"),
        ("full", "the same without early stopping", "1.5 times"),
    ):
        one = found[name]
        pace = f"{one['cpu_ratio']:.2f} by CPU time; {one['per_second']:.1f} a second"
        got = (
            f"{one['ratio']:.2f} times ({pace}; "
            f"{one['queries_used']:.1%} of the queries; {one['other_decisions']} other decisions, "
            f"{one['contrary_decisions']} contrary)"
        )
        lines.append(f"| {what} | plain loop, full budget | {least} | {got} |")
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


PARTS = {"overhead": _overhead, "throughput": _throughput, "many": _many, "killed": _killed}


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
