"""Which models of a pool depend on each other, told from their answers.

A reference takes its twins for models that the victim might as well have been, and its innocents for
independent draws of honest training. Neither is a thing to believe: twins of another recipe, copies of the
victim among the innocents and five variants of one network all show in the residuals that
:mod:`uapfast.method.lineage` compares. Everything here is computed from inner products of a few dozen models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from uapfast.arrays import Float64Array
from uapfast.method.decision import Side, compare
from uapfast.method.lineage import LineageScorer
from uapfast.method.spread import beside_others, chance, widened
from uapfast.method.whitening import center, safe_length

DEPENDENT = 0.6  # partial cosine from which an innocent counts as made from another; docs/verdicts.md
RELATED = 0.37  # partial cosine from which two innocents may have been made from each other
AMONG_RELATIVES = 0.75  # the same as DEPENDENT once other relatives are left out
SAME = 0.97  # cosine from which answers are all but the same
COPIED = 0.7  # the same for candidates: those that were fine-tuned from one model resemble each other more
ALONE = 0.45  # cosine with the victim of a copy, where there are no twins to compare with
RIDGE = 0.01  # share of the mean squared length added to every model's, for partial cosines
MOST_REMOVED = 16  # innocents that are taken out at most in the search for copies of a candidate
MANY = 200  # innocents from which fewer are taken out: a round costs as much as a verdict
MOST_OF_MANY = 4
LEAST_LEFT = 5  # innocents that the rest is compared with, at least
# Honest models of one kind may vary more than the others do (small MLPs: 1.4 to 2 times). A sure copy
# is allowed so much, and the usual spread counts for so many degrees of freedom; docs/verdicts.md
WIDTH, WEIGHT = 1.5, 4.0


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


def closeness(scorer: LineageScorer) -> float:
    """Mean distance between candidates over that of the nearest innocent to them.

    Models that were trained each by itself show .64 or more (digits, two architectures, 2 to 5 twins), reruns
    of the last half of a training .41 to .67, fine-tuned copies of one model .13 to .24.
    """
    rows, rest = scorer.roster.candidates, scorer.roster.innocents
    square = np.diagonal(scorer.gram)

    def between(one: NDArray[Any], two: NDArray[Any]) -> Float64Array:
        squares = square[one][:, None] + square[two][None] - 2 * scorer.gram[np.ix_(one, two)]
        out: Float64Array = np.sqrt(np.maximum(squares, 0.0))
        return out

    inner = between(rows, rows).sum() / max(len(rows) * (len(rows) - 1), 1)
    return float(inner / max(between(rest, rows).mean(1).min(), np.finfo(np.float64).tiny))


def _cosines(gram: Float64Array) -> Float64Array:
    square = np.diagonal(gram)
    length = safe_length(square, square.max())
    out: Float64Array = gram / np.outer(length, length)
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

    The partial cosine is what two models have in common that no third one shares; models that share data or
    architecture with many have little of it. Of the pair that has most one is taken out, again and again. It
    is the one that the others explain less, so that what its variants were made from stays. Variants among
    which that model is missing hide each other as models of the same data do: of those only what are all
    but the same answers is found.
    """
    rows = scorer.roster.innocents
    cosine = _cosines(scorer.gram[np.ix_(rows, rows)])  # about the candidates
    inner = cosine + RIDGE * np.eye(len(rows))
    left = list(range(len(rows)))
    found: list[tuple[int, int, float]] = []
    while len(left) > 2:
        inverse = np.linalg.inv(inner[np.ix_(left, left)])
        partial = _partial(inverse)
        same = cosine[np.ix_(left, left)] - np.eye(len(left))
        value = np.where(partial >= DEPENDENT, partial, 0.0)
        beside = _beside_relatives(inner[np.ix_(left, left)], partial)
        for found_by, least in ((beside, AMONG_RELATIVES), (same, SAME)):
            value = np.maximum(value, np.where(found_by >= least, found_by, 0.0))
        one, other = np.unravel_index(int(value.argmax()), value.shape)
        if value[one, other] <= 0:
            break
        gone, stays = (one, other) if inverse[one, one] < inverse[other, other] else (other, one)
        found.append((int(rows[left[gone]]), int(rows[left[stays]]), float(value[one, other])))
        left.pop(gone)
    return found


def _beside_relatives(gram: Float64Array, partial: Float64Array) -> Float64Array:
    """Partial cosines ``[N,N]`` of pairs that have much in common, given all but their other relatives.

    What a network has in common with each of k variants the other variants explain but for 1/sqrt(k).
    """
    close = partial >= RELATED
    out = partial.copy()
    for one, other in zip(*np.nonzero(np.triu(close)), strict=True):
        others = ~(close[one] | close[other])
        others[[one, other]] = True
        kept = np.flatnonzero(others)
        inverse = np.linalg.inv(gram[np.ix_(kept, kept)])
        i, j = np.searchsorted(kept, (one, other))
        out[one, other] = out[other, one] = -inverse[i, j] / np.sqrt(inverse[i, i] * inverse[j, j])
    return out


