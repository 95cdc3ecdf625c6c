"""From a reference, verdicts and a few models at hand to a report's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from uapfast.errors import InputError
from uapfast.examination.calibration import reference_summary as summary_of
from uapfast.examination.calibration import threshold_z
from uapfast.models.model import Model
from uapfast.reference import Reference
from uapfast.report.data import Answer, Picture, Report, StripItem, SuspectRow

MOST_POINTS = 1000  # that are looked through for the strip


def _picture(x: Tensor) -> Picture:
    out: Picture = x.detach().to("cpu", torch.float32).numpy()
    return out


def strip(reference: Reference, models: Mapping[str, Model], count: int = 6) -> tuple[StripItem, ...]:
    """Queries at which the first model's answer changes most under its UAP, and what all models say.

    Args:
        reference: gives points and the victim's UAP.
        models: name to model; the victim first.
        count: most items.

    Returns:
        Up to ``count`` items, no two of the same clean answer while others are left.
    """
    if not models:
        return ()
    x = reference.plan.x(slice(0, MOST_POINTS))
    moved = (x + reference.uaps[0]).clamp(0.0, 1.0)
    first = next(iter(models.values()))
    clean, after = (first.answers(q, reference.classes).probabilities() for q in (x, moved))
    label = clean.argmax(1)
    drop = (clean.gather(1, label[:, None]) - after.gather(1, label[:, None])).squeeze(1)
    order = torch.argsort(drop, descending=True, stable=True).tolist()
    best = {int(label[i]): i for i in reversed(order)}  # of each class the query that moved most
    fresh = sorted(best.values(), key=order.index)
    chosen = (fresh + [i for i in order if i not in best.values()])[:count]
    answers = {
        name: [model.answers(q[chosen], reference.classes).probabilities() for q in (x, moved)]
        for name, model in models.items()
    }
    return tuple(
        StripItem(
            _picture(x[i]),
            _picture(moved[i]),
            tuple(_answer(name, before[row], later[row]) for name, (before, later) in answers.items()),
        )
        for row, i in enumerate(chosen)
    )


def _answer(who: str, clean: Tensor, moved: Tensor) -> Answer:
    a, b = int(clean.argmax()), int(moved.argmax())
    return Answer(who, str(a), float(clean[a]), str(b), float(moved[b]))


def collect(
    reference: Reference,
    rows: Sequence[SuspectRow],
    *,
    title: str,
    models: Mapping[str, Model] | None = None,
    facts: Mapping[str, str] | None = None,
) -> Report:
    """The report of many suspects against one reference.

    Args:
        reference: what they were verified against.
        rows: the suspects with their verdicts.
        title: heading.
        models: for the strip: name to model, the victim first.
        facts: further statements for the page, name to text.
    """
    if not len(reference.uaps):
        raise InputError("report", "reference", "one made with show_uap=True, whose UAP can be shown", "none")
    config = reference.settings["config"]
    uap = reference.settings["uap"][0]
    alpha = rows[0].verdict.alpha if rows else 1e-3
    summary = summary_of(reference)
    pool = summary["pool"]
    ray = ", ".join(f"{t:g}" for t in summary["ray"])
    told = {
        "fooling rate": f"{float(np.mean(uap['fooling_rate'])):.2f} on held-out images",
        "random signs": f"{float(np.mean(uap['random_sign_rate'])):.2f}, same norm",
        "made by": f"{uap['method']}, {uap['forwards']} forward and {uap['backwards']} backward passes",
        "queries": f"{summary['queries']}: {summary['views']} views of {summary['points_per_view']} points",
        "each asked at": f"x + t v, t = {ray}" + (" (v is not used)" if summary["ray"] == [0.0] else ""),
        "pool": f"{pool['twin']} twins, {pool['homologous']} innocents, {pool['piracy']} surrogates",
        **(facts or {}),
    }
    hashes = {"reference": reference.sha256, "victim": str(reference.settings.get("victim_sha256"))}
    return Report(
        title=title,
        rows=tuple(rows),
        v=_picture(reference.uaps[0]),
        eps=float(config["eps"]),
        norm=str(config["norm"]),
        scale=1.0,
        strip=strip(reference, models or {}),
        calibration=vars(reference.statistic.pool_scores()),
        threshold=threshold_z(reference, alpha),
        alpha=alpha,
        facts=told,
        settings=summary,
        hashes=hashes,
    )
