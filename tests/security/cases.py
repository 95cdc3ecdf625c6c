"""Many mutated suspects, one after the other: how each ended, how long it took, what was tried outside.

python -m tests.security.fuzz_onnx --cases 1000 --seed 1
python -m tests.security.fuzz_hub --cases 1000 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from uapfast.errors import InputError, ModelError, SuspectError
from uapfast.safeload import pool
from uapfast.suspects import onnx_process

TYPED = (ModelError, SuspectError, InputError)  # what a suspect may end with
OUTSIDE = {"socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto", "os.system", "os.exec",
           "os.posix_spawn", "pty.spawn"}  # fmt: skip
LONGEST = 1500  # characters of an error
CANARY = "/etc/hostname"  # a file that mutated suspects name

_watches: list[list[str]] = []  # audit hooks cannot be taken away again


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _watches:
        return
    said = None
    if event in OUTSIDE:
        said = f"{event} {args[1:]!r:.100}"
    elif event == "subprocess.Popen" and not {onnx_process.BOOT, pool.BOOT} & set(map(str, args[1])):
        said = f"{event} {args[1]!r:.100}"
    elif event == "open" and isinstance(args[0], (str, bytes)) and os.fsdecode(args[0]) == CANARY:
        said = f"open {CANARY}"
    if said:
        for watch in _watches:
            watch.append(said)


@contextlib.contextmanager
def nothing_outside() -> Iterator[list[str]]:
    """What this process asked of the network, started (but for its sandboxed workers), or opened by a name
    that a suspect gave it, in the block."""
    if not _installed:
        sys.addaudithook(_hook)
        _installed.append(True)
    seen: list[str] = []
    _watches.append(seen)
    try:
        yield seen
    finally:
        _watches.remove(seen)


_installed: list[bool] = []


@dataclass
class Summary:
    """What became of the cases.

    Attributes:
        ends: how often a case ended so.
        findings: what must not be: an error of another type, an unreadable or endless one, a slow case.
        outside: what was tried outside.
        slowest: seconds and number of the slowest case.
        seconds: in all.
        memory: bytes that the largest worker took, libraries included; of all that this process ever had.
    """

    ends: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    seconds: float = 0.0
    memory: int = 0

    def lines(self) -> list[str]:
        """For people."""
        taken, number = self.slowest
        said = [
            f"{sum(self.ends.values())} cases in {self.seconds:.0f} s; the slowest, number {number}, took "
            f"{taken:.2f} s; the largest worker {self.memory >> 20} MiB"
        ]
        said += [f"{count:6}  {end}" for end, count in self.ends.most_common()]
        said.append(f"asked of the network, started, or opened elsewhere: {len(self.outside)}")
        return said + self.outside[:10] + [f"FINDING {found}" for found in self.findings[:20]]


def run(cases: Iterable[Callable[[], str]], slow: float) -> Summary:
    """Do each case and note how it ended.

    Args:
        cases: each returns how it ended, in a word, or raises.
        slow: seconds that one may take.
    """
    summary, began = Summary(), time.monotonic()
    with nothing_outside() as seen:
        for number, case in enumerate(cases):
            start = time.monotonic()
            try:
                end = case()
            except TYPED as exc:
                end = type(exc).__name__
                if not str(exc).isprintable() or len(str(exc)) > LONGEST:
                    summary.findings.append(f"{number}: a bad message: {str(exc)[:300]!r}")
            except Exception as exc:  # what must not be
                end = f"untyped {type(exc).__name__}"
                summary.findings.append(f"{number}: {type(exc).__name__}: {str(exc)[:300]!r}")
            taken = time.monotonic() - start
            summary.slowest = max(summary.slowest, (taken, number))
            if taken > slow:
                summary.findings.append(f"{number}: took {taken:.1f} s")
            summary.ends[end] += 1
    summary.outside = seen
    summary.seconds = time.monotonic() - began
    summary.memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    return summary


def main(population: Callable[[int, int], Iterable[Callable[[], str]]], slow: float) -> None:
    """Run a driver from its command line; exits with 1 where something was found.

    Args:
        population: the cases by their number and the seed.
        slow: seconds that one may take.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    summary = run(population(given.cases, given.seed), slow)
    sys.stdout.write("\n".join(summary.lines()) + "\n")
    sys.exit(bool(summary.findings or summary.outside))
