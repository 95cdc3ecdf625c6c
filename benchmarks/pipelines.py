"""What the benchmarks of whole pipelines on a GPU share: the clock, the budget, the report."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from uapfast._version import versions
from uapfast.files import make_folder, write_text

Row = dict[str, Any]


class Ceilings(NamedTuple):
    """What the device can do at all, measured in this run: bytes moved and operations done a second."""

    moved: float
    done: dict[str, float]

    def floor(self, operations: float, nbytes: float, precision: str) -> float:
        """Seconds that so much takes at the least."""
        return max(operations / self.done[precision], nbytes / self.moved)


def measured_ceilings(device: str) -> Ceilings:
    """A large copy, and products of random matrices: as float32 convolutions multiply (TF32), and in bf16."""
    cuda = device.startswith("cuda")
    source = torch.randn((1 << 30) if cuda else (1 << 24), device=device)
    target = torch.empty_like(source)
    moved = 2 * source.nbytes / _typical(partial(target.copy_, source), device)
    n, done = 8192 if cuda else 512, {}
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        done[precision] = 2 * n**3 / _typical(partial(torch.matmul, a, b), device)
        torch.backends.cuda.matmul.allow_tf32 = before
    return Ceilings(moved, done)


def _typical(work: Callable[[], Any], device: str) -> float:
    """Median wall seconds of eleven, after three; each takes milliseconds."""
    return statistics.median([timed(work, device)[1] for _ in range(14)][3:])


class _Heard(logging.Handler):
    """Warnings of uapfast while a row is measured: a step without its graph, say."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """What uapfast warned of meanwhile, each once."""
    handler, logger = _Heard(), logging.getLogger("uapfast")
    logger.addHandler(handler)
    found: list[str] = []
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        found += dict.fromkeys(handler.said)


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
    """Rows by part, written after each row, so that a run that is cut off leaves what it has.

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
        self._rows: list[Row] = []
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

    def ceilings(self, device: str) -> Ceilings:
        """Measure them, and write them down."""
        found = measured_ceilings(device)
        done = ", ".join(f"{k} {v / 1e12:.3g} TFLOP/s" for k, v in found.done.items())
        self.facts(**{"ceilings of this run": f"copy {found.moved / 1e9:,.0f} GB/s, matrix products {done}"})
        return found

    def row(self, row: Row) -> None:
        """One more of the part that is measured."""
        self._rows.append(row)
        print(row, flush=True)
        self.write()

    def part(self, name: str, work: Callable[[], None]) -> None:
        """``work`` gives the rows of one part; its failure is written down and does not stop the next."""
        self._rows = self.data["parts"][name] = []
        if time.monotonic() > self.until:
            self._failed({"skipped": "no time left"})
            return
        start = time.perf_counter()
        try:
            work()
        except Exception as exc:
            traceback.print_exc()
            self._failed({"failed": f"{type(exc).__name__}: {exc}"})
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
        self.write()

    def _failed(self, row: Row) -> None:
        self.failed += 1
        self.row(row)

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
