"""What the benchmarks of whole pipelines on a GPU share: the clock, the budget, the report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from uapfast._version import versions
from uapfast.files import make_folder, write_text

Row = dict[str, Any]


def settled(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: str) -> tuple[Any, float]:
    """What ``work`` returns, and wall seconds from a device at rest to a device at rest."""
    settled(device)
    start = time.perf_counter()
    result = work()
    settled(device)
    return result, time.perf_counter() - start


class Report:
    """Rows by part, written after each, so that a run that is cut off leaves what it has.

    Args:
        title: heading of the Markdown.
        out: where ``<name>.json`` and ``<name>.md`` go.
        name: of both.
        seconds: no part is begun after so many.
        device: measured on.
    """

    def __init__(self, title: str, out: Path, name: str, seconds: float, device: str) -> None:
        self.title, self.place, self.name = title, make_folder(out), name
        self.until = time.monotonic() + seconds
        self.failed = 0
        cuda = device.startswith("cuda")
        self.data: dict[str, Any] = {
            "command": " ".join([f"python -m {__package__}.{name}", *sys.argv[1:]]),
            "machine": {
                "gpu": torch.cuda.get_device_name(device) if cuda else None,
                "cpus": os.cpu_count(),
                "arch": platform.machine(),
                "load": os.getloadavg()[0],
            },
            "tf32": {
                "convolutions": torch.backends.cudnn.allow_tf32,
                "matrix products": torch.backends.cuda.matmul.allow_tf32,
            },
            "versions": versions(),
            "taken": time.strftime("%Y-%m-%d"),
            "facts": {},
            "parts": {},
        }

    def facts(self, **found: Any) -> None:
        """Numbers that belong to no row."""
        self.data["facts"].update(found)

    def part(self, name: str, work: Callable[[], list[Row]]) -> list[Row]:
        """Rows of one part; its failure is written down and does not stop the next."""
        if time.monotonic() > self.until:
            self.data["parts"][name] = [{"skipped": "no time left"}]
            self.failed += 1
        else:
            start = time.perf_counter()
            try:
                self.data["parts"][name] = work()
            except Exception as exc:
                traceback.print_exc()
                self.data["parts"][name] = [{"failed": f"{type(exc).__name__}: {exc}"}]
                self.failed += 1
            print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
        self.write()
        return list(self.data["parts"][name])

    def write(self) -> None:
        write_text(self.place / f"{self.name}.json", json.dumps(self.data, indent=1) + "\n")
        write_text(self.place / f"{self.name}.md", self.markdown())

    def markdown(self) -> str:
        machine = self.data["machine"]
        lines = [f"# {self.title}: {machine['gpu'] or 'CPU'}", ""]
        told = ", ".join(f"{k} {v}" for k, v in self.data["versions"].items())
        lines += [
            f"Taken {self.data['taken']}; {machine['cpus']} CPUs, load {machine['load']:.1f}; {told}.",
            "",
        ]
        lines += [f"- {name}: {value}" for name, value in self.data["facts"].items()] + [""]
        for name, rows in self.data["parts"].items():
            heads = list(dict.fromkeys(k for row in rows for k in row))
            lines += [f"## {name}", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
            lines += [f"| {' | '.join(shown(row.get(h)) for h in heads)} |" for row in rows] + [""]
        return "\n".join(lines)


def arguments(doc: str, seconds: float) -> argparse.Namespace:
    """The command line: ``device``, ``out``, ``seconds`` and ``tiny``."""
    parser = argparse.ArgumentParser(description=doc.split("\n", 1)[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seconds", type=float, default=seconds, help="no part is begun after so many")
    parser.add_argument("--tiny", action="store_true", help="sizes of a rehearsal")
    return parser.parse_args()


def shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
