"""What a list of suspects does to their p-values: q orders a screening, Holm is for naming one party.

Known copies of the victim are no suspects: they change nobody's number, and each is held against the list as
if it alone had been added. Rows of the same tensors count once where their p-values are equal; where these
differ (asked with other preprocessing, at another level or budget), each is a further try, and one of them at
most supports others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from uapfast.arrays import Float64Array

Tries = Sequence[tuple[float, object]]
TERMS = {
    "q_value": "orders the list: of the rows at or below a q at most that share is expected to be honest "
    "models, as far as p-values are right; it accuses no single party",
    "p_holm": "is what naming one party rests on: of lists of honest models alone at most that share has any "
    "row at or below it, as far as p-values are right and it is at or below the level. Corrected for are the "
    "tries that its store knows, and not other stores, what --no-resume forgot, or single verdicts",
}


@dataclass(frozen=True)
class Correction:
    """What the numbers of one reference's list are corrected for.

    Attributes:
        counted: p-values that count.
        known: rows that do not, being known copies of the victim.
        taken_off: of those counted, how many are of suspects that were asked before and are not on the list
            any more: whoever leaves it after it was seen makes nobody look worse.
        references: that anybody was held against, in the table or by earlier runs of its store; ``p_holm`` is
            corrected for their number as well.
        alpha: level of a conviction.
        tries: of those counted, how many come of another level, budget or version: the same suspects asked
            earlier, with another outcome.
    """

    counted: int
    known: int
    taken_off: int
    references: int
    alpha: float
    tries: int = 0

    @property
    def by_chance(self) -> float:
        """At most so many of ``counted`` honest models have p at or below ``alpha``, on average."""
        return self.alpha * self.counted

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    def says(self) -> str:
        """What the list alone would bring about, as one sentence."""
        many = "suspect counts" if self.counted == 1 else "suspects count"
        said = (
            f"{self.counted} {many}; were all of them honest, {self.by_chance:.2g} of them would be expected "
            f"at or below the level {self.alpha:g} at most"
        )
        if self.known:
            said += f"; known copies of the victim, which do not count: {self.known}"
        if self.taken_off:
            said += f"; asked and then taken off the list, which count still: {self.taken_off}"
        if self.tries:
            said += f"; asked before at another level, budget or version, which count as well: {self.tries}"
        return said


@dataclass(frozen=True)
class _Tests:
    """The p-values that count, sorted: all ``[N]``, and the smallest of each thing ``[T]``."""

    all: Float64Array
    first: Float64Array

    @classmethod
    def of(cls, pairs: set[tuple[object, float]], tries: set[tuple[object, float]]) -> _Tests:
        least: dict[object, float] = {}
        for what, p in pairs:
            least[what] = min(p, least.get(what, p))
        return cls(np.sort([p for _, p in pairs | tries]), np.sort(list(least.values())))

    def and_one(self, p: float) -> _Tests:
        """With one more thing."""
        return _Tests(np.sort([*self.all, p]), np.sort([*self.first, p]))


def _pairs(
    p_values: Sequence[float | None], same: Sequence[object] | None, known: Sequence[bool] | None
) -> set[tuple[object, float]]:
    """Thing and p-value of all that count; what nobody knows the content of is a thing of its own."""
    found: set[tuple[object, float]] = set()
    for i, p in enumerate(p_values):
        if p is not None and not (known and known[i]):
            what = None if same is None else same[i]
            found.add(((i,) if what is None else what, p))
    return found


def _tried(tries: Tries) -> set[tuple[object, float]]:
    """The same of earlier tries; those without content are things of their own."""
    return {(("try", i) if what is None else what, p) for i, (p, what) in enumerate(tries)}


def counted(
    p_values: Sequence[float | None],
    same: Sequence[object] | None = None,
    known: Sequence[bool] | None = None,
    tries: Tries = (),
) -> int:
    """How many p-values count; arguments as :func:`q_values`."""
    return len(_pairs(p_values, same, known) | _tried(tries))


def _step_up(p: Float64Array, tests: _Tests, alpha: float) -> Float64Array:
    """Benjamini-Hochberg q-values of ``p``, by things at or below ``alpha`` alone where p is."""
    count = len(tests.all)

    def among(p: Float64Array, first: Float64Array) -> Float64Array:
        """Smallest count * s / #{first <= s} over all s >= p."""
        ratio = count * first / np.arange(1, len(first) + 1)
        ahead = np.append(np.minimum.accumulate(ratio[::-1])[::-1], np.inf)
        own = count * p / np.maximum(1, np.searchsorted(first, p, "right"))
        found: Float64Array = np.minimum(np.minimum(own, ahead[np.searchsorted(first, p, "left")]), 1.0)
        return found

    low = tests.all[tests.all <= alpha]
    inside = tests.first[tests.first <= alpha]
    most = among(low, inside).max(initial=0.0)
    return np.where(p <= alpha, among(p, inside), np.maximum(among(p, tests.first), most))


