"""UAPs that move one lineage and spare everyone else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from uapfast.method.uap.common import Query, Victim
from uapfast.method.uap.margin import Ascent, margin_of
from uapfast.method.uap.stopping import UapRun

SPARED_AT_ONCE = 4
SPARE_WEIGHT = 2.0
STEP = 0.1
# Leads beyond this move what is moved already; without a bound one easy model takes the whole of v.
ENOUGH = 3.0


@dataclass(frozen=True)
class ContrastSettings:
    """Settings of the algorithm.

    Attributes:
        eps: radius of v's ball.
        norm: of v's ball, ``linf`` or ``l2``.
        max_passes: passes over the images; all are made.
        batch_size: images per step.
        targets: per perturbation the class that the moved models are to answer, or None for any but theirs.
        step: Adam's step as a share of the ball's radius per element.
        spare_weight: weight of the KL divergence of the spared against the hinge of the moved.
    """

    eps: float
    norm: str
    max_passes: int
    batch_size: int
    targets: tuple[int | None, ...]
    step: float = STEP
    spare_weight: float = SPARE_WEIGHT


def run_contrastive(
    victim: Victim,
    move: Sequence[Query],
    spare: Sequence[Query],
    runs: list[UapRun],
    settings: ContrastSettings,
) -> Tensor:
    """The contrastive perturbations of ``runs``, ``[P,C,H,W]``.

    Minimises, over v in the ball, the mean hinge that moves the answers of every model of ``move`` to the
    target (or off their clean label), plus ``spare_weight`` times KL(f(x) || f(x+v)) of the models of
    ``spare``: the universal form of conferrable adversarial examples. Each step asks all of ``move`` and
    ``SPARED_AT_ONCE`` of ``spare`` in turn, so a large pool costs no more per step than a small one.

    Args:
        victim: the first of ``move``, with the images.
        move: models to be moved, the victim first.
        spare: models to be left where they are; may be empty.
        runs: one per perturbation; changed (counts, rates).
        settings: see there.

    Source: Lukas, Zhang, Kerschbaum, "Deep neural network fingerprinting by conferrable adversarial
    examples", ICLR 2021.
    """
    shape = victim.images.shape[1:]
    start = torch.zeros(len(runs), *shape, dtype=victim.query.dtype, device=victim.query.device)
    ascent = Ascent(start, settings.eps, settings.norm, settings.step)
    for p, run in enumerate(runs):
        turn = 0
        while run.passes < settings.max_passes or not run.at_pass_end:
            x = victim.images[run.batch(settings.batch_size)]
            chosen = [spare[(turn + i) % len(spare)] for i in range(min(SPARED_AT_ONCE, len(spare)))]
            turn += len(chosen)
            v = ascent.v[p]
            loss = torch.stack([_moved(q, x, v, settings.targets[p]) for q in move]).mean()
            if chosen:
                drift = torch.stack([_drift(q, x, v) for q in chosen]).mean()
                loss = loss + settings.spare_weight * drift
            ascent.step(loss, [p])
            run.saw(len(x), 0)
    return ascent.result()


def _moved(query: Query, x: Tensor, v: Tensor, target: int | None) -> Tensor:
    """Mean hinge: lead in logits that the target (or another class than the clean one) still lacks."""
    logits = query.logits(x + v)
    query.counter.backwards += len(x)
    if target is None:
        with torch.no_grad():
            clean = query.logits(x).argmax(1)
        lead = -margin_of(logits, clean)
    else:
        lead = margin_of(logits, torch.full((len(x),), target, device=x.device))
    return (ENOUGH - lead).clamp(min=0).mean()


def _drift(query: Query, x: Tensor, v: Tensor) -> Tensor:
    """Mean KL(f(x) || f(x+v))."""
    with torch.no_grad():
        clean = query.logits(x).log_softmax(1)
    query.counter.backwards += len(x)
    moved = query.logits(x + v).log_softmax(1)
    return functional.kl_div(moved, clean, reduction="batchmean", log_target=True)
