"""What a pool costs before it is trained, and what one of its size bought where that was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from uapfast.config import check
from uapfast.method import spread
from uapfast.method.decision import BEYOND
from uapfast.pool.plan import PREFERRED, PoolConfig, TrainingJob, make_plan
from uapfast.pool.twins import TwinKind

ALPHAS = (0.01, 0.001, 0.0001)
TABLE = "power.json"  # python -m benchmarks.power makes it of the committed tables
ASSUMES = (
    "a training of every network costs what one of the victim costs, on a share of the images as much less; "
    "where the other architectures are small, a pool costs less",
    "thresholds are for scores of innocents with mean 0 and spread 1; uapfast info has those of a reference",
    "surrogates may be left out (--surrogates 0; docs/notebook.md): the table has 2 of each candidate",
    "convicted, modified: the share of copies of all kinds, and of direct modifications, that are convicted "
    "at 0.001 in the named world with this many twins and homologous models; other tasks differ",
)


def forecast(
    twins: Sequence[int],
    homologous: int,
    *,
    surrogates: int = 2,
    branch_at: float | None = None,
    victim_hours: float | None = None,
) -> dict[str, Any]:
    """Cost and worth of pools with so many twins each.

    Args:
        twins: numbers of twins, each >= 0.
        homologous: honestly trained models, n.
        surrogates: of each candidate.
        branch_at: share of the victim's training before the checkpoint that branch twins begin at, in (0, 1);
            None for full twins.
        victim_hours: hours of one training of the victim, > 0; None leaves hours out.

    Returns:
        JSON types: ``assumes`` (sentences) and ``pools``, one a number of twins: ``trainings`` in units of
        the victim's (twins, homologous, surrogates, total), ``hours`` of the total or None, ``floors`` (no
        p-value below them is free of assumptions), ``thresholds`` (z at each level; None where no z
        convicts), and ``measured``: rows of the table for a pool of this size, none where nobody measured.

    Raises:
        InputError: a number out of range.
    """
    check(branch_at is None or 0 < branch_at < 1, "plan", "branch_at", "above 0 and below 1", branch_at)
    good = victim_hours is None or (math.isfinite(victim_hours) and victim_hours > 0)
    check(good, "plan", "victim_hours", "a finite number > 0", victim_hours)
    kind: TwinKind = "full" if branch_at is None else "branch"
    pools = []
    for count in twins:
        config = PoolConfig(count, surrogates, homologous)
        cost = {"twin": 0.0, "homologous": 0.0, "piracy": 0.0}
        for job in make_plan("victim", config, PREFERRED, False, twins=kind):
            cost[job.relation] += _cost(job, config, branch_at)
        total = sum(cost.values())
        pools.append(
            {
                "twins": count,
                "kind": kind,
                "homologous": homologous,
                "trainings": {
                    "twins": round(cost["twin"], 2),
                    "homologous": round(cost["homologous"], 2),
                    "surrogates": round(cost["piracy"], 2),
                    "total": round(total, 2),
                },
                "hours": None if victim_hours is None else round(total * victim_hours, 2),
                "floors": {
                    "candidate": 1 / (count + 1),
                    "suspect": 1 / (homologous + 1),
                    "joint": _joint(count, homologous) if count else None,
                },
                "thresholds": {f"{alpha:g}": threshold(count, homologous, alpha) for alpha in ALPHAS},
                "measured": [] if kind == "branch" else measured_power(count, homologous, surrogates),
            }
        )
    return {"assumes": list(ASSUMES), "pools": pools}


def _cost(job: TrainingJob, config: PoolConfig, branch_at: float | None) -> float:
    """Trainings of the victim that a job takes."""
    if job.how == "branch":
        return 1.0 - (branch_at or 0.0)
    return job.share * (1.0 if job.owners_recipe else job.epochs / config.epochs)


def threshold(twins: int, innocents: int, alpha: float) -> float | None:
    """The z above which a suspect is convicted, for innocents whose statistic has mean 0 and spread 1.

    None where there is no such z: without two twins only the rank among very many innocents convicts, and a
    small pool convicts nobody at a fine level (:mod:`uapfast.method.decision`).
    """
    if twins < 2 or innocents < 2 or _joint(twins, innocents) / BEYOND > alpha:
        return None
    return spread.height(alpha, twins, innocents) * math.sqrt(1 + 1 / innocents)


def _joint(twins: int, innocents: int) -> float:
    """The floor of the joint rank."""
    return 1 / ((twins + 1) * (innocents + 1))


def measured_power(twins: int, homologous: int, surrogates: int) -> list[dict[str, Any]]:
    """Rows of the shipped table for pools of exactly this size."""
    table = json.loads(files("uapfast.pool").joinpath(TABLE).read_text(encoding="utf-8"))
    size = (twins, homologous, surrogates)
    return [row for row in table["rows"] if (row["twins"], row["homologous"], row["surrogates"]) == size]
