"""Scoring as users call it, against another checkout: 2,000 suspects before a reference, a look, the ops.

    python -m benchmarks.bench_scoring --before CHECKOUT --save benchmarks/results/bench_scoring.json

CHECKOUT is another revision with its modules built (``git worktree add``, ``setup.py build_ext --inplace``).
Both sides are processes that take turns on the same two threads, on the same answers: 16 suspects a turn,
one after another in two Python threads with one thread of torch and BLAS each, as ``screen`` scores them.
Times are CPU time of both threads, answers to scores (features and leave-one-out), medians over rounds, so
that a machine that others use gives the same ratios; a look is all that ``verify`` does with the answers of
one suspect, on one thread. Decisions and scores of both sides are compared, for as many suspects; of 1,000
classes it is a hundredth of them. The ops' own times are those of this checkout, with the arguments that the
path gives them, beside a copy of the answers (``copy_``: as many bytes read and written as ``features``
must). ``--save`` writes JSON, and a table (``.md``) beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ALPHA, SUSPECTS, SEED = 1e-3, 16, 0
OPS = ("features", "inner_products", "leave_one_out")


def _ms(work: Callable[[], Any], repeats: int = 30) -> float:
    """Median CPU time of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


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
        del whole
        self.scorer = reference.statistic.scorer()

    def _some(self, rows: Any) -> list[Any]:
        return [self.scorer.scores(self.reference.statistic.features(one, False)) for one in rows]

    def scores(self) -> None:
        """Of all suspects, one after another in every thread."""
        parts = [self.answers[i :: self.threads] for i in range(self.threads)]
        with self._limits(1, user_api="blas"), ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(self._some, parts))

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

    def ops(self, _: int = 0) -> list[dict[str, Any]]:
        """Milliseconds a suspect of each op by backend, and of a copy of the answers."""
        import torch

        found = []
        for count in (1, len(self.answers)):
            answers = self.answers[:count]
            into = torch.empty_like(answers)
            copy = _ms(lambda a=answers, b=into: b.copy_(a)) / count
            for op, args in self._calls(answers):
                times = {
                    backend.name: _ms(lambda n=backend.name, c=op.call, a=args: c(*a, n)) / count
                    for backend in op.backends
                    if backend.why_off() is None and backend.refuses(*args) is None
                }
                found.append({"op": op.name, "suspects": count, "copy_ms": copy, "ms": times})
        return found

    def _calls(self, answers: Any) -> list[tuple[Any, Any]]:
        """The ops in the path, and the arguments that it gives them."""
        import importlib
        from contextlib import ExitStack
        from dataclasses import replace
        from unittest import mock

        seen: list[tuple[Any, Any]] = []

        def spied(op: Any) -> Any:
            def call(*args: Any) -> Any:
                seen.append((op, args[:-1]))
                return op.call(*args)

            return replace(op, call=call)

        with ExitStack() as stack:
            for name in OPS:
                module = importlib.import_module(f"uapfast.ops.{name}")
                stack.enter_context(mock.patch.object(module, "_OP", spied(module._OP)))
            self._some(answers if len(answers) == 1 else [answers])
        return seen

    def said(self, count: int) -> Any:
        """Scores, decisions and z of so many suspects, no two alike."""
        import numpy as np

        from uapfast.method.decision import decide
        from uapfast.method.fingerprint import reduce_classes
        from uapfast.method.standing import assessment

        keep, shape = self.reference.keep, self.reference.answers.shape[1:4]
        found = [
            self._some([reduce_classes(one.softmax(-1).view(*shape, -1), keep)])[0]
            for one in self.world.suspects(count, 8)
        ]
        outcomes = [decide(assessment(own, rest), ALPHA) for own, rest in found]
        own, rest = (np.stack([f[k] for f in found]) for k in (0, 1))
        return own, rest, [o.decision for o in outcomes], [o.z for o in outcomes]


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

    def end(self) -> None:
        """No more questions: the process leaves."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, name: str, count: int = 0) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{name} {count}\n".encode())
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


def compare(before: Path, classes: int, threads: int, suspects: int) -> dict[str, Any]:
    sides = {"before": Other(before, classes, threads), "now": Other(HERE.parents[1], classes, threads)}
    compared = max(SUSPECTS, suspects * 10 // classes)
    said = {name: side.ask("said", compared) for name, side in sides.items()}
    rounds = max(3, -(-compared // (10 * SUSPECTS)))
    times: dict[str, list[float]] = {f"{what} {name}": [] for what in ("turn", "look") for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[f"turn {name}"].append(side.ask("turn", 10) / (10 * SUSPECTS))
            times[f"look {name}"].append(side.ask("look"))
    ops = sides["now"].ask("ops")
    for side in sides.values():
        side.end()
    (a, b), found = said.values(), {f"ms {k}": 1e3 * statistics.median(v) for k, v in times.items()}
    for what in ("turn", "look"):
        pairs = zip(times[f"{what} before"], times[f"{what} now"], strict=True)
        found[f"ratio {what}"] = statistics.median(x / y for x, y in pairs)
    return {
        "classes": classes, "compared": compared, "threads": threads,
        "suspects": rounds * 10 * SUSPECTS, **found,
        "equal decisions": a[2] == b[2],
        "largest difference of a score": max(
            float(abs(x - y).max()) for x, y in zip(a[:2], b[:2], strict=True)
        ),
        "largest difference of z": max(abs(x - y) for x, y in zip(a[3], b[3], strict=True)),
        "ops": ops,
    }  # fmt: skip


def table(sizes: list[dict[str, Any]], suspects: int) -> str:
    """What ``--save`` writes beside the JSON."""
    classes = " ".join(str(one["classes"]) for one in sizes)
    command = (
        f"python -m benchmarks.bench_scoring --before CHECKOUT --classes {classes} --suspects {suspects}"
    )
    out = ["# Scoring against the path before its ops", "", f"`{command}`; {machine()}.", ""]
    out += ["| classes | what | before, ms | now, ms | ratio | decisions | scores differ by |"]
    out += ["|---|---|---|---|---|---|---|"]
    for one in sizes:
        same = "equal" if one["equal decisions"] else "DIFFER"
        many = f"answers to scores, a suspect ({one['suspects']:,} suspects, {one['threads']} threads)"
        for name, what in (("turn", many), ("look", "a look of `verify`, one thread")):
            before, now = (f"{one[f'ms {name} {side}']:.2f}" for side in ("before", "now"))
            far = f"{one['largest difference of a score']:.1g}"
            out.append(
                f"| {one['classes']:,} | {what} | {before} | {now} | {one[f'ratio {name}']:.2f} "
                f"| {same} ({one['compared']:,}) | {far} |"
            )
    levels = ("reference", "scalar", "avx2", "avx512")
    out += [
        "",
        "CPU time a suspect, one thread; backends by name, `reference` is plain torch in float64.",
        "",
    ]
    out += [f"| op | classes | suspects at once | {', ms | '.join(levels)}, ms | of a copy |"]
    out += ["|---" * (len(levels) + 4) + "|"]
    for one in sizes:
        for row in one["ops"]:
            times = " | ".join(f"{row['ms'][n]:.3f}" if n in row["ms"] else "" for n in levels)
            share = f"{row['copy_ms'] / row['ms']['cpu']:.1%}" if row["op"] == "features" else ""
            out.append(f"| `{row['op']}` | {one['classes']:,} | {row['suspects']} | {times} | {share} |")
    return "\n".join(out) + "\n"


def machine() -> str:
    import torch

    level = torch.backends.cpu.get_cpu_capability()
    return f"{os.cpu_count()} cores {platform.machine()}, {level}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--suspects", type=int, default=2000)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.classes[0], given.threads)
        return
    before = given.before.resolve()
    found = [compare(before, classes, given.threads, given.suspects) for classes in given.classes]
    text = table(found, given.suspects)
    print(text)
    if given.save:
        given.save.write_text(json.dumps(found, indent=1) + "\n")
        given.save.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
