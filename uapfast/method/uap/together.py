"""Which models share a step, and what happens where they cannot."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from uapfast.config import UapForm
from uapfast.method.uap.checks import Arguments
from uapfast.method.uap.common import WHERE
from uapfast.method.uap.forms import LARGE_SIDE, StepSettings, choose_form, chunk_of, in_order
from uapfast.method.uap.margin import MarginSettings
from uapfast.method.uap.resident import UapJob, run_resident
from uapfast.method.uap.stopping import make_runs
from uapfast.streams import Device, device_for

log = logging.getLogger(__name__)


def uap_form(jobs: Sequence[UapJob], a: Arguments) -> UapForm:
    """``a.form``, or the one that ``auto`` stands for: ``loop`` unless every model is on a GPU."""
    if a.method != "margin":
        return "loop"
    if a.form != "auto":
        return a.form  # type: ignore[return-value]
    if a.precision == "float32" and any(job.victim.query.device.type != "cuda" for job in jobs):
        return "loop"
    return choose_form([job.victim.query.module for job in jobs])


def make_together(
    jobs: Sequence[UapJob],
    settings: MarginSettings,
    form: UapForm,
    a: Arguments,
    device: Device | None = None,
) -> list[Tensor]:
    """The perturbations of every job, ``[P,C,H,W]`` each, in steps that are on the device.

    Models of one device and type share steps, no more of them than their images allow, those that are alike
    side by side. Where the memory does not do for models together, they are taken one by one.

    Args:
        jobs: their runs are changed.
        settings: of the algorithm.
        form: ``alone``, ``streams`` or ``stacked``.
        a: of the call.
        device: None for the one where the models are.
    """
    found: list[Tensor | None] = [None] * len(jobs)
    for rows in _shared(jobs, form, settings.batch_size):
        mine = [jobs[i] for i in rows]
        where = device or device_for(mine[0].victim.query.device)
        side = min(mine[0].victim.images.shape[2:])
        how = StepSettings(form, a.precision, a.graph, where.graphs and side >= LARGE_SIDE)  # type: ignore[arg-type]
        for i, v in zip(rows, _made(mine, settings, how, where, a), strict=True):
            found[i] = v
    return [v for v in found if v is not None]


def _made(
    jobs: list[UapJob], settings: MarginSettings, how: StepSettings, device: Device, a: Arguments
) -> list[Tensor]:
    try:
        return run_resident(jobs, settings, how, device)
    except torch.OutOfMemoryError:
        if len(jobs) == 1:
            raise
    log.warning("%s: no memory for %d models together; one by one", WHERE, len(jobs))
    found = []
    for job in jobs:
        seeds = [run.seed for run in job.runs]
        job.runs[:] = make_runs(job.victim, seeds, a.holdout, a.fooling)
        found += run_resident([job], settings, replace(how, form="alone"), device)
    return found


def _shared(jobs: Sequence[UapJob], form: UapForm, batch: int) -> list[list[int]]:
    """Places of the jobs that share steps."""
    kinds: dict[object, list[int]] = {}
    for i, job in enumerate(jobs):
        query = job.victim.query
        kinds.setdefault((query.device, query.dtype, query.model_dtype), []).append(i)
    shared = []
    for places in kinds.values():
        if form == "stacked":
            groups = in_order([jobs[i].victim.query.module for i in places])
            places = [places[i] for group in groups for i in group]
        first = jobs[places[0]]
        most = chunk_of(form, first.victim.images[0].numel() * len(first.runs) * batch)
        shared += [places[k : k + most] for k in range(0, len(places), most)]
    return shared


__all__ = ["make_together", "uap_form"]