def _step_down(p: Float64Array, tests: _Tests) -> Float64Array:
    """Holm's adjusted p-values: the largest (number of p-values >= s) * s over all s <= p."""
    adjusted = np.maximum.accumulate(np.arange(len(tests.all), 0, -1) * tests.all)
    found: Float64Array = np.minimum(1.0, adjusted[np.searchsorted(tests.all, p, "right") - 1])
    return found


def _each(
    p_values: Sequence[float | None],
    same: Sequence[object] | None,
    known: Sequence[bool] | None,
    tries: Tries,
    rule: Callable[[Float64Array, _Tests], Float64Array],
) -> list[float | None]:
    pairs = _pairs(p_values, same, known)
    tests = _Tests.of(pairs, _tried(tries))
    found: dict[tuple[bool, float], float] = {}
    suspects = np.unique([p for _, p in pairs])
    found |= {(False, p): q for p, q in zip(suspects.tolist(), rule(suspects, tests).tolist(), strict=True)}
    out: list[float | None] = []
    for i, p in enumerate(p_values):
        key = (bool(known and known[i]), 0.0 if p is None else float(p))
        if p is not None and key not in found:  # a known copy
            found[key] = float(rule(np.array([key[1]]), tests.and_one(key[1]))[0])
        out.append(None if p is None else found[key])
    return out


def q_values(
    p_values: Sequence[float | None],
    alpha: float,
    same: Sequence[object] | None = None,
    known: Sequence[bool] | None = None,
    tries: Tries = (),
) -> list[float | None]:
    """Benjamini-Hochberg q-value of each p-value; None stays None and does not count.

    All known p-values count, but only those at or below ``alpha`` can lower each other's q. The others are
    never convicted, and with early stopping they rest on fewer views; their q-values are at least those
    of the former. (The step-up procedure is confined to thresholds up to ``alpha``, which keeps the false
    discovery rate of whoever has p <= alpha and q <= fdr at fdr; Storey, Taylor and Siegmund, JRSS B 2004.)

    Args:
        p_values: of all rows.
        alpha: level.
        same: what each row is of, or None: equal p-values of one thing count once, so that copies of a file
            neither dilute the others nor support each other. Different ones all count, the smallest of them
            supports others.
        known: whether each is a known copy, which changes nobody's q.
        tries: p-value and content of earlier tries, which count, but support nobody: they stand in no table.
    """
    return _each(p_values, same, known, tries, lambda p, tests: _step_up(p, tests, alpha))


def holm(
    p_values: Sequence[float | None],
    same: Sequence[object] | None = None,
    known: Sequence[bool] | None = None,
    references: int = 1,
    tries: Tries = (),
) -> list[float | None]:
    """Holm's adjusted p-value of each p-value, times the number of references; None stays None.

    Of lists of honest suspects at most a share a has anybody at or below a (Holm, Scand. J. Statist. 1979),
    however they depend on each other. Holds for values up to the level of a conviction: larger ones may
    rest on fewer views. SciPy has no such procedure, and one is ten lines.

    Args:
        p_values: of all rows of one reference.
        same: as :func:`q_values`.
        known: as :func:`q_values`.
        references: that the same list was held against.
        tries: as :func:`q_values`.
    """
    found = _each(p_values, same, known, tries, _step_down)
    return [None if p is None else min(1.0, references * p) for p in found]


__all__ = ["TERMS", "Correction", "counted", "holm", "q_values"]
