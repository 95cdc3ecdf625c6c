"""A suspect that is asked as it is: a hub folder, an ONNX file, an endpoint."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

from uapfast.examination.asking import as_suspect, examine
from uapfast.models.model import Model
from uapfast.screening.asking.judge import Case, Judged
from uapfast.screening.asking.panel import Panel, Settings
from uapfast.screening.asking.records import recording
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.base import Suspect
from uapfast.suspects.networks.watch import Watch
from uapfast.suspects.resolve import ENDPOINT, ONNX, open_suspect
from uapfast.suspects.subject import subject_of


def judge_direct(panel: Panel, entry: Entry, watch: Watch) -> Judged:
    """Open the suspect, ask, and decide for every reference, as ``verify`` does.

    Args:
        panel: references and settings.
        entry: whose ``is_direct``.
        watch: of the time limit; an endpoint has limits of its own (:class:`uapfast.suspects.http.Conduct`).

    Raises:
        UapfastError: it cannot be opened or asked.
    """
    start = time.perf_counter()
    limits = watch.waiting() if entry.kind == ENDPOINT else contextlib.nullcontext()
    with limits, contextlib.ExitStack() as stack:
        opened = _open(entry, panel.settings)
        if isinstance(opened, Suspect):
            stack.enter_context(opened)
        read = time.perf_counter() - start
        rows = []
        for asked in panel.asked:
            if entry.kind != ENDPOINT:  # the time limit is for each reference
                watch.begin()
            start = time.perf_counter()
            how = panel.settings
            alpha, order = how.alpha, entry.class_order
            given = entry.output, how.device, how.batch_size, order
            suspect = as_suspect(asked.reference, opened, *given)
            subject = None if how.record is None else subject_of(opened, entry.path)
            with recording(how.record, entry, subject, asked) as record:
                examination = examine(asked.design, suspect, alpha=alpha, order=order, record=record)
            spent = {"seconds_read": read, "seconds_forward": time.perf_counter() - start}
            fields: dict[str, Any] = {"arch": getattr(opened, "arch", None) or ""}
            rows.append(Case(asked, entry, examination).row(panel, opened.sha256, **fields, **spent))
    lost = any(row.decision == "unavailable" for row in rows)
    return Judged(rows, retry=lost)


def _open(entry: Entry, settings: Settings) -> Model | Suspect:
    given: dict[str, Any] = {"mean": entry.mean, "std": entry.std, "channel_order": entry.channel_order}
    given |= {"key": entry.key, "output": entry.output, "kind": entry.kind}
    if entry.kind == ENDPOINT:
        given |= {"secrets": (), **dict(settings.conduct)}
    if entry.kind == ONNX and math.isfinite(settings.timeout):
        given["timeout"] = settings.timeout
    return open_suspect(entry.path, device=settings.device, **given)


__all__ = ["judge_direct"]
