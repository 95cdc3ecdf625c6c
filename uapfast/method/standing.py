"""How a suspect stands with every candidate, and what follows for the one that plays the victim.

Scores treat all candidates alike, so that any of them can take the victim's place: a pool of m twins
gives m + 1 victims on which the stated level can be checked (docs/verdicts.md).
"""

from __future__ import annotations

import numpy as np

from uapfast.arrays import Float64Array
from uapfast.method.decision import Assessment
from uapfast.method.spread import standings


def typical_spread(scores: Float64Array, place: int = 0) -> float:
    """Root mean square, over models ``[n,C]``, of the spread of their scores with the other candidates.

    Args:
        scores: of innocents.
        place: column of the candidate that plays the victim.
    """
    return float(np.sqrt(np.delete(scores, place, axis=1).var(axis=1, ddof=1).mean()))


def statistics(scores: Float64Array) -> Float64Array:
    """The suspect side's statistic of each of ``[n,C]`` models: z of the victim's score beside its twins'.

    The spread of a model's twin scores is moderated with that of all the others, so that every model is
    treated alike.
    """
    out: Float64Array = standings(scores)[:, 0]
    return out


def assessment(own: Float64Array, rest: Float64Array, *, twins: bool = True, place: int = 0) -> Assessment:
    """What scores say of a suspect when one candidate plays the victim.

    Args:
        own: ``[V,C]`` cosines of the suspect with each candidate.
        rest: ``[n,V,C]`` the same for the innocents, each scored as the suspect is.
        twins: whether the candidates' spread can be used.
        place: the candidate that plays the victim; the others are its twins.
    """
    if place:
        order = np.r_[place, np.delete(np.arange(own.shape[1]), place)]
        own, rest = own[:, order], rest[:, :, order]
    if not twins:
        statistic = float(own[:, 0].mean())
        return Assessment(statistic, own[:, 0], rest[:, :, 0], None, statistic, rest[:, :, 0].mean(1))
    scores, rows = own.mean(0), rest.mean(1)
    everybody = standings(np.vstack([rows, scores]))
    return Assessment(
        float(scores[0]),
        own[:, 0],
        rest[:, :, 0],
        scores,
        float(everybody[-1, 0]),
        everybody[:-1, 0],
        typical_spread(rows),
        np.r_[everybody[:-1].ravel(), everybody[-1, 1:]],
    )
