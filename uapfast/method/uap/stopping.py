"""When to stop: by the fooling rate on held-out points, asked for only when it is likely to be reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from uapfast.errors import DataError
from uapfast.method.uap.common import WHERE, Victim, split, visit_order

WINDOW = 256  # samples in the running training rate
MARGIN = 0.02  # held-out points are asked for this far below the goal already: the window lags behind v


@dataclass
class UapRun:
    """One perturbation in the making: its seed, its share of the images, what it has seen so far."""

    seed: int
    train: Tensor
    held: Tensor
    goal: float
    seen: int = 0
    recent: list[tuple[int, int]] = field(default_factory=list)
    checked_at: int = 0
    rate: float | None = None
    _order: tuple[int, Tensor] | None = None

    @property
    def passes(self) -> int:
        """Passes over the training images, a started one counted."""
        return -(-self.seen // len(self.train))

    def batch(self, size: int) -> Tensor:
        """The next ``size`` indices in the seeded order; at most to the end of the pass."""
        place = self.seen % len(self.train)
        return self.order()[place : place + size]

    def order(self) -> Tensor:
        """The indices of the pass under way in the seeded order, int64 ``[len(train)]``."""
        number = self.seen // len(self.train)
        if self._order is None or self._order[0] != number:
            order = visit_order(self.seed, number, len(self.train))
            self._order = number, self.train[order.to(self.train.device)]
        return self._order[1]

    def saw(self, count: int, fooled: int) -> None:
        """Record that of the ``count`` samples just visited ``fooled`` were fooled beforehand."""
        self.seen += count
        self.recent.append((count, fooled))
        while sum(c for c, _ in self.recent[1:]) >= WINDOW:
            self.recent.pop(0)

    @property
    def at_pass_end(self) -> bool:
        """Whether the last sample of a pass was just seen."""
        return self.seen % len(self.train) == 0

    def rested(self, more: int = 0) -> bool:
        """Whether the last check is long enough ago, ``more`` samples from now, for another one."""
        return self.seen + more - self.checked_at >= min(len(self.held), len(self.train))

    def due(self) -> bool:
        """Whether the held-out points should be asked: the training rate nears the goal, not too often."""
        if not self.rested():
            return False
        count = sum(c for c, _ in self.recent)
        return sum(f for _, f in self.recent) / count >= self.goal - MARGIN

    def check(self, victim: Victim, v: Tensor) -> bool:
        """Ask the held-out points; True if the goal is reached."""
        return self.checked(victim.fooling_rate(self.held, v, least=self.goal))

    def checked(self, rate: float) -> bool:
        """Take the answer of the held-out points; True if the goal is reached."""
        self.checked_at, self.rate = self.seen, rate
        return rate >= self.goal


def make_runs(victim: Victim, seeds: Sequence[int], holdout: float, goal: float) -> list[UapRun]:
    """One run per seed, each with its own split of the images."""
    runs = []
    for seed in seeds:
        train, held = split(len(victim.images), holdout, seed)
        device = victim.images.device
        runs.append(UapRun(seed, train.to(device), held.to(device), goal))
    return runs


def check_classes(victim: Victim, run: UapRun) -> int:
    """K, after one look at the victim's answers; raises ``DataError`` if it sees one class only."""
    first = victim.query.checked(victim.images[:1])
    if all(len(torch.unique(victim.clean(part))) == 1 for part in (run.held, run.train)):
        label = int(victim.clean(run.held)[0])
        rule = "of at least two classes by the model's labels"
        raise DataError(WHERE, "images", rule, f"all {len(victim.images)} in class {label}")
    return first.shape[1]
