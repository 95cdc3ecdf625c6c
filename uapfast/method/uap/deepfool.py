"""Moosavi-Dezfooli's universal perturbation: project(v + DeepFool step), sample after sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uapfast import ops
from uapfast.method.uap.common import Query, Victim, project
from uapfast.method.uap.models import Models, model_groups
from uapfast.method.uap.stopping import UapRun

MAX_ITER = 10  # DeepFool steps per sample (LTS4: max_iter_df)
BACKWARD_ROWS = 512  # rows (samples times classes) of one backward: bounds its memory
Observer = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class DeepFoolSettings:
    """Settings of the algorithm; the defaults are those of the LTS4 code.

    Attributes:
        eps: radius of v's ball.
        norm: of v's ball, ``linf`` or ``l2``. DeepFool's own steps are L2-minimal either way (equation 1).
        max_passes: most passes over the images.
        batch_size: images per update of v; 1 is the published algorithm.
        top_k: classes considered, by logit at the start.
        overshoot: share added to the total DeepFool step.
        max_iter: DeepFool steps per sample.
    """

    eps: float
    norm: str
    max_passes: int
    batch_size: int
    top_k: int = 10
    overshoot: float = 0.02
    max_iter: int = MAX_ITER


def class_gradients(
    logits: Tensor, point: Tensor, top: Tensor, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Logits and gradients of the classes ``top`` ``[B,K]``, less those of the first class.

    Only differences enter the step, so the first class costs no backward: K - 1 instead of K. They are
    made together, ``BACKWARD_ROWS`` rows at a time, since the few samples that DeepFool still works on
    leave a backward waiting for its own overhead; one by one where a module's backward takes no batches.
    ``most``: samples of the model that has most of them, where there are several models.

    Returns:
        ``[B,K]`` and ``[B,K,D]``; row 0 is zero.
    """
    relative = logits.gather(1, top) - logits.gather(1, top[:, :1])
    batch, classes = top.shape
    gradients = point.new_zeros(classes, batch, point[0].numel())
    chosen = torch.eye(classes, dtype=relative.dtype, device=relative.device)
    each = max(1, BACKWARD_ROWS // (most or batch))
    try:
        for k in range(1, classes, each):
            rows = chosen[k : k + each, None].expand(-1, batch, classes)
            (g,) = torch.autograd.grad(relative, point, rows, retain_graph=True, is_grads_batched=True)
            gradients[k : k + each] = g.flatten(2)
    except RuntimeError:  # e.g. a custom backward that looks at values
        for k in range(1, classes):
            (g,) = torch.autograd.grad(relative[:, k].sum(), point, retain_graph=True)
            gradients[k] = g.flatten(1)
    return relative.detach(), gradients.transpose(0, 1)


def deepfool(
    query: Query | Models,
    start: Tensor,
    top_k: int,
    overshoot: float,
    max_iter: int,
    owner: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """DeepFool from each of ``start`` ``[B,C,H,W]``; finished samples leave the batch.

    The label to be left is the model's at ``start``. Pixels that the range 0..1 holds fast have no
    gradient, so no step is spent on them; v itself is never clipped to the range. With several models,
    sample i is put to model ``owner[i]`` (int64 ``[B]``, ascending).

    Returns:
        total step ``[B,C,H,W]`` with overshoot, steps taken int64 ``[B]``, found bool ``[B]``.

    Source: Moosavi-Dezfooli et al., "DeepFool", CVPR 2016; LTS4/universal, deepfool.py.
    """
    total = torch.zeros_like(start)
    taken = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    found = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    active = torch.arange(len(start), device=start.device)
    top = None
    for step in range(max_iter + 1):
        asked = _of(owner, active)
        logits, point = _ask(query, start[active] + (1 + overshoot) * total[active], asked)
        if top is None:
            top = logits.detach().topk(min(top_k, logits.shape[1]), dim=1).indices
        stay = logits.argmax(1) == top[active, 0]
        found[active[~stay]] = True
        active = active[stay]
        if step == max_iter or len(active) == 0:
            break
        if len(active) < 0.9 * len(point):  # 9 backwards of the finished would cost more than one forward
            asked = _of(owner, active)
            logits, point = _ask(query, point.detach()[stay], asked)
            stay = torch.ones(len(point), dtype=torch.bool, device=point.device)
        classes = top.new_zeros(len(point), top.shape[1])
        classes[stay] = top[active]
        most = None if asked is None else int(torch.bincount(asked).max())
        relative, gradients = class_gradients(logits, point, classes, most)
        query.counter.backwards += len(point) * (top.shape[1] - 1)
        here = torch.zeros(len(active), dtype=torch.int64, device=start.device)
        move, _ = ops.deepfool_step(relative[stay], gradients[stay], here, 2.0)
        total[active] += move.view(len(active), *start.shape[1:])
        taken[active] += 1
    return (1 + overshoot) * total, taken, found


def _of(owner: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if owner is None else owner[rows]


def _ask(query: Query | Models, point: Tensor, owner: Tensor | None) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        point = point.detach().requires_grad_(True)
        if isinstance(query, Query):
            return query.logits(point), point
        assert owner is not None
        return query.logits(point, owner), point


def run_deepfool(
    victims: Sequence[Victim],
    runs: Sequence[list[UapRun]],
    classes: Sequence[int],
    settings: DeepFoolSettings,
    observer: Observer | None = None,
) -> list[Tensor]:
    """The universal perturbations of ``runs``, ``[P,C,H,W]`` a model; seeds and models share batches.

    Per batch: DeepFool from x + v for the images that v does not yet fool, then
    v <- project(v + sum of their steps / sqrt(number)). With ``batch_size`` 1 this is the published
    algorithm, v <- project(v + step), and the held-out points are asked after each pass, as there;
    with more, whenever the running rate nears the goal. As in the LTS4 code a step is used if DeepFool
    needed fewer than ``max_iter - 1`` iterations.

    Args:
        victims: the frozen models, with the same images.
        runs: of each model, one per perturbation; changed (counts, rates).
        classes: of each model.
        settings: see there.
        observer: called with (run, image, v ``[C,H,W]``) after each update; for tests, of one model.

    Source: Moosavi-Dezfooli et al., "Universal adversarial perturbations", CVPR 2017, algorithm 1.
    """
    found: dict[int, Tensor] = {}
    kinds = [(v.query.device, v.query.dtype, k) for v, k in zip(victims, classes, strict=True)]
    for places in model_groups(kinds, victims[0].images[0].numel()):
        jobs = [_Job(k, victims[i], run) for k, i in enumerate(places) for run in runs[i]]
        v = _run_group([victims[i] for i in places], jobs, settings, observer)
        found |= dict(zip(places, torch.split(v, [len(runs[i]) for i in places]), strict=True))
    return [found[i] for i in range(len(victims))]


@dataclass(frozen=True)
class _Job:
    """One perturbation: the place of its model in the group, the model, the run."""

    place: int
    victim: Victim
    run: UapRun


def _run_group(
    victims: list[Victim], jobs: list[_Job], settings: DeepFoolSettings, observer: Observer | None
) -> Tensor:
    first = victims[0]
    models = Models([v.query for v in victims])
    v = torch.zeros(len(jobs), *first.images.shape[1:], dtype=first.query.dtype, device=first.query.device)
    active = list(range(len(jobs)))
    while active:
        batches = [jobs[p].run.batch(settings.batch_size) for p in active]
        steps, fooled = _steps(models, [jobs[p] for p in active], v[active], batches, settings)
        for p, batch, step, hits in zip(active, batches, steps, fooled, strict=True):
            if step is not None:
                v[p] = project((v[p] + step)[None], settings.eps, settings.norm)[0]
                if observer is not None:
                    observer(p, int(batch[0]), v[p].clone())
            jobs[p].run.saw(len(batch), hits)
        active = [p for p in active if not _finished(jobs[p].victim, jobs[p].run, v[p], settings)]
    return v


def _steps(
    models: Models, jobs: list[_Job], v: Tensor, batches: list[Tensor], settings: DeepFoolSettings
) -> tuple[list[Tensor | None], list[int]]:
    """Per run: the joint step of the images of its batch that v does not fool, and how many it does."""
    row = torch.cat([torch.full_like(b, p) for p, b in enumerate(batches)])
    owner = torch.cat([torch.full_like(b, job.place) for job, b in zip(jobs, batches, strict=True)])
    start = jobs[0].victim.images[torch.cat(batches)] + v[row]
    clean = torch.cat([job.victim.clean(b) for job, b in zip(jobs, batches, strict=True)])
    with torch.no_grad():
        fooled = models.logits(start, owner).argmax(1) != clean
    todo = (~fooled).nonzero()[:, 0]
    steps: list[Tensor | None] = [None] * len(batches)
    if len(todo):
        s = settings
        total, taken, _ = deepfool(models, start[todo], s.top_k, s.overshoot, s.max_iter, owner[todo])
        usable = (taken < s.max_iter - 1) & total.flatten(1).isfinite().all(1)
        for p in range(len(batches)):
            mine = total[usable & (row[todo] == p)]
            if len(mine):
                steps[p] = mine.sum(0) / len(mine) ** 0.5
    return steps, [int(fooled[row == p].sum()) for p in range(len(batches))]


def _finished(victim: Victim, run: UapRun, v: Tensor, settings: DeepFoolSettings) -> bool:
    if (run.at_pass_end or (settings.batch_size > 1 and run.due())) and run.check(victim, v):
        return True
    return run.at_pass_end and run.passes >= settings.max_passes
