"""What thousands of rows say together: whether the pool represents this population, and final decisions.

The empirical null (Efron, JASA 2004) asks the screened population itself: most suspects are
innocent, so the middle of their ``z_pool`` shows where innocents lie and how widely. If the pool's
innocents represent them, that middle is 0 and the width 1 up to the pool's own sampling error.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

from uapfast.arrays import Float64Array
from uapfast.screening.table.rows import DECLARED, Row
from uapfast.types import HOW_MADE

LEAST = 300  # suspects from which on the population is asked
FALSE_ALARM = 0.01  # of the warning, if pool and population are one normal population without thieves
DRAWS = 20_000
NO_SUSPECT = (
    "the list declares it a copy of the victim: it is no suspect, and counts for nobody's q or p_holm"
)
MAD = 1.4826  # median absolute deviation of a normal sample to its standard deviation


@dataclass(frozen=True)
class Population:
    """How one reference's population compares with its pool.

    Attributes:
        suspects: rows with a ``z_pool``.
        innocents: n of the pool.
        location: median of ``z_pool``; None below ``LEAST`` suspects, as the next four.
        scale: 1.4826 times its median absolute deviation.
        location_limit: the largest distance of the location from 0 that is expected.
        scale_limits: smallest and largest such scale.
        differs: whether location or scale lies outside.
    """

    suspects: int
    innocents: int
    location: float | None = None
    scale: float | None = None
    location_limit: float | None = None
    scale_limits: tuple[float, float] | None = None
    differs: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    def says(self) -> str | None:
        """The warning as one sentence; None if there is nothing to warn of."""
        if not self.differs:
            return None
        assert self.scale_limits is not None and self.location is not None and self.scale is not None
        assert self.location_limit is not None
        low, high = self.scale_limits
        return (
            f"the pool does not represent this population: in standard deviations of the pool's "
            f"{self.innocents} innocents, the middle of {self.suspects} suspects lies at {self.location:.2f} "
            f"(expected within {self.location_limit:.2f} of 0), their width is {self.scale:.2f} "
            f"(expected {low:.2f} to {high:.2f})"
        )


@cache
def limits(innocents: int, suspects: int) -> tuple[float, tuple[float, float]]:
    """What location and scale of a population stay within if it is the pool's own, both normal.

    Each is outside with probability ``FALSE_ALARM / 2``. By simulation with a fixed seed: mean and
    standard deviation of ``innocents`` draws, by which the median and the MAD of ``suspects`` further draws
    (their large-sample normal laws) are expressed.
    """
    rng = np.random.default_rng(0)
    n, many = innocents, suspects
    mean = rng.standard_normal(DRAWS) / np.sqrt(n)
    spread = np.sqrt(rng.chisquare(n - 1, DRAWS) / (n - 1) * (1 + 1 / n))
    median = rng.standard_normal(DRAWS) * np.sqrt(np.pi / 2 / many)
    width = 1 + rng.standard_normal(DRAWS) * np.sqrt(1.36 / many)  # asymptotic variance of 1.4826 MAD
    location, scale = np.abs(median - mean) / spread, width / spread
    side = FALSE_ALARM / 4
    low, high = np.quantile(scale, [side, 1 - side])
    return float(np.quantile(location, 1 - FALSE_ALARM / 2)), (float(low), float(high))


def compare_with_pool(z_pool: Float64Array, innocents: int) -> Population:
    """Compare the suspects' ``z_pool`` with what the pool of ``innocents`` models predicts."""
    count = len(z_pool)
    if count < LEAST or innocents < 3:
        return Population(count, innocents)
    location = float(np.median(z_pool))
    scale = float(MAD * np.median(np.abs(z_pool - location)))
    limit, widths = limits(innocents, count)
    differs = abs(location) > limit or not widths[0] <= scale <= widths[1]
    return Population(count, innocents, location, scale, limit, widths, differs)


def finished(row: Row, q: float | None, holm: float | None, population: Population, fdr: float) -> Row:
    """A row with what all rows together say: q-value, Holm's, population columns, and the final decision.

    A conviction needs ``q <= fdr`` besides: ``alpha`` bounds the error of one suspect, and among thousands
    some innocent passes it.
    """
    decision, reasons = row.decision, row.reasons
    if row.known_copy == DECLARED:
        reasons = (NO_SUSPECT, *reasons)
    if decision == "piracy" and (q is None or q > fdr):
        decision, why = "inconclusive", "no q-value: the row has no p-value to hold against the others'"
        if q is not None:
            why = f"q {q:.3g} > {fdr:g}: among so many suspects some honest model looks like this"
        reasons = (why, *(r for r in reasons if not r.startswith(HOW_MADE)))
    elif decision == "piracy" and holm is not None:
        reasons = (
            *reasons,
            f"to name one party of this list, cite {holm:.3g} (p_holm; it knows no tries in other stores); "
            f"q {q:.3g} ranks the list",
        )
    z = p = None
    if population.location is not None and population.scale and row.z_pool is not None:
        z = (row.z_pool - population.location) / population.scale
        p = float(stats.norm.sf(z))
    if decision == "piracy" and population.differs:
        reasons = (*reasons, str(population.says()))
    return replace(
        row, decision=decision, reasons=reasons, q_value=q, p_holm=holm,
        relation=row.relation if decision == "piracy" else None, z_population=z, p_population=p,
        population_differs=population.differs,
    )  # fmt: skip


__all__ = ["FALSE_ALARM", "LEAST", "Population", "compare_with_pool", "finished", "limits"]
