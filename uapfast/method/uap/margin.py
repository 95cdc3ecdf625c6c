"""UAPs by gradient: mini-batch margin hinge, one backward a sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from uapfast.method.uap.common import Victim, project
from uapfast.method.uap.stopping import UapRun

KAPPA = 1.0  # the hinge asks for this lead in logits of another class; more only moves what is fooled already
STEP = 0.2  # Adam's step, in radii of the ball
BETAS = (0.7, 0.99)


@dataclass(frozen=True)
class MarginSettings:
    """Settings of the algorithm.

    Attributes:
        eps: radius of v's ball.
        norm: of v's ball, ``linf`` or ``l2``.
        max_passes: most passes over the images.
        batch_size: images per step.
        step: Adam's step as a share of the ball's radius per element.
        kappa: lead in logits that the hinge asks for.
    """

    eps: float
    norm: str
    max_passes: int
    batch_size: int
    step: float = STEP
    kappa: float = KAPPA


def margin_of(logits: Tensor, labels: Tensor) -> Tensor:
    """``[B]``: logit of ``labels`` int64 ``[B]`` less the largest other one; negative where fooled."""
    own = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return own - other


def element_radius(eps: float, norm: str, size: int) -> float:
    """Typical size of one element of a vector on the ball's surface."""
    return eps if norm == "linf" else eps / float(size) ** 0.5


class Ascent:
    """Adam on several perturbations at once, each kept inside its ball, each able to stop alone."""

    def __init__(self, start: Tensor, eps: float, norm: str, step: float) -> None:
        self.eps, self.norm = eps, norm
        self.v = [row.clone().requires_grad_(True) for row in start]
        lr = step * element_radius(eps, norm, start[0].numel())
        # Adam's 1e-8 is far below any gradient of the mean margin; kept relative to nothing else.
        groups = [{"params": [row]} for row in self.v]
        self.optimiser = torch.optim.Adam(groups, lr=lr, betas=BETAS)

    def stacked(self, active: list[int]) -> Tensor:
        """``[len(active),C,H,W]``, with gradients."""
        return torch.stack([self.v[p] for p in active])

    def step(self, loss: Tensor, active: list[int]) -> None:
        """One descent step on ``loss`` for the ``active`` perturbations, then back into the ball."""
        chosen = [self.v[p] for p in active]
        for row in self.v:
            row.grad = None
        for row, g in zip(chosen, torch.autograd.grad(loss, chosen), strict=True):
            row.grad = torch.nan_to_num(g)
        self.optimiser.step()
        with torch.no_grad():
            inside = project(torch.stack(chosen), self.eps, self.norm)
            for row, new in zip(chosen, inside, strict=True):
                row.copy_(new)

    def slower(self, p: int) -> None:
        """Halve the step of perturbation ``p``."""
        self.optimiser.param_groups[p]["lr"] /= 2

    def result(self) -> Tensor:
        """All perturbations ``[P,C,H,W]``, without gradients."""
        return torch.stack([row.detach().clone() for row in self.v])


def run_margin(victim: Victim, runs: list[UapRun], settings: MarginSettings) -> Tensor:
    """The universal perturbations of ``runs``, ``[P,C,H,W]``; several seeds share every batch.

    Minimises the mean of max(0, kappa + margin of the clean label) at x + v by Adam, projected onto the
    ball after each step. v is added un-expanded, so autograd sums its gradient over the batch. A pass
    without progress on the held-out points halves the step; the best v seen there is kept.

    Source: Shafahi et al., "Universal adversarial training", AAAI 2020 (clamped loss, mini-batches); the
    margin in place of the cross-entropy is ours (Carlini & Wagner's loss).
    """
    shape = victim.images.shape[1:]
    start = torch.zeros(len(runs), *shape, dtype=victim.query.dtype, device=victim.query.device)
    ascent = Ascent(start, settings.eps, settings.norm, settings.step)
    best: list[tuple[float, Tensor]] = [(-1.0, row) for row in start]
    active = list(range(len(runs)))
    while active:
        batches = [runs[p].batch(settings.batch_size) for p in active]
        loss, fooled = _loss(victim, ascent.stacked(active), batches, settings.kappa)
        ascent.step(loss, active)
        for p, batch, hits in zip(active, batches, fooled, strict=True):
            runs[p].saw(len(batch), hits)
        active = [p for p in active if not _finished(victim, runs[p], ascent, p, best, settings)]
    return torch.stack([v for _, v in best])


def _loss(victim: Victim, v: Tensor, batches: list[Tensor], kappa: float) -> tuple[Tensor, list[int]]:
    """Sum over runs of the mean hinge, and how many of each batch are fooled."""
    index = torch.cat(batches)
    labels = victim.clean(index)
    parts = [victim.images[b] + row for b, row in zip(batches, v, strict=True)]
    margins = torch.split(margin_of(victim.query.logits(torch.cat(parts)), labels), [len(b) for b in batches])
    victim.query.counter.backwards += len(index)
    loss = torch.stack([(m + kappa).clamp(min=0).mean() for m in margins]).sum()
    return loss, torch.stack([(m < 0).sum() for m in margins]).tolist()


def _finished(
    victim: Victim,
    run: UapRun,
    ascent: Ascent,
    p: int,
    best: list[tuple[float, Tensor]],
    settings: MarginSettings,
) -> bool:
    if not (run.at_pass_end or run.due()):
        return False
    v = ascent.v[p].detach()
    reached = run.check(victim, v)
    rate = run.rate or 0.0
    if rate > best[p][0]:
        best[p] = rate, v.clone()
    elif run.at_pass_end:
        ascent.slower(p)
    run.rate = best[p][0]
    return reached or (run.at_pass_end and run.passes >= settings.max_passes)
