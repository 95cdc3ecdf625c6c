"""What a pool's models agree on, and whether a suspect that was asked rightly could answer so differently.

Models of one task give most images the same label. A suspect that was fed wrongly normalised images, or whose
classes or rows come in another order, agrees with hardly any of these labels; no honest model does, and no
copy that is worth anything. So agreement tells a fault of the asking from a fact about the suspect. It is a
check of the answers and never evidence of descent: the labels are those of all models of the pool alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Labels = NDArray[np.int64]

Range = Literal["usual", "weak", "below"]

# Queries, at most, that show how a suspect is asked: as a rule, and where these leave it in doubt. Easy
# images hardly tell (38 and 40 of 40 where these are 19 and 28 of 31).
SHOWING = (64, 256)
GUESSING = 4.0  # standard errors above the commonest label that a model which guesses does not reach
UNUSUAL = 0.05  # of a pool's models: one that learnt next to nothing must not make all answers look right
SHIFTS = 3  # places by which rows are looked for out of place, either way
ERRORS = 2.0  # standard errors by which agreement may lie below the pool's least


def classes_of(columns: Labels, kept: Labels | None) -> Labels:
    """The classes ``[...]`` that columns of the reduced classes are; -1 for the last, which is all others.

    Args:
        columns: one a query.
        kept: ``[...,classes-1]`` what class each column of a query is; None where columns are classes.
    """
    if kept is None:
        return columns
    of_all = np.concatenate([kept, np.full((*kept.shape[:-1], 1), -1)], -1)
    named: Labels = np.take_along_axis(of_all, columns[..., None], -1)[..., 0]
    return named


@dataclass(frozen=True, eq=False)
class Majority:
    """What most of some models say of some queries, those aside that they call a rare class.

    Attributes:
        queries: int64 ``[q]`` which.
        classes: int64 ``[q]`` of each the commonest.
        guess: share of these queries that are of the commonest class.
        median: share that the median model answers so.
    """

    queries: Labels
    classes: Labels
    guess: float
    median: float

    @classmethod
    def of(cls, labels: Labels, classes: int, kept: Labels | None = None) -> Majority:
        """From labels ``[M,n]``; arguments as those of :meth:`Consensus.of`, ``kept`` ``[n,classes-1]``."""
        votes = (labels[..., None] == np.arange(classes)).sum(0).argmax(-1)
        named = classes_of(votes, kept)
        queries = np.flatnonzero(named >= 0)
        named = named[queries]
        agreed = (labels == votes)[:, queries].mean(-1) if len(queries) else np.zeros(len(labels))
        guess = float(np.unique(named, return_counts=True)[1].max(initial=0)) / max(len(queries), 1)
        return cls(queries, named, guess, float(np.sort(agreed)[(len(agreed) - 1) // 2]))


@dataclass(frozen=True, eq=False)
class Consensus:
    """Labels on which the models of a pool agree.

    Attributes:
        majority: int64 ``[V,n]`` the commonest label of each clean query, a column of the reduced classes.
        least: smallest agreement of a pool model with the majority of the others, in 0..1. One that agrees no
            more than who guesses does not count: beside it all answers would look right.
        usual: agreement that all but a share ``UNUSUAL`` of the same models reach.
    """

    majority: Labels
    least: float
    usual: float

    @classmethod
    def of(cls, labels: Labels, classes: int, kept: Labels | None = None) -> Consensus:
        """What models agree on, most of which know the task.

        Args:
            labels: ``[M,V,n]``, columns of the reduced classes, each in 0..classes-1.
            classes: columns.
            kept: ``[V,n,classes-1]`` what class each column of a query is, but for the last, which is all
                others; None where columns are classes.
        """
        one = np.zeros((*labels.shape[1:], classes), np.int32)
        for row in labels:
            np.add.at(one, (*np.indices(row.shape), row), 1)
        majority = one.argmax(-1)
        shares = []
        for row in labels:
            others = one.copy()
            np.add.at(others, (*np.indices(row.shape), row), -1)
            shares.append(float((others.argmax(-1) == row).mean()))
        # a query's first column is mostly right, and says nothing of its class
        named = classes_of(majority, kept)
        named = named[named >= 0]
        guess = float(np.unique(named, return_counts=True)[1].max(initial=0)) / majority.size
        reach = guess + GUESSING * float(np.sqrt(guess * (1.0 - guess) / majority.size))
        counted = [share for share in shares if share > reach]
        if 2 * len(counted) < len(shares):  # questions on which so many differ say nothing of who guesses
            counted = shares
        return cls(majority.astype(np.int64), min(counted), float(np.quantile(counted, UNUSUAL)))

    def agreement(self, labels: Labels) -> float:
        """Share of the first k views' queries that ``labels`` ``[k,n]`` answer as the majority does.

        A query without an answer (-1) does not count.
        """
        answered = labels >= 0
        return float((labels == self.majority[: len(labels)])[answered].mean()) if answered.any() else 0.0

    def range_of(self, agreement: float, queries: int) -> Range:
        """Where an agreement over so many queries lies among those of the pool's models."""
        for bound, name in ((self.least, "below"), (self.usual, "weak")):
            error = float(np.sqrt(bound * (1.0 - bound) / queries))
            if agreement < bound - ERRORS * error:
                return name  # type: ignore[return-value]
        return "usual"

    def shift(self, labels: Labels) -> int | None:
        """By how many places rows ``[k,n]`` stand too late; None if moving them mends nothing."""
        flat, wanted = labels.ravel(), self.majority[: len(labels)].ravel()
        for places in (s for step in range(1, SHIFTS + 1) for s in (step, -step)):
            found = float((np.roll(flat, -places) == wanted).mean())
            if self.range_of(found, len(flat)) == "usual":
                return places
        return None


def class_order(labels: Labels, wanted: Labels, classes: int) -> tuple[int, ...]:
    """The order of classes under which ``labels`` agree best with ``wanted``, both ``[P]``.

    Returns:
        For each of our classes the suspect's class that stands for it, each once (the assignment of most
        agreements: Kuhn 1955, as scipy has it).
    """
    table = np.zeros((classes, classes), np.int64)
    answered = labels >= 0
    np.add.at(table, (wanted[answered], labels[answered]), 1)
    _, columns = linear_sum_assignment(table, maximize=True)
    return tuple(int(c) for c in columns)


def probe_rows(labels: Labels, share: NDArray[np.float64], count: int) -> Labels:
    """Images that tell the classes apart: those that models agree on most, all classes in turn.

    Args:
        labels: ``[N]`` majority label of each image.
        share: ``[N]`` share of models that give it.
        count: images wanted, at most.

    Returns:
        Their indices, at most ``count``.
    """
    order = np.argsort(-share, kind="stable")
    rank = np.empty(len(labels), np.int64)  # place among the images of the same class
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        rank[rows] = np.arange(len(rows))
    return order[np.argsort(rank[order], kind="stable")][:count].astype(np.int64)


def says_nothing(values: Tensor) -> bool:
    """Whether all answers ``[N,...]`` are one and the same, rounding aside."""
    if len(values) < 2:
        return False
    values = values.to(torch.float64)
    apart = float((values - values[:1]).abs().max())
    return apart <= ROUNDING * max(float(values.abs().max()), TINY)


ROUNDING = 1e-6  # share of the largest answer; float32 has 6e-8
TINY = 1e-30


__all__ = [
    "SHOWING",
    "Consensus",
    "Majority",
    "class_order",
    "classes_of",
    "probe_rows",
    "says_nothing",
]
