"""Which models of a pool depend on each other, told from their answers.

A reference takes its twins for models that the victim might as well have been, and its innocents for
independent draws of honest training. Neither is a thing to believe: twins of another recipe, copies of the
victim among the innocents and five variants of one network all show in the residuals that
:mod:`uapfast.method.lineage` compares. Everything here is computed from inner products of a few dozen models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from uapfast.method.decision import Side, compare
from uapfast.method.lineage import LineageScorer
from uapfast.method.whitening import Array, center, safe_length

DEPENDENT = 0.6  # partial cosine from which an innocent counts as made from another; docs/verdicts.md
JOINTLY = 0.7  # the same with two others together
COPIED = 0.7  # the same for candidates: those that were fine-tuned from one model resemble each other more
ALONE = 0.45  # cosine with the victim of a copy, where there are no twins to compare with
RIDGE = 0.01  # share of the mean squared length added to every model's, for partial cosines
MOST_REMOVED = 16  # innocents that are taken out at most in the search for copies of a candidate
MANY = 200  # innocents from which fewer are taken out: a round costs as much as a verdict
MOST_OF_MANY = 4
LEAST_LEFT = 5  # innocents that the rest is compared with, at least


@dataclass(frozen=True)
class Kinship:
    """How the victim stands among its twins.

    Attributes:
        distance: its mean distance to them beside each twin's to the other candidates (in logarithms): a
            small ``p`` is far, ``1 - p`` small is near.
        ratio: that mean distance over the twins' mean.
        angle: mean cosine of the angle between the ways from it to two twins. 1/2 for one of several models
            made alike, 0 for the model that all the others were made from, near 1 for a stranger.
    """

    distance: Side
    ratio: float
    angle: float


def kinship(scorer: LineageScorer, place: int = 0) -> Kinship:
    """How candidate ``place`` (0 is the victim) stands among the other candidates; needs two of them."""
    rows = scorer.roster.candidates
    gram = scorer.gram[np.ix_(rows, rows)]
    square = np.diagonal(gram)
    between = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * gram, 0.0))
    mean = np.maximum(between.sum(1) / (len(rows) - 1), np.finfo(np.float64).tiny)
    others = np.delete(mean, place)
    ways = np.delete(np.eye(len(rows)), place, axis=0) - np.eye(len(rows))[place]
    inner = _cosines(ways @ gram @ ways.T)
    count = len(inner)
    angle = (inner.sum() - np.trace(inner)) / (count * (count - 1))
    side = compare(float(np.log(mean[place])), np.log(others))
    return Kinship(side, float(mean[place] / others.mean()), float(angle))


def _cosines(gram: Array) -> Array:
    square = np.diagonal(gram)
    length = safe_length(square, square.max())
    out: Array = gram / np.outer(length, length)
    return out


def dependent_candidates(scorer: LineageScorer) -> list[tuple[int, int, float]]:
    """Pairs of candidates of which one was made from the other: positions among them, and their cosine.

    Residuals of candidates add to 0, so that of m + 1 independent ones two have a cosine of -1/m; what is
    compared with ``COPIED`` is what exceeds that.
    """
    rows = scorer.roster.candidates
    if len(rows) < 3:
        return []
    found = _cosines(center(scorer.gram, rows)[np.ix_(rows, rows)])
    share = 1.0 / (len(rows) - 1)
    found = (found + share) / (1.0 + share)
    pairs = zip(*np.triu_indices(len(rows), 1), strict=True)
    return [(int(i), int(j), float(found[i, j])) for i, j in pairs if found[i, j] >= COPIED]


def dependent_innocents(scorer: LineageScorer) -> list[tuple[int, int, float]]:
    """Innocents that were made from another one: rows of both, and their partial cosine.

    The partial cosine is what two models have in common that no third one shares. In a group of many
    variants each pair shares all of it with a third, so variants are first taken out: the model that the
    others explain best leaves, until half of them are left, and then each one that left is compared with
    those that stayed, which are of different origin, and joins them if it is, too.
    """
    rows = scorer.roster.innocents
    gram = scorer.gram if scorer.roster.has_twins else center(scorer.gram, rows)
    inner = _cosines(gram[np.ix_(rows, rows)])
    inner = inner + RIDGE * np.eye(len(rows))
    base, waiting = _least_explained(inner)
    found: list[tuple[int, int, float]] = []
    while len(base) > 1:  # two of one origin may both be hard to explain by all the others
        partial = _partial(inner[np.ix_(base, base)])
        i, j = np.unravel_index(int(partial.argmax()), partial.shape)
        if partial[i, j] < DEPENDENT:
            break
        later, earlier = max(base[i], base[j]), min(base[i], base[j])
        found.append((later, earlier, float(partial[i, j])))
        base.remove(later)
    for row in reversed(waiting):
        most, alone, jointly = _explained_by(inner, row, base)
        if alone >= DEPENDENT or jointly >= JOINTLY:
            found.append((row, most, jointly))
        else:
            base.append(row)
    return [(int(rows[i]), int(rows[j]), value) for i, j, value in found]


def _explained_by(gram: Array, row: int, base: list[int]) -> tuple[int, float, float]:
    """The model of ``base`` that has most in common with ``row``, and partial cosines given all the others.

    One with it alone, one with the two nearest together. Two of ``base`` may be variants of ``row`` that have little more in common with each other than it has
    with both.
    """
    inverse = np.linalg.inv(gram[np.ix_(base, base)])
    along = inverse @ gram[base, row]
    left = max(float(gram[row, row] - gram[row, base] @ along), RIDGE)
    partial = along / np.sqrt(left * np.diagonal(inverse) + np.square(along))
    near = np.argsort(-partial)[:2]
    near = near[partial[near] > 0]
    if not len(near):
        return base[0], 0.0, 0.0
    explained = float(along[near] @ np.linalg.solve(inverse[np.ix_(near, near)], along[near]))
    jointly = float(np.sqrt(explained / (left + explained)))
    return base[int(near[0])], float(partial[near[0]]), jointly


def _partial(gram: Array) -> Array:
    """Partial cosines ``[N,N]`` of each pair given all the others, 0 on the diagonal."""
    inverse = np.linalg.inv(gram)
    length = np.sqrt(np.diagonal(inverse))
    out: Array = -inverse / np.outer(length, length)
    np.fill_diagonal(out, 0.0)
    return out


def _least_explained(gram: Array) -> tuple[list[int], list[int]]:
    """The half that stays when the model that the others explain best leaves, again and again; and who left."""
    left, gone = list(range(len(gram))), []
    inverse = np.linalg.inv(gram)
    while len(left) > max(2, len(gram) // 2):
        alone = 1.0 / (np.diagonal(inverse) * np.diagonal(gram)[left])  # share that the others do not explain
        i = int(alone.argmin())
        inverse = inverse - np.outer(inverse[i], inverse[i]) / inverse[i, i]
        inverse = np.delete(np.delete(inverse, i, 0), i, 1)
        gone.append(left.pop(i))
    return left, gone


@dataclass(frozen=True)
class Copy:
    """An innocent that stands out as a copy of a candidate would.

    Attributes:
        candidate: position among the candidates; 0 is the victim.
        p: how seldom an honest model stands out as much with that candidate. For a twin times their number.
    """

    candidate: int
    p: float


def copies_among_innocents(scorer: LineageScorer, alpha: float) -> dict[int, Copy]:
    """Innocents that descend from the victim or a twin, by row; none if none does.

    Several copies hide each other, since whitening and null are fitted on them. So the innocent that stands
    out most is taken out, again and again, and all that were taken out so far are compared with those that
    are left (the generalised extreme deviate procedure, Rosner 1983): the largest number of which all
    stand out at ``alpha`` are copies. A model's score with a candidate is compared in standard deviations
    that *all* pairs of an innocent and a candidate share, so that two or three twins are enough. Without
    twins an honest model near the middle of all others stands out as well: then its cosine must be a copy's,
    too.

    Args:
        scorer: with the innocents in question.
        alpha: level for each innocent.
    """
    left, out = [int(i) for i in scorer.roster.innocents], []
    found: dict[int, Copy] = {}
    most = min(MOST_REMOVED if len(left) < MANY else MOST_OF_MANY, len(left) // 2, len(left) - LEAST_LEFT)
    base = scorer
    for _ in range(most):
        scores = _judged(base, None)
        stand = _stand_out(scores, scores)
        first = (
            int(np.argmin([copy.p for copy in stand])) if scorer.roster.has_twins else int(scores.argmax())
        )
        out.append(left.pop(first))
        base = scorer.with_innocents(np.array(left))
        rest = _judged(base, None)
        now = _stand_out(np.stack([_judged(base, row) for row in out]), rest)
        if all(copy.p <= alpha for copy in now):
            found = dict(zip(out, now, strict=True))
    return found


def _judged(scorer: LineageScorer, row: int | None) -> Array:
    """Scores ``[n,C]`` of the innocents with all candidates, or ``[C]`` of one more model of the pool.

    Without twins with the victim alone, as a verdict is.
    """
    if row is None:
        scores, _ = scorer.innocent_scores()
    else:
        scores = scorer.scores(scorer.pool[row])[0].mean(0)
    return scores if scorer.roster.has_twins else scores[..., :1]


def _stand_out(scores: Array, rest: Array) -> list[Copy]:
    """How models with ``scores`` ``[k,C]`` stand beside innocents ``[n,C]``."""
    count, candidates = rest.shape
    twins = candidates - 1
    if not twins:
        spread = float(rest.std(ddof=1))
        z = (scores - rest.mean()) / max(spread, 1e-12)
    else:
        apart = rest - rest.mean(1, keepdims=True)
        spread = float(np.sqrt(np.square(apart).sum() / ((count - 1) * twins)))
        z = (scores - scores.mean(1, keepdims=True)) * (candidates / twins)  # from the mean of the others
        z = z / max(spread, 1e-12) / np.sqrt(1.0 + 1.0 / twins)
    p = special.stdtr(count - 1, -z)
    if not twins:
        p = np.where(scores >= ALONE, p, 1.0)
    p[:, 1:] *= max(twins, 1)
    place = p.argmin(1)
    return [Copy(int(c), float(row[c])) for c, row in zip(place, p, strict=True)]


__all__ = [
    "DEPENDENT",
    "Copy",
    "Kinship",
    "copies_among_innocents",
    "dependent_candidates",
    "dependent_innocents",
    "kinship",
]
