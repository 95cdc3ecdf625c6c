"""``verify`` with answers that were recorded elsewhere, all of them or a part."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.config import ALPHA
from uapfast.errors import InputError
from uapfast.examination.classes import checked_order
from uapfast.method.decision import Assessment
from uapfast.models.answers import other_count
from uapfast.models.labels import some
from uapfast.reference import Reference, as_reference
from uapfast.suspects.record_writer import Recorder
from uapfast.suspects.recorded import open_recorded
from uapfast.types import Verdict
from uapfast.verbs.queries import QueryIds, numbered
from uapfast.verbs.verify import verify

Rows = list[NDArray[np.int64]]
UNNAMED = (
    1024  # classes of a suspect that has an order of its own and names none; of a larger one names say it
)


def verify_recorded(
    reference: Reference | str | os.PathLike[str],
    answers: str | os.PathLike[str],
    *,
    alpha: float = ALPHA,
    output: str = "auto",
    class_order: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    record: Recorder | None = None,
    seen: Callable[[Assessment], None] | None = None,
) -> Verdict:
    """Decide from a file of answers to the queries that :func:`uapfast.verbs.queries.write_queries` wrote.

    A part of the queries is a part of the examination. Each view counts with the points that were answered
    in all blocks, and all views count with equally many of them. The pool is compared on the same points. A
    note says how many.

    Args:
        reference: a reference, or its file.
        answers: see :func:`uapfast.suspects.recorded.open_recorded`.
        alpha: as :func:`uapfast.verify`.
        output: what the file's answers are, or ``auto``.
        class_order: as :func:`uapfast.verify`.
        class_names: names of the suspect's classes, in order. If it knows more classes than the reference,
            ``class_order`` must say which of them are the reference's.
        record: keeps every answer.
        seen: as :func:`uapfast.verify`.

    Raises:
        InputError: the file cannot be used, or answers less than one view's worth of queries. Or there are
            fewer class names than classes, more names without a class order, or a class order beyond them.
    """
    reference = as_reference(reference, "verify")
    classes = _suspects_classes(reference.classes, class_order, class_names)
    made = numbered(reference)
    suspect = open_recorded(answers, made.known, classes=classes, class_names=class_names, output=output)
    part, notes = answered_part(reference, made, suspect.answered)
    suspect.notes = (*suspect.notes, *notes)
    if record is not None and part is not reference:
        record.answered = suspect.answered.tolist()
    return verify(part, suspect, alpha=alpha, class_order=class_order, record=record, seen=seen)


def _suspects_classes(ours: int, order: Sequence[int] | None, names: Sequence[str] | None) -> int:
    """How many classes the suspect has, at most."""
    beyond = ours if order is None else max(checked_order(order, ours).tolist()) + 1
    if names is None:
        return ours if order is None else max(UNNAMED, beyond)
    if len(names) < ours or (order is None and len(names) > ours):
        rule = f"{ours}, one per class of the reference ({other_count(len(names), ours)})"
        raise InputError("verify", "class names", rule, len(names))
    if beyond > len(names):
        rule = f"classes that the suspect has a name for, 0..{len(names) - 1}"
        raise InputError("verify", "class order", rule, beyond - 1)
    return len(names)


def answered_part(
    reference: Reference, made: QueryIds, answered: NDArray[np.int64]
) -> tuple[Reference, list[str]]:
    """The part of a reference that was answered, and what is said of it.

    Args:
        reference: whole.
        made: its ids.
        answered: ids that were answered, sorted.

    Raises:
        InputError: less than one view's worth; some of the missing ids are named.
    """
    notes: list[str] = []
    if not np.isin(made.probe_ids, answered).all():
        reference = _replaced(reference, probes=None, probe_labels=None)
    whole = np.asarray(np.isin(made.ids, answered).all(1))  # [V,n]
    if whole.all():
        return reference, notes
    missing = np.unique(made.ids[~np.isin(made.ids, answered)])
    rows = _rows(whole, cut=reference.statistic.partial)
    said = f"{len(missing)} of {len(np.unique(made.ids))} queries are not answered"
    least = whole.shape[1]
    if sum(map(len, rows)) < least:
        rule = f"given for one view's worth of queries, {least} points x {made.ids.shape[1]}"
        if not reference.statistic.partial:
            rule = f"given for every query of at least one view (encoder={reference.encoder})"
        raise InputError("verify", "answers", rule, f"{said} ({some(missing)})")
    views = [v for v, found in enumerate(rows) if len(found)]
    each = len(rows[views[0]])
    notes.append(f"{said}: judged by {len(views)} of {len(rows)} views with {each} of {least} points each")
    return _cut(reference, views, [rows[v] for v in views]), notes


def _rows(whole: NDArray[np.bool_], *, cut: bool) -> Rows:
    """The points of each view that are used: equally many, or none; as many as can be had in all.

    Args:
        whole: ``[V,n]``: whether a point is answered.
        cut: whether a view may be used in part.
    """
    counts = whole.sum(1)
    sizes = np.arange(1 if cut else whole.shape[1], whole.shape[1] + 1)
    totals = sizes * (counts[None] >= sizes[:, None]).sum(1)
    size = int(sizes[len(sizes) - 1 - np.argmax(totals[::-1])])  # of equals the largest: whole views
    return [
        np.flatnonzero(row)[: size if count >= size else 0] for row, count in zip(whole, counts, strict=True)
    ]


def _cut(reference: Reference, views: list[int], rows: Rows) -> Reference:
    """The reference as it would be with these views and points alone."""
    plan = reference.plan
    index = [torch.from_numpy(found) for found in rows]

    def cut(tensor: Tensor, view: int, point: int) -> Tensor:
        """``tensor`` with fewer views (dimension ``view``) and points (``point``, after it)."""
        parts = [tensor.select(view, v).index_select(point - 1, i) for v, i in zip(views, index, strict=True)]
        return torch.stack(parts, view)

    points = plan.points.view(plan.views, plan.per_view, *plan.points.shape[1:])
    assign = plan.assign.view(plan.blocks, plan.views, plan.per_view)
    smaller = replace(
        plan, points=cut(points, 0, 1).flatten(0, 1), assign=cut(assign, 1, 2).flatten(1, 2), views=len(views)
    )
    settings = dict(reference.settings)
    if log := settings.get("log"):  # views of the log stand first; which are left is another number
        left = sum(v < log["views"] for v in views)
        asked = sum(len(found) for v, found in zip(views, rows, strict=True) if v < log["views"])
        settings["log"] = log | {"views": left, "asked": asked}
    return _replaced(
        reference,
        settings=settings,
        plan=smaller,
        answers=cut(reference.answers, 1, 3),
        labels=cut(reference.labels, 1, 3),
        keep=None if reference.keep is None else cut(reference.keep, 0, 2),
    )


def _replaced(reference: Reference, **changed: object) -> Reference:
    """A part of a reference: what is worked out is worked out anew, and it is still that reference."""
    cache = {"sha256": reference.sha256}
    return replace(reference, **changed, _cache=cache, _lock=threading.RLock())  # type: ignore[arg-type]


__all__ = ["answered_part", "verify_recorded"]
