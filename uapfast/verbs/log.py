"""The owner's query log: images that a suspect's account asked the victim, as query points.

A copy shows most where it learnt: on the images whose answers it was trained on. They are asked in views of
their own, before the owner's. Only a *blind* log is asked, one that the victim's answers had no say in: then
the account's images, and whatever honest model was trained on them, were made without the victim, and for
such a model victim and twins are as exchangeable as ever (docs/verdicts.md, section 9).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.config import CHOICE, GenerateConfig, check
from uapfast.data import Images
from uapfast.errors import DataError
from uapfast.images import floats
from uapfast.method.fingerprint import to_grid
from uapfast.method.statistic import STATISTICS
from uapfast.suspects.recorded import content
from uapfast.verbs.findings import Findings

SHARE = 0.5  # of the views, at most; docs/method.md
PER_POINT = 3  # images looked at for every query point wanted
LEAST_TWINS = 2  # fewer have no spread, and there is no candidate side
NOT_BLIND = {
    None: "nobody said whether its images were chosen by what the victim answered (--log-blind)",
    False: "its images were chosen by what the victim answered, which makes the victim special on them "
    "whoever is asked",
}
ALONE = "without two twins nothing protects a customer who trained on the same images with his own labels"


@dataclass(frozen=True)
class QueryLog:
    """A log that was checked.

    Attributes:
        images: those that points are chosen from, distinct and none of them the owner's; none where the log
            is not asked.
        views: how many of the reference's views they fill, the first ones.
        told: for the settings, JSON types; None if there is no log.
    """

    images: Images
    views: int
    told: dict[str, Any] | None

    def own(self, config: GenerateConfig) -> GenerateConfig:
        """The settings of the views that are left for the owner's images."""
        return replace(config, views=config.views - self.views)

    def before(self, points: Tensor, rows: NDArray[np.int64], wire_safe: bool) -> Tensor:
        """Query points ``[Q,C,H,W]``: images ``rows`` ``[V,n]`` of the log, then the owner's."""
        chosen = self.images.kept(torch.from_numpy(rows.reshape(-1)))
        if chosen.dtype != points.dtype:
            chosen, points = floats(chosen), floats(points)
        if wire_safe and chosen.dtype != torch.uint8:
            chosen = to_grid(chosen)
        return torch.cat([chosen, points])


def read_log(
    images: Images | None,
    blind: bool | None,
    own: Images,
    config: GenerateConfig,
    twins: int,
    findings: Findings,
) -> QueryLog:
    """Check a log, and decide whether it is asked.

    Args:
        images: of the log, ``[N,C,H,W]`` in 0..1; None if there is none.
        blind: whether the owner states that the victim's answers had no say in which images these are;
            None if he cannot tell, which is taken for no.
        own: the owner's images that points are chosen from.
        config: settled.
        twins: of the pool.
        findings: is warned of a log that is not asked.

    Raises:
        InputError: an encoder other than lineage; ``blind`` is no bool, or given without a log.
        DataError: images of another shape, or too few of them.
    """
    if images is None:
        check(blind is None, "generate", "log_blind", "None where there is no log", blind)
        return QueryLog(own.subset(slice(0)), 0, None)
    check(blind in (True, False, None), "generate", "log_blind", "True, False or None", repr(blind))
    check(STATISTICS[config.encoder].by_twins, "generate", "encoder", "lineage with a log", config.encoder)
    if images.shape[1:] != own.shape[1:]:
        rule = f"of the owner's images' shape {list(own.shape[1:])}, as the victim saw them"
        raise DataError("generate", "log", rule, list(images.shape[1:]))
    rows, told = _distinct(images, own)
    told |= {"blind": blind, "asked": 0, "views": 0}
    why = ALONE if blind and twins < LEAST_TWINS else None if blind else NOT_BLIND[blind]
    if why is not None:
        findings.warn(
            f"the {len(images)} images of the query log are not used; the owner's own decide alone: {why}"
        )
        return QueryLog(images.subset(rows[:0]), 0, told)
    assert config.points is not None
    views = min(int(SHARE * config.views), max(int(len(rows) / CHOICE) // config.points, 1))
    if views < 1 or len(rows) < config.points:
        rule = f"of at least {config.points} different images that are not the owner's, for one of 2 views"
        got = f"{len(rows)} (of {len(images)}), {config.views} views; lower points"
        raise DataError("generate", "log", rule, got)
    told |= {"asked": views * config.points, "views": views}
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
    looked_at = drawn[: PER_POINT * views * config.points].sort().values
    return QueryLog(images.subset(rows[looked_at]), views, told)


def choose_logged(select: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
    """What ``select`` chooses among logged images; its error names the log."""
    try:
        return select()
    except DataError as exc:
        raise DataError("generate", "log", exc.rule, exc.got) from exc


def _distinct(images: Images, own: Images) -> tuple[Tensor, dict[str, Any]]:
    """Rows of images that stand there for the first time and are none of the owner's, and what was found."""
    known = {content(x) for chunk in own.chunks() for x in chunk}
    seen: set[bytes] = set()
    rows, owners, whole = [], 0, hashlib.sha256()
    for row, key in enumerate(content(x) for chunk in images.chunks() for x in chunk):
        whole.update(key)
        owners += key in known
        if key not in known and key not in seen:
            rows.append(row)
            seen.add(key)
    told = {"images": len(images), "distinct": len(rows), "owners": owners, "sha256": whole.hexdigest()}
    return torch.tensor(rows, dtype=torch.int64), told


__all__ = ["QueryLog", "choose_logged", "read_log"]
