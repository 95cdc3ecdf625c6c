"""What kind of copy a convicted suspect is: made from the victim's weights, or trained on its answers.

What sets the victim apart from its twins is a residual, point by point. A model that was made from the
weights keeps most of it, short of changes that make another model of it. A model that was trained on answers
learns it anew, from the images that the thief had, and keeps a smaller share. So the *share kept* is looked
at: the suspect's residual along the victim's, 1 for the victim itself, about 0 for models made without it. It
is a question of amount, and no line between the two kinds is never crossed: a wide zone between them is left
``unclear`` (docs/verdicts.md, section 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from uapfast.arrays import Float32Array, Float64Array
from uapfast.types import Relation

MODIFIED = 0.6  # share kept, less its margin, that no student of a twin came near; docs/verdicts.md
TRAINED = 0.4  # share kept, with its margin, that most models made from the weights exceed
LITTLE = "as models trained on answers do; weights that were retrained at length may, too"
TINY = 1e-9
LEVEL = 0.05  # one-sided, of the margin around the share kept, and of what students of one kind reach


@dataclass(frozen=True)
class RelationEstimate:
    """What is said of one suspect: the kind, the share that it keeps, and how far that may be off."""

    relation: Relation
    share: float | None
    margin: float | None
    why: str


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of the victim that models keep.

    Attributes:
        twins: ``[D]`` mean features of the twins.
        own: ``[D]`` what sets the victim apart from it.
        count: how many twins.
        margin: how far a share may be off for every length (in that of ``own``) of what a model has besides,
            from models that were made without the victim. A model that has nothing besides is known exactly.
        students: what students of the pool reach at most, with ``LEVEL`` of error; minus infinite without.
        by_labels: models are seen by labels: too little to tell students from weights trained anew.
    """

    twins: Float64Array
    own: Float64Array
    count: int
    margin: float
    students: float
    by_labels: bool = False

    @classmethod
    def of(
        cls,
        candidates: Sequence[Float32Array],
        innocents: Sequence[Float32Array],
        students: Sequence[Sequence[Float32Array]],
        place: int = 0,
        by_labels: bool = False,
    ) -> Shares | None:
        """From features of the pool, each of any shape, all of one.

        Args:
            candidates: the victim and its twins, seen as the suspect is.
            innocents: models that were made without any of them.
            students: kind by kind, one of each candidate in the order of ``candidates``.
            place: the candidate that plays the victim.
            by_labels: whether all of these are seen by labels.

        Returns:
            None where nothing can be told: fewer than two twins, no innocents, or a victim that answers as
            its twins' mean does.
        """
        rows = _rows(candidates)
        if len(rows) < 3 or not len(innocents):
            return None
        twins, own = _apart(rows, place)
        if not float(own @ own) > 0.0:
            return None
        count = len(rows) - 1
        bare = cls(twins, own, count, 0.0, -np.inf)
        off = np.array([bare.share(one) / max(bare.besides(one), TINY) for one in innocents])
        margin = float(stats.norm.isf(LEVEL) * np.sqrt(np.mean(np.square(off))))
        found = [
            _reached([_kept(one, *_apart(rows, c), count) for c, one in enumerate(kind)]) for kind in students
        ]
        return cls(twins, own, count, margin, max(found, default=-np.inf), by_labels)

    def share(self, suspect: Float32Array) -> float:
        """What a model keeps of what sets the victim apart; finite."""
        return _kept(suspect, self.twins, self.own, self.count)

    def besides(self, suspect: Float32Array) -> float:
        """Length of what it has besides the victim's own, in that of the latter."""
        row = np.asarray(suspect, dtype=np.float64).ravel() - self.twins
        square = float(self.own @ self.own)
        return float(np.linalg.norm(row - float(row @ self.own) / square * self.own) / np.sqrt(square))

    def tell(self, suspect: Float32Array) -> RelationEstimate:
        """The kind of a copy, seen as the pool's candidates were. Only a conviction makes it one."""
        share, margin = self.share(suspect), self.margin * self.besides(suspect)
        least, most = share - margin, share + margin
        shown = f"it keeps {share:.0%} (+- {margin:.0%}) of what sets the victim apart from its twins"
        if least >= MODIFIED and share > self.students:
            return RelationEstimate(
                "modification", share, margin, f"{shown}: more than training on answers leaves"
            )
        if most <= TRAINED and not self.by_labels:
            return RelationEstimate("extraction", share, margin, f"{shown}: {LITTLE}")
        return RelationEstimate("unclear", share, margin, f"{shown}: both kinds of copies may do so")


def _rows(features: Sequence[Float32Array]) -> Float64Array:
    return np.stack([np.asarray(one, dtype=np.float64).ravel() for one in features])


def _apart(candidates: Float64Array, place: int) -> tuple[Float64Array, Float64Array]:
    """Mean of the other candidates ``[D]``, and what sets this one apart from it."""
    mean = np.delete(candidates, place, axis=0).mean(0)
    return mean, candidates[place] - mean


def _kept(suspect: Float32Array, twins: Float64Array, own: Float64Array, count: int) -> float:
    """The share, without what the twins' mean has of its own.

    Both residuals are taken from that mean, so that any model has 1/(twins + 1) of the victim's on average:
    the victim and its twins are draws of one law.
    """
    row, square = np.asarray(suspect, dtype=np.float64).ravel(), float(own @ own)
    along = float((row - twins) @ own) / square if square > 0 else 0.0
    return ((count + 1) * along - 1.0) / count


def _reached(shares: Sequence[float]) -> float:
    """What a further student of one kind reaches at most (Student t prediction); infinite from one alone."""
    count = len(shares)
    if count < 2:
        return float("inf")
    spread = float(np.std(shares, ddof=1)) * np.sqrt(1.0 + 1.0 / count)
    return float(np.mean(shares) + stats.t.isf(LEVEL, count - 1) * spread)


__all__ = ["LEVEL", "MODIFIED", "TRAINED", "RelationEstimate", "Shares"]
