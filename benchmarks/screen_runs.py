"""Runs of ``screen`` over thousands of checkpoints, in processes that are measured or killed."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import uapfast
from benchmarks.screen_world import TASKS, World, populate
from uapfast.screening.listing.collection import from_folder
from uapfast.screening.listing.entry import Defaults
from uapfast.screening.table.rows import SECONDS

FEW = 100


def screen_all(given: argparse.Namespace, folder: Path, out: Path, progress: Callable[..., None]) -> None:
    """Ask every checkpoint one view, the least there is: memory and bookkeeping are the subject."""
    task = TASKS[given.task]
    reference = given.folder / given.task / "victim.uapref"
    suspects = from_folder(folder, Defaults((task.arch("resnet"),)))
    uapfast.screen(reference, suspects, out=out, queries=2 * task.points, progress=progress).finish()


def child(given: argparse.Namespace) -> None:
    """One screen in a process of its own; prints its peak memory, and the time from first row to last."""
    seen: dict[int, tuple[float, float]] = {}

    def progress(done: int, total: int, what: str) -> None:
        if done in (1, total):
            seen[done] = time.perf_counter(), time.process_time()

    screen_all(given, given.child, given.out, progress)
    first, last = min(seen), max(seen)
    wall, cpu = (1e3 * (b - a) / (last - first) for a, b in zip(seen[first], seen[last], strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"suspects": last, "peak_mib": peak, "wall_ms": wall, "cpu_ms": cpu}))


def run_child(given: argparse.Namespace, folder: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_screen", "--task", given.task]
    command += ["--folder", str(given.folder), "--child", str(folder), "--out", str(out)]
    for stale in (out, Path(f"{out}.store")):
        stale.unlink(missing_ok=True)
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(found.stdout.splitlines()[-1]))


def many(world: World, given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Peak memory of many against few; time a checkpoint of many against a tenth of them."""
    found = {}
    for count in (FEW, max(FEW, given.many // 10), given.many):
        folder = populate(world.bases, place / f"many-{count}", count)
        found[count] = run_child(given, folder, place / "table.parquet")
    few, tenth, all_ = found.values() if len(found) == 3 else (found[FEW], found[FEW], found[given.many])
    return {
        "few": few,
        "tenth": tenth,
        "many": all_,
        "memory_ratio": all_["peak_mib"] / few["peak_mib"],
        "time_ratio": all_["wall_ms"] / tenth["wall_ms"],
        "cpu_time_ratio": all_["cpu_ms"] / tenth["cpu_ms"],
    }


def _until_killed(given: argparse.Namespace, folder: Path, out: Path, rows: int, wait: float) -> int | None:
    """A screen in a forked process, killed ``wait`` s after ``rows`` rows; its exit code if it ended."""
    listen, speak = os.pipe()
    pid = os.fork()
    if pid == 0:
        start = []

        def progress(done: int, total: int, what: str) -> None:
            start.append(done) if not start else os.write(speak, b".")

        sys.stdout = open(os.devnull, "w")
        screen_all(given, folder, out, progress)
        os._exit(0)
    os.close(speak)
    seen, end = 0, None
    while end is None or time.monotonic() < end:
        ready, _, _ = select.select([listen], [], [], 0.005)
        got = os.read(listen, 4096) if ready else None
        if got == b"":
            break
        seen += len(got or b"")
        if end is None and seen >= rows:
            end = time.monotonic() + wait
    os.close(listen)
    done, status = os.waitpid(pid, os.WNOHANG)
    if not done and got != b"":
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None
    return os.waitstatus_to_exitcode(status if done else os.waitpid(pid, 0)[1])


def killed(world: World, given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """A run that is killed at random, again and again, against one that is not."""
    import pyarrow.parquet as pq

    torch.set_num_threads(1)  # this process forks
    folder = populate(world.bases, place / f"killed-{given.killed}", given.killed)
    whole, out = place / "whole.parquet", place / "killed.parquet"
    run_child(given, folder, whole)
    for stale in (out, Path(f"{out}.store")):
        stale.unlink(missing_ok=True)
    chance, kills, code = random.Random(0), 0, None
    share = 1.6 * given.killed / max(1, given.kills)  # what is not committed at a kill is asked again
    while code is None:
        last = kills >= given.kills
        rows = given.killed * 2 if last else int(chance.uniform(0, share))
        code = _until_killed(given, folder, out, rows, chance.uniform(0, 0.05))
        kills += code is None
    tables = [pq.read_table(p).drop_columns([*SECONDS, "same_as"]) for p in (whole, out)]
    same = tables[0].equals(tables[1])
    return {"kills": kills, "exit": code, "rows": tables[1].num_rows, "identical": same}