def _partial(inverse: NDArray[Any]) -> Float64Array:
    """Partial cosines ``[N,N]`` of each pair given all the others, from the inverse; 0 on the diagonal."""
    length = np.sqrt(np.diagonal(inverse))
    out: Float64Array = -inverse / np.outer(length, length)
    np.fill_diagonal(out, 0.0)
    return out


@dataclass(frozen=True)
class Copy:
    """An innocent that stands out as a copy of a candidate would.

    Attributes:
        candidate: position among the candidates; 0 is the victim.
        p: how seldom an honest model stands out as much with that candidate. For a twin times their number.
        sure: whether it stands out in its own spread as well, and not only in what is usual in the pool, as
            an honest model of a kind that varies more does.
    """

    candidate: int
    p: float
    sure: bool = True


def copies_among_innocents(scorer: LineageScorer, alpha: float) -> dict[int, Copy]:
    """Innocents that descend from the victim or a twin, by row; none if none does.

    Several copies hide each other, since whitening and null are fitted on them. So the innocent that stands
    out most is taken out, again and again, and all that were taken out so far are compared with those that
    are left (the generalised extreme deviate procedure, Rosner 1983): the largest number of which all
    stand out at ``alpha`` are named. A model's score with a candidate is compared in standard deviations that
    *all* pairs of an innocent and a candidate share, so that two or three twins are enough. Kinds of models
    differ in how much they vary, so who is named is then compared in its own scale, moderated with the shared
    one: only who stands out there as well is a copy for sure. Without twins, whose scores show a model's own
    scale, models near the middle of all others, or of the victim's own data, stand out as well: then the
    cosine must be a copy's, and no more than a quarter is taken out.

    Args:
        scorer: with the innocents in question.
        alpha: level for each innocent.
    """
    left, out = [int(i) for i in scorer.roster.innocents], []
    found: dict[int, Copy] = {}
    most = MOST_REMOVED if len(left) < MANY else MOST_OF_MANY
    most = min(most, len(left) // (2 if scorer.roster.has_twins else 4), len(left) - LEAST_LEFT)
    base = scorer
    for _ in range(most):
        scores = _judged(base, None)
        stand = _stand_out(scores, scores)
        first = (
            int(np.argmin([copy.p for copy in stand])) if scorer.roster.has_twins else int(scores.argmax())
        )
        out.append(left.pop(first))
        base = scorer.with_innocents(np.array(left))
        own, rest = _judged(base, out), _judged(base, None)
        now = _stand_out(own, rest)
        if all(copy.p <= alpha for copy in now):
            sure = [p <= alpha for p in _in_own_scale(own, rest, now)]
            found = {row: replace(copy, sure=s) for row, copy, s in zip(out, now, sure, strict=True)}
    return found


def _judged(scorer: LineageScorer, rows: list[int] | None) -> Float64Array:
    """Scores ``[n,C]`` of the innocents with all candidates, or of other models of the pool.

    Without twins with the victim alone, as a verdict is.
    """
    if rows is None:
        scores, _ = scorer.innocent_scores()
    else:
        scores = scorer.scores(scorer.pool[rows])[0].mean(1)
    return scores if scorer.roster.has_twins else scores[..., :1]


def _stand_out(scores: Float64Array, rest: Float64Array) -> list[Copy]:
    """How models with ``scores`` ``[k,C]`` stand beside innocents ``[n,C]``, all in one scale."""
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


def _in_own_scale(scores: Float64Array, rest: Float64Array, copies: list[Copy]) -> list[float]:
    """As ``copies`` say of models with ``scores`` ``[k,C]``, but each beside what it varies by itself: p.

    Exact for normal scores of honest models that vary ``WIDTH`` times as much as the innocents ``[n,C]`` do.
    """
    count, twins = len(rest), rest.shape[1] - 1
    if twins < 2:
        return [copy.p for copy in copies]
    above, variance = beside_others(scores)
    spread = widened(variance, beside_others(rest)[1].mean(0), twins, WIDTH, WEIGHT)
    z = above / np.maximum(spread, 1e-12)
    return [
        chance(float(row[copy.candidate]), twins, count, WEIGHT) * (twins if copy.candidate else 1)
        for row, copy in zip(z, copies, strict=True)
    ]


__all__ = [
    "DEPENDENT",
    "Copy",
    "Kinship",
    "closeness",
    "copies_among_innocents",
    "dependent_candidates",
    "dependent_innocents",
    "kinship",
]
