"""``verify``: from a suspect's answers to a verdict."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from uapfast.config import ALPHA, check
from uapfast.errors import SuspectError
from uapfast.examination import Design, Examination
from uapfast.examination.asking import as_suspect, begin_record, design_for, examine
from uapfast.method.decision import Assessment
from uapfast.method.sequential import Looks
from uapfast.reference import Reference, as_reference
from uapfast.suspects.record_writer import Recorder
from uapfast.types import Progress, Verdict

log = logging.getLogger(__name__)


def verify(
    reference: Reference | str | os.PathLike[str],
    suspect: Any,
    *,
    alpha: float = ALPHA,
    output: str = "auto",
    class_order: Sequence[int] | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    progress: Progress | None = None,
    record: Recorder | None = None,
    seen: Callable[[Assessment], None] | None = None,
) -> Verdict:
    """Test whether a suspect is closer to the victim than to its twins, and than honest models are.

    Args:
        reference: from :func:`uapfast.generate` or :func:`uapfast.load`, or its file.
        suspect: as in :func:`uapfast.encode`. If its queries have a cost
            (:class:`uapfast.suspects.base.Suspect`, ``costly``), it is queried in steps, and no more than
            needed.
        alpha: significance level of each side, in (0, 0.5); docs/verdicts.md says what it bounds.
        output: what the suspect answers with, or ``auto``.
        class_order: for each class of the reference, the suspect's class that means the same (the suspect may
            have more classes, or another order); None if they are the same.
        device: device of an ``nn.Module``.
        batch_size: queries per forward pass of an ``nn.Module``, at most; None chooses by image size
            (:func:`uapfast.models.batches.most_at_once`).
        progress: called as ``progress(done, total, what)`` while images are asked.
        record: keeps every answer (:class:`uapfast.suspects.record_writer.Recorder`, entered).
        seen: called with the scores behind the verdict, for a page that shows them; not called if nothing was
            scored.

    Returns:
        The verdict. Unusable answers (NaN, wrong class count) give ``invalid``, not an exception. So do
        answers that agree with the pool's models less than any of them does.

    Raises:
        InputError: ``alpha`` is out of range, the suspect is nothing that answers, or a class order does not
            name every class once.

    Example:
        >>> verdict = uapfast.verify(reference, suspect)  # a module, or any function from images to answers
        >>> verdict.decision, verdict.rank
        ('piracy', 1)
        >>> uapfast.verify(reference, lambda images: suspect(images).argmax(1)).output
        'labels'
    """
    good = isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and 0 < alpha < 0.5
    check(good, "verify", "alpha", "a level in (0, 0.5)", repr(alpha))
    reference = as_reference(reference, "verify")
    model = as_suspect(reference, suspect, output, device, batch_size, class_order)
    design = design_for(reference, model)
    found = examine(
        design, model, alpha=alpha, order=class_order, progress=progress, record=record, seen=seen
    )
    verdict = found.verdict()
    p = verdict.p_value if verdict.p_value is not None else math.nan
    log.info("verify: %s, p %.3g, reference %.12s", verdict.decision, p, verdict.reference_sha256)
    return verdict


def invalid(
    reference: Reference,
    error: SuspectError,
    *,
    alpha: float = ALPHA,
    sha256: str | None = None,
    record: Recorder | None = None,
) -> Verdict:
    """The verdict ``invalid`` of a suspect whose weights or answers cannot be used: never an acquittal."""
    design = Design(reference, Looks.single(reference.plan.views))
    examination = Examination(design, alpha=alpha, sha256=sha256)
    examination.fail(error)
    if record is not None:
        told = {"name": examination.name, "sha256": sha256, "output": "auto", "replay": "suspect"}
        begin_record(record, design, told | {"settings": {}}, alpha, None)
        record.end((), error)
    return examination.verdict()
