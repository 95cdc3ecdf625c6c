"""The margin method with everything on the device: one recorded step for all perturbations of all models.

What :mod:`uapfast.method.uap.margin` does from the host, step by step, is here one piece of work on static
memory: the step finds its own images by a counter on the device, writes down how many it found fooled, and is
replayed without a word from the host until a look at the held-out points may be due. Perturbations are the
same as there up to rounding; which models share a step, and whether it is a graph, does not change what is
computed for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from uapfast.errors import ModelError
from uapfast.method.uap.common import EVALUATION_BATCH, WHERE, Victim, out_of_reach, project
from uapfast.method.uap.forms import Part, StepSettings, parts_of
from uapfast.method.uap.margin import BETAS, MarginSettings, element_radius, margin_of
from uapfast.method.uap.stopping import UapRun
from uapfast.streams import Device, Replay, Stream

KEPT = 256  # steps whose counts are kept on the device until the host reads them
ADAM_EPS = 1e-8
HELD_AT_ONCE = EVALUATION_BATCH // 2  # as Victim.fooling_rate


@dataclass
class UapJob:
    """One model with its perturbations in the making; all jobs of a step have as many runs and images."""

    victim: Victim
    runs: list[UapRun]


class Steps:
    """Static memory of one step, ``[M,P,...]`` for M models with P perturbations each.

    Args:
        jobs: the models; one device and dtype.
        settings: of the algorithm.
        how: the form of the step.
        device: where they are.
        home: the stream of the steps.
    """

    def __init__(
        self,
        jobs: Sequence[UapJob],
        settings: MarginSettings,
        how: StepSettings,
        device: Device,
        home: Stream,
    ) -> None:
        first = jobs[0].victim
        self.jobs, self.settings, self.how, self.device, self.home = list(jobs), settings, how, device, home
        self.images, self.dtype = first.images, first.query.dtype
        self.model_dtype = first.query.model_dtype
        every = torch.arange(len(self.images), device=self.images.device)
        self.clean = torch.stack([job.victim.clean(every) for job in jobs])
        self.held = torch.stack([torch.stack([run.held for run in job.runs]) for job in jobs])
        self.train = len(jobs[0].runs[0].train)
        shape = (len(jobs), len(jobs[0].runs), *self.images.shape[1:])
        place = self.images.device
        size = self.images[0].numel()
        step = settings.step * element_radius(settings.eps, settings.norm, size)
        self.v, self.mean, self.square, self.gradient = (
            torch.zeros(shape, dtype=self.dtype, device=place) for _ in range(4)
        )
        self.lr = torch.full((*shape[:2], 1, 1, 1), step, dtype=self.dtype, device=place)
        self.taken = torch.zeros((), dtype=torch.float64, device=place)  # steps of Adam
        self.order = torch.zeros((*shape[:2], self.train), dtype=torch.int64, device=place)
        self.offset = torch.zeros((), dtype=torch.int64, device=place)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=place)
        self.found = torch.zeros(shape[:2], dtype=torch.int64, device=place)
        self.log = torch.zeros((KEPT, *shape[:2]), dtype=torch.int64, device=place)
        self.ramp = torch.arange(max(settings.batch_size, HELD_AT_ONCE), device=place)
        self.part = torch.zeros((), dtype=torch.int64, device=place)
        self.broken = torch.zeros(shape[:2], dtype=torch.int64, device=place)
        self._ready()

    def _ready(self) -> None:
        modules = [job.victim.query.module for job in self.jobs]
        probe = self.images[:4].clamp(0, 1).to(self.model_dtype)
        self.parts = parts_of(modules, self.how, probe, self.device, self.home)
        names = f"{WHERE}: a step of {len(modules)} model(s)"
        state = [self.v, self.mean, self.square, self.taken, self.offset, self.cursor, self.log]
        wanted = self.how.graph
        self.step = Replay(self._step, state, self.device, self.home, names, wanted)
        self.look = Replay(self._look, [self.part], self.device, self.home, names, wanted)

    def close(self) -> None:
        """Give recorded steps and their memory back now: they and this object hold each other."""
        del self.step, self.look, self.parts

    def only(self, rows: list[int]) -> Steps:
        """The same steps for some of the models; this object is closed."""
        new = object.__new__(Steps)
        new.__dict__.update(self.__dict__)
        new.jobs = [self.jobs[i] for i in rows]
        for name in ("clean", "held", "v", "mean", "square", "gradient", "lr", "order", "found", "broken"):
            setattr(new, name, getattr(self, name)[rows].clone())
        for name in ("taken", "offset", "cursor", "part"):
            setattr(new, name, getattr(self, name).clone())
        new.log = self.log[:, rows].clone()
        self.close()
        new._ready()
        return new

    # -- on the device ---------------------------------------------------------------------------------
    def _each(self, work: Callable[..., None], *args: Tensor) -> None:
        """``work`` for every part on its stream, between what came before and what comes next."""
        begin = self.home.record()
        for part in self.parts:
            if part.stream is not self.home:
                part.stream.wait(begin)
            part.stream.do(partial(work, part, *args))
        for part in self.parts:
            if part.stream is not self.home:
                self.home.wait(part.stream.record())

    def _step(self) -> None:
        """One step of all perturbations; samples beyond the end of the pass count nothing."""
        column = self.offset + self.ramp[: self.settings.batch_size]
        valid = column < self.train
        index = self.order.index_select(2, column.clamp(max=self.train - 1))
        self._each(self._gradient, index, valid)
        self._ascend()
        self.log.index_copy_(0, self.cursor, self.found[None])
        self.cursor.add_(1).remainder_(KEPT)
        self.offset.add_(self.settings.batch_size)

    def _points(self, part: Part, index: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Points ``[m,P*n,C,H,W]`` of images ``index`` ``[m,P,n]`` moved by ``v``, and their clean labels."""
        points = (self.images[index] + v[:, :, None]).flatten(1, 2).clamp(0, 1)
        return points.to(self.model_dtype), self.clean[part.rows].gather(1, index.flatten(1))

    def _gradient(self, part: Part, index: Tensor, valid: Tensor) -> None:
        """Of the sum over perturbations of the mean hinge, as ``run_margin`` has it."""
        rows = index[part.rows]
        with torch.enable_grad():
            v = self.v[part.rows].detach().requires_grad_(True)
            points, labels = self._points(part, rows, v)
            logits = part.ask(points).to(self.dtype)
            margins = margin_of(logits.flatten(0, 1), labels.flatten()).view(rows.shape)
            hinge = (margins + self.settings.kappa).clamp(min=0)
            (g,) = torch.autograd.grad((hinge * (valid.to(self.dtype) / valid.sum())).sum(), v)
        self.gradient[part.rows].copy_(torch.nan_to_num(g))
        self.found[part.rows].copy_(((margins.detach() < 0) & valid).sum(-1))

    def _ascend(self) -> None:
        """Adam as ``torch.optim.Adam`` takes it, then back into the ball."""
        one, two = BETAS
        self.taken.add_(1)
        self.mean.lerp_(self.gradient, 1 - one)
        self.square.mul_(two).addcmul_(self.gradient, self.gradient, value=1 - two)
        height = self.square.sqrt() / (1 - two**self.taken).sqrt() + ADAM_EPS
        self.v.sub_(self.lr * self.mean / (height * (1 - one**self.taken)))
        flat = project(self.v.flatten(0, 1), self.settings.eps, self.settings.norm)
        self.v.copy_(flat.view_as(self.v))

    def _look(self) -> None:
        """How many of the next held-out points are fooled."""
        count = self.held.shape[2]
        column = self.part * HELD_AT_ONCE + self.ramp[:HELD_AT_ONCE]
        valid = column < count
        self._each(self._fooled, self.held.index_select(2, column.clamp(max=count - 1)), valid)
        self.part.add_(1)

    def _fooled(self, part: Part, index: Tensor, valid: Tensor) -> None:
        rows = index[part.rows]
        with torch.no_grad():
            points, labels = self._points(part, rows, self.v[part.rows])
            logits = part.ask(points).to(self.dtype)
            moved = (logits.argmax(-1) != labels).view(rows.shape) & valid
            self.found[part.rows].copy_(moved.sum(-1))
            self.broken[part.rows].copy_((~logits.isfinite()).sum(-1).view(rows.shape).sum(-1))

    # -- on the host -----------------------------------------------------------------------------------
    def new_pass(self) -> None:
        """Take the order of the pass that begins."""
        order = torch.stack([torch.stack([run.order() for run in job.runs]) for job in self.jobs])
        self.home.do(lambda: self.order.copy_(order))
        self.home.do(lambda: self.offset.zero_())

    def counts(self, since: int, steps: int) -> list[list[list[int]]]:
        """How many were fooled, ``[steps][M][P]``, in the steps from number ``since`` on."""
        slots = [(since + i) % KEPT for i in range(steps)]
        return self.home.now(lambda: self.log.tolist() if steps == KEPT else self.log[slots].tolist())

    def rates(self, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
        """Fooling rates on the held-out points, as ``Victim.fooling_rate`` gives them with ``least``."""
        self.home.do(lambda: self.part.zero_())
        count, seen = self.held.shape[2], 0
        hits = dict.fromkeys(wanted, 0)
        done: dict[tuple[int, int], float] = {}
        while len(done) < len(wanted):
            self.look()
            length = min(HELD_AT_ONCE, count - seen)
            seen += length
            found, broken = self.home.now(lambda: torch.stack([self.found, self.broken]).tolist())
            for i, p in wanted:
                if (i, p) in done:
                    continue
                self.jobs[i].victim.query.counter.forwards += length
                if broken[i][p]:
                    rule = "a module with finite outputs"
                    raise ModelError(WHERE, "model", rule, f"{broken[i][p]} NaN or Inf")
                hits[i, p] += found[i][p]
                goal = self.jobs[i].runs[p].goal
                if seen == count or out_of_reach(hits[i, p], seen, goal):
                    done[i, p] = hits[i, p] / seen
        return done


def run_resident(
    jobs: Sequence[UapJob], settings: MarginSettings, how: StepSettings, device: Device
) -> list[Tensor]:
    """The perturbations of every job, ``[P,C,H,W]`` each; as ``run_margin`` makes them, all at once."""
    main, home = device.main(), device.stream()
    home.wait(main.record())
    found = home.now(lambda: _run(Steps(jobs, settings, how, device, home), settings))
    main.wait(home.record())
    return found


def _run(steps: Steps, settings: MarginSettings) -> list[Tensor]:
    names = list(range(len(steps.jobs)))  # of the models that ``steps`` still has
    best = [[(-1.0, torch.zeros_like(row)) for row in rows] for rows in steps.v]
    active = {(i, p) for i, rows in enumerate(best) for p in range(len(rows))}
    number, seen = 0, 0
    pending: list[int] = []
    while active:
        if seen % steps.train == 0:
            steps.new_pass()
        steps.step()
        pending.append(min(settings.batch_size, steps.train - seen % steps.train))
        seen += pending[-1]
        number += 1
        runs = {(i, p): steps.jobs[names.index(i)].runs[p] for i, p in sorted(active)}
        may = seen % steps.train == 0 or any(run.rested(sum(pending)) for run in runs.values())
        if not may and len(pending) < KEPT:
            continue
        counts = steps.counts(number - len(pending), len(pending))
        for (i, p), run in runs.items():
            for length, row in zip(pending, counts, strict=True):
                run.saw(length, row[names.index(i)][p])
            counter = steps.jobs[names.index(i)].victim.query.counter
            counter.forwards, counter.backwards = (
                counter.forwards + sum(pending),
                counter.backwards + sum(pending),
            )
        pending = []
        active -= _finished(steps, names, runs, best, settings)
        left = [i for i in names if any((i, p) in active for p in range(len(best[i])))]
        if active and 2 * len(left) <= len(names):  # the others' places cost as much as theirs
            steps, names = steps.only([names.index(i) for i in left]), left
    steps.close()
    return [torch.stack([v for _, v in rows]) for rows in best]


def _finished(
    steps: Steps,
    names: list[int],
    runs: dict[tuple[int, int], UapRun],
    best: list[list[tuple[float, Tensor]]],
    settings: MarginSettings,
) -> set[tuple[int, int]]:
    """Look at the held-out points where it is time; who ends here. ``best`` and ``runs`` are changed."""
    due = {k: (names.index(k[0]), k[1]) for k, run in runs.items() if run.at_pass_end or run.due()}
    rates = steps.rates(list(due.values())) if due else {}
    ended = set()
    for (i, p), (row, column) in due.items():
        run, rate = runs[i, p], rates[row, column]
        reached = run.checked(rate)
        if rate > best[i][p][0]:
            best[i][p] = rate, steps.v[row, column].clone()
        elif run.at_pass_end:
            steps.lr[row, column] /= 2
        run.rate = best[i][p][0]
        if reached or (run.at_pass_end and run.passes >= settings.max_passes):
            ended.add((i, p))
    return ended


__all__ = ["Steps", "UapJob", "run_resident"]
