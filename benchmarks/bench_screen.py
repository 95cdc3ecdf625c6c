"""``screen`` against a plain loop, its overhead, its memory over many checkpoints, and kills.

    python -m benchmarks.bench_screen --task digits                     (two minutes, the first time four)
    python -m benchmarks.bench_screen --task fashion --full --save benchmarks/results/bench_screen.json

``--full`` is what the figures on record are made with: 200 checkpoints against the plain loop, 10,000
generated ones (3 GB below ``--folder``), 20 kills during 2,000; on two idle cores some fifteen minutes, the
first time five more. Every part runs in a process of its own. Ratios are taken in one run, in turns, of wall
time and of CPU time (the latter for machines that others use as well; it shows no gain from a second core).
The plain loop builds the network, ``torch.load``, ``load_state_dict`` and ``verify``, suspect by suspect.
``--save`` writes JSON, and a table (``.md``) beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import uapfast
from benchmarks.screen_runs import child, killed, many
from benchmarks.screen_table import table
from benchmarks.screen_world import TASKS, World, make_world, populate
from uapfast._version import versions
from uapfast.files import write_text
from uapfast.models.registry import resolve_arch
from uapfast.screening.asking.reader import HostBuffer, read_checkpoint
from uapfast.screening.listing.collection import from_folder
from uapfast.screening.listing.entry import Defaults, Entry
from uapfast.suspects.networks.skeletons import Skeletons

ALPHA = 1e-3


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, wall seconds, CPU seconds of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


# -- overhead ------------------------------------------------------------------------------------------


def overhead(world: World, folder: Path, count: int) -> dict[str, Any]:
    """Milliseconds before the first answer: build + torch.load + load_state_dict, against read + copy."""
    arch = world.task.arch("resnet")
    files = sorted(folder.glob("*.safetensors"))[:count]
    pickles = [folder.with_name(folder.name + "-pt") / f"{p.stem}.pt" for p in files]
    skeletons, buffer = Skeletons(), HostBuffer()

    def ours(path: Path) -> None:
        suspect = Entry(str(path), arch)
        found = read_checkpoint(suspect, buffer, skeletons.shapes)
        with skeletons.borrow(suspect) as skeleton:
            skeleton.load(found.tensors, path, found.fits, found.flat)

    def plain(path: Path) -> None:
        module = resolve_arch(arch)()
        module.load_state_dict(torch.load(path, weights_only=True))
        module.eval()

    def settle(path: Path) -> None:
        """As a screen does with the first suspect: the network answers, and may then take other weights."""
        suspect, points = Entry(str(path), arch), uapfast.load(world.reference).plan.x(slice(0, 16))
        found = read_checkpoint(suspect, buffer, skeletons.shapes)
        with skeletons.borrow(suspect) as skeleton:
            skeleton.load(found.tensors, path, found.fits, found.flat)
            skeleton.answer(iter([points]), len(points), path.name)
            assert skeleton.settled()

    torch.set_num_threads(1)  # as a worker has; of two the one that waits would count
    settle(files[0]), plain(pickles[0])
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for path, pickle in zip(files, pickles, strict=True):
        times["plain"].append(timed(lambda p=pickle: plain(p))[2])  # type: ignore[misc]
        times["ours"].append(timed(lambda p=path: ours(p))[2])  # type: ignore[misc]
    ms = {k: 1e3 * statistics.median(v) for k, v in times.items()}
    return {"cpu_ms": ms, "ratio": ms["plain"] / ms["ours"], "checkpoints": len(files)}


# -- throughput ----------------------------------------------------------------------------------------


ROUNDS = 5
WAYS = {"full": False, "early": True}


def throughput(world: World, folder: Path, network: str) -> dict[str, Any]:
    """Checkpoints a second: the plain loop on the full budget; ``screen`` with and without early stopping.

    The three take turns ``ROUNDS`` times, and each ratio is the median of those within a round: the speed of
    a machine that others share drifts over minutes.
    """
    arch = world.task.arch(network)
    pickles = sorted(folder.with_name(folder.name + "-pt").glob("*.pt"))
    reference = uapfast.load(world.reference)
    reference.statistic.scorer()

    def plain() -> dict[str, str]:
        found = {}
        for path in pickles:
            module = resolve_arch(arch)()
            module.load_state_dict(torch.load(path, weights_only=True))
            found[path.stem] = uapfast.verify(reference, module.eval(), alpha=ALPHA).decision
        return found

    def ours(early: bool) -> tuple[dict[str, str], float]:
        with uapfast.screen(
            reference, from_folder(folder, Defaults((arch,))), early=early, alpha=ALPHA
        ) as screening:
            found = {Path(row.name).stem: row.decision for row in screening}
            assert screening.summary is not None
            return found, screening.summary.queries_used / screening.summary.queries_full

    rounds: list[dict[str, tuple[float, float]]] = []
    used: dict[str, float] = {}
    decisions: dict[str, dict[str, str]] = {}
    for _ in range(ROUNDS):
        decisions["plain"], wall, cpu = timed(plain)
        rounds.append({"plain": (wall, cpu)})
        for name, early in WAYS.items():
            (decisions[name], used[name]), wall, cpu = timed(partial(ours, early))
            rounds[-1][name] = (wall, cpu)

    def pace(name: str) -> dict[str, Any]:
        walls, cpus = zip(*(taken[name] for taken in rounds), strict=True)
        count = len(pickles)
        return {
            "per_second": count / statistics.median(walls),
            "cpu_ms": 1e3 * statistics.median(cpus) / count,
        }

    want = decisions["plain"]
    out: dict[str, Any] = {
        "checkpoints": len(pickles),
        "rounds": ROUNDS,
        "plain": pace("plain"),
        "decisions": {d: list(want.values()).count(d) for d in sorted(set(want.values()))},
    }
    for name in WAYS:
        got = decisions[name]
        ratios = [[taken["plain"][i] / taken[name][i] for taken in rounds] for i in (0, 1)]
        out[name] = pace(name) | {
            "ratio": statistics.median(ratios[0]),
            "ratios": ratios[0],
            "cpu_ratio": statistics.median(ratios[1]),
            "queries_used": used[name],
            "other_decisions": sum(want[k] != got[k] for k in want),
            "contrary_decisions": sum({want[k], got[k]} == {"piracy", "independent"} for k in want),
        }
    return out


# -- all of it -----------------------------------------------------------------------------------------

PARTS = ("overhead", "throughput", "pooling", "many", "killed")
FULL = {"checkpoints": 200, "many": 10_000, "killed": 2_000, "kills": 20}
MARK = "RESULT "


def part(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One part, in this process."""
    world, place = make_world(given.task, given.folder), given.folder / f"{given.task}-runs"
    if name == "many":
        return many(world, given, place)
    if name == "killed":
        return killed(world, given, place)
    if name == "pooling":
        count = max(1, given.checkpoints // 4)
        folder = populate(((), world.pooling), place / f"pooling-{count}", count, pickled=True)
        return throughput(world, folder, "vgg")
    folder = populate(world.bases, place / f"some-{given.checkpoints}", given.checkpoints, pickled=True)
    if name == "overhead":
        return overhead(world, folder, given.checkpoints)
    return throughput(world, folder, "resnet")


def apart(name: str) -> dict[str, Any]:
    """One part, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_screen", *sys.argv[1:], "--part", name]
    start, load = time.perf_counter(), os.getloadavg()[0]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith(MARK))
    found: dict[str, Any] = json.loads(line.removeprefix(MARK))
    return found | {"load_before": load, "took_seconds": round(time.perf_counter() - start)}


def _said(arguments: list[str]) -> list[str]:
    """The command line without the place of the files, which is this machine's."""
    at = arguments.index("--folder") if "--folder" in arguments else len(arguments)
    return arguments[:at] + arguments[at + 2 :]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=sorted(TASKS), default="digits")
    parser.add_argument("--folder", type=Path, default=Path("bench-screen"))
    parser.add_argument("--checkpoints", type=int, default=60)
    parser.add_argument("--many", type=int, default=500)
    parser.add_argument("--killed", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--full", action="store_true", help=f"the sizes of the figures on record: {FULL}")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--save", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.full:
        vars(given).update(FULL)
    return given


def main() -> None:
    given = options()
    if given.child:
        child(given)
        return
    if given.part:
        print(MARK + json.dumps(part(given.part, given)))
        return
    make_world(given.task, given.folder)  # so that no part's time holds it
    found: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.bench_screen", *_said(sys.argv[1:])]),
        "task": given.task,
        "machine": {"cpus": os.cpu_count(), "arch": platform.machine()},
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    for name in given.parts.split(","):
        found[name] = apart(name)
        print(name, json.dumps(found[name], indent=1), flush=True)
    text = table(found)
    print(text)
    if given.save:
        write_text(given.save, json.dumps(found, indent=1) + "\n")
        write_text(given.save.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
