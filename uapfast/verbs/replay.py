"""``verify`` from a record alone: the same examination over again, on the answers as they came."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from uapfast.errors import RecordError
from uapfast.examination import Design
from uapfast.examination.asking import examine
from uapfast.examination.levels import moved_remark
from uapfast.examination.reading_replay import check_told
from uapfast.method.decision import Assessment
from uapfast.method.sequential import Looks
from uapfast.reference import Reference, as_reference
from uapfast.suspects.record_reader import Recording, read_record
from uapfast.suspects.record_replay import RecordReplay
from uapfast.types import Verdict
from uapfast.verbs.queries import numbered
from uapfast.verbs.recorded import answered_part


class Replayed(NamedTuple):
    """What came of a record.

    Attributes:
        verdict: the same that was given then.
        recording: what it rests on.
    """

    verdict: Verdict
    recording: Recording


def verify_record(
    reference: Reference | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    alpha: float | None = None,
    seen: Callable[[Assessment], None] | None = None,
) -> Replayed:
    """Decide from a record that ``verify`` or ``screen`` wrote.

    Args:
        reference: the reference that the record belongs to, or its file.
        path: path of the record.
        alpha: significance level of each side; None takes that of the record. If an early look let the
            suspect go at one level, another level may need answers that the record does not have.
        seen: as :func:`uapfast.verify`.

    Raises:
        RecordError: it cannot be read, is incomplete or changed, or belongs to another reference; the message
            says which.
    """
    reference = as_reference(reference, "verify")
    recording = read_record(path, reference.most_asked)
    first, where = recording.first, recording.where
    if first["reference_sha256"] != reference.sha256:
        got = f"{reference.sha256} of the one that is given"
        raise RecordError(where, "reference", f"{first['reference_sha256'][:80]}, as it was asked for", got)
    settings = recording.suspect["settings"]
    if settings.get("tried") is not None:
        try:
            check_told(reference, settings["tried"], settings.get("preprocessing") or settings)
        except ValueError as exc:
            rule = "the preprocessing that follows from how the suspect answered before"
            raise RecordError(where, "tried", rule, str(exc)) from exc
    level = first["alpha"] if alpha is None else alpha
    if not 0 < level < 0.5:
        raise RecordError(where, "alpha", "a level in (0, 0.5)", level)
    part = _part(reference, recording)
    if first["looks"][-1:] != [part.plan.views] and max(first["looks"], default=0) > part.plan.views:
        rule = f"at most {part.plan.views} views, those of the reference"
        raise RecordError(where, "looks", rule, first["looks"][-1])
    design = Design(part, Looks(tuple(first["looks"])))
    suspect = RecordReplay(recording)
    found = examine(design, suspect, alpha=level, order=first["class_order"], seen=seen)
    verdict = found.verdict()
    if level != first["alpha"]:
        verdict = replace(verdict, reasons=(*verdict.reasons, moved_remark(first["alpha"], level)))
    if not suspect.whole and level == first["alpha"]:
        rule = "those that were asked for, no more"
        raise RecordError(
            where, "answers", rule, f"{len(recording.lines)}, {verdict.queries_used} of them asked"
        )
    return Replayed(verdict, recording)


def _part(reference: Reference, recording: Recording) -> Reference:
    """The part of the reference that was asked, where answers came from a file of a part of them."""
    answered = recording.first["answered"]
    if answered is None:
        return reference
    part, _ = answered_part(reference, numbered(reference), np.array(answered, np.int64))
    return part


__all__ = ["Replayed", "verify_record"]
