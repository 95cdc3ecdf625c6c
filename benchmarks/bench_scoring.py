"""Scoring as users call it, against another checkout: 2,000 suspects before a reference, and a look.

    python -m benchmarks.bench_scoring --before CHECKOUT [--classes 33] [--suspects 2000] [--save FILE]

CHECKOUT is another revision with its modules built (``git worktree add``, ``setup.py build_ext --inplace``).
Both sides are processes that take turns on the same two threads, on the same answers: 16 suspects a turn,
one after another in two Python threads with one thread of torch and BLAS each, as ``screen`` scores them.
Times are CPU time of both threads, answers to scores (features and leave-one-out), medians over rounds, so
that a machine that others use gives the same ratios; a look is all that ``verify`` does with the answers of
one suspect, on one thread. Decisions and scores of both sides are compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pickle
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ALPHA, SUSPECTS, SEED = 1e-3, 16, 0


class Side:
    """One checkout, in this process."""

    def __init__(self, classes: int, threads: int) -> None:
        import torch
        from threadpoolctl import threadpool_limits

        place = HERE.with_name("score_world.py")
        spec = importlib.util.spec_from_file_location("score_world", place)
        assert spec is not None and spec.loader is not None
        worlds = importlib.util.module_from_spec(spec)
        sys.modules["score_world"] = worlds
        spec.loader.exec_module(worlds)
        torch.set_num_threads(1)
        self.threads, self._limits = threads, threadpool_limits
        self.world = worlds.World(worlds.Size(classes=classes), SEED)
        reference = self.reference = self.world.reference
        from uapfast.method.fingerprint import reduce_classes

        shape = (-1, *reference.answers.shape[1:4], classes)
        self.logits = list(self.world.suspects(SUSPECTS, 8))
        whole = torch.stack([x.softmax(-1) for x in self.logits]).view(shape)
        self.answers = reduce_classes(whole, reference.keep)
        self.scorer = reference.statistic.scorer()

    def _some(self, rows: Any) -> list[Any]:
        return [self.scorer.scores(self.reference.statistic.features(one, False)) for one in rows]

    def scores(self) -> Any:
        """Of all suspects: own and the innocents'."""
        import numpy as np

        parts = [self.answers[i :: self.threads] for i in range(self.threads)]
        found: list[Any] = [None] * len(self.answers)
        with self._limits(1, user_api="blas"), ThreadPoolExecutor(self.threads) as pool:
            for i, some in enumerate(pool.map(self._some, parts)):
                found[i :: self.threads] = some
        return tuple(np.stack([f[k] for f in found]) for k in (0, 1))

    def turn(self, count: int) -> float:
        start = time.process_time()
        for _ in range(count):
            self.scores()
        return time.process_time() - start

    def look(self, _: int = 0) -> float:
        from uapfast.examination import Design, Examination
        from uapfast.method.sequential import Looks

        design = self.__dict__.setdefault("design", Design(self.reference, Looks.single(20)))
        times = []
        with self._limits(1, user_api="blas"):
            for values in self.logits:
                examination = Examination(design, alpha=ALPHA)
                start = time.process_time()
                examination.take(values)
                times.append(time.process_time() - start)
        return statistics.median(times)

    def said(self, _: int = 0) -> bytes:
        from uapfast.method.decision import decide
        from uapfast.method.standing import assessment

        own, rest = self.scores()
        outcomes = [decide(assessment(o, r), ALPHA) for o, r in zip(own, rest, strict=True)]
        return pickle.dumps((own, rest, [o.decision for o in outcomes], [o.z for o in outcomes]))


def worker(classes: int, threads: int) -> None:
    side = Side(classes, threads)
    side.scores()
    side.look()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, count = line.split()
        pickle.dump(getattr(side, name)(int(count)), out)
        out.flush()


class Other:
    """A worker in a checkout."""

    def __init__(self, root: Path, classes: int, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads)}
        command = [
            sys.executable,
            str(HERE),
            "--worker",
            "--classes",
            str(classes),
            "--threads",
            str(threads),
        ]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=root, env=environment, **pipes)

    def ask(self, name: str, count: int = 0) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{name} {count}\n".encode())
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


def compare(before: Path, classes: int, threads: int, suspects: int) -> dict[str, Any]:
    sides = {"before": Other(before, classes, threads), "now": Other(HERE.parents[1], classes, threads)}
    said = {name: pickle.loads(side.ask("said")) for name, side in sides.items()}
    rounds = max(1, suspects // (10 * SUSPECTS))
    times: dict[str, list[float]] = {f"{what} {name}": [] for what in ("turn", "look") for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[f"turn {name}"].append(side.ask("turn", 10) / (10 * SUSPECTS))
            times[f"look {name}"].append(side.ask("look"))
    (a, b), found = said.values(), {f"ms {k}": 1e3 * statistics.median(v) for k, v in times.items()}
    for what in ("turn", "look"):
        pairs = zip(times[f"{what} before"], times[f"{what} now"], strict=True)
        found[f"ratio {what}"] = statistics.median(x / y for x, y in pairs)
    return {
        "classes": classes, "threads": threads, "suspects": rounds * 10 * SUSPECTS, **found,
        "equal decisions": a[2] == b[2],
        "largest difference of a score": max(
            float(abs(x - y).max()) for x, y in zip(a[:2], b[:2], strict=True)
        ),
        "largest difference of z": max(abs(x - y) for x, y in zip(a[3], b[3], strict=True)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--suspects", type=int, default=2000)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.classes, given.threads)
        return
    found = compare(given.before.resolve(), given.classes, given.threads, given.suspects)
    text = json.dumps(found, indent=1)
    print(text)
    if given.save:
        given.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
