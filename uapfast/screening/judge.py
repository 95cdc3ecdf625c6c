"""One suspect before all references: asked in stages, every reference left as soon as it is settled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from uapfast.errors import SuspectError
from uapfast.examination import Examination
from uapfast.screening.panel import Asked, Panel, shape_of
from uapfast.screening.plan import Suspect
from uapfast.screening.reader import Loaded
from uapfast.screening.rows import VERDICT_FIELDS, Row, one_line
from uapfast.screening.skeletons import Skeleton, Skeletons


def base_row(panel: Panel, asked: Asked, suspect: Suspect, sha256: str | None, **fields: Any) -> Row:
    """A row with everything that does not depend on answers."""
    return Row(
        reference=asked.name,
        reference_sha256=asked.reference.sha256,
        name=suspect.name,
        path=suspect.shown,
        arch=suspect.arch,
        sha256=sha256,
        alpha=panel.settings.alpha,
        settings=asked.told(),
        versions=panel.versions,
        queries_full=asked.queries,
        **fields,
    )


def failed_rows(
    panel: Panel, suspect: Suspect, error: BaseException, sha256: str | None = None, **seconds: float
) -> list[Row]:
    """Rows of a suspect that cannot be read or asked: invalid, never an acquittal."""
    return [_failed(panel, asked, suspect, error, sha256, **seconds) for asked in panel.asked]


def _failed(
    panel: Panel, asked: Asked, suspect: Suspect, error: BaseException, sha256: str | None, **fields: Any
) -> Row:
    said = one_line(error) or type(error).__name__
    told = {"error_class": type(error).__name__, "error_message": said, "reasons": (said,)}
    return base_row(panel, asked, suspect, sha256, decision="invalid", **told, **fields)


@dataclass
class Case:
    """One suspect before one reference.

    Attributes:
        asked: the reference.
        suspect: who answers.
        examination: what it is asked and what comes of it.
        seconds: spent on scores.
    """

    asked: Asked
    suspect: Suspect
    examination: Examination
    seconds: float = 0.0

    @classmethod
    def of(cls, asked: Asked, suspect: Suspect, sha256: str) -> Case:
        """Before the first question."""
        alpha = asked.settings.alpha
        return cls(
            asked,
            suspect,
            Examination(asked.design, alpha=alpha, name=suspect.name, output=suspect.output, sha256=sha256),
        )

    @property
    def due(self) -> int:
        """Images that are asked next."""
        return self.examination.due()[1]

    def images(self) -> Iterator[Tensor]:
        """These images, float32 ``[n,C,H,W]`` in 0..1; not to be written to."""
        part, _ = self.examination.due()
        if part is None:
            yield from self.examination.images()
        else:
            yield from (self.asked.images(view) for view in part)

    def take(self, values: Tensor) -> None:
        """Take the answers to what was due, as the network gave them, and look."""
        start = time.perf_counter()
        self.examination.take(values)
        self.seconds += time.perf_counter() - start

    def row(self, panel: Panel, sha256: str, **seconds: float) -> Row:
        """The row of a case that ended."""
        verdict, error = self.examination.verdict(), self.examination.error
        fields: dict[str, Any] = {name: getattr(verdict, name) for name in VERDICT_FIELDS}
        for name in ("reference_sha256", "alpha"):
            del fields[name]
        if error is not None:
            fields |= {"error_class": type(error).__name__, "error_message": one_line(error)}
            fields["reasons"] = (one_line(error), *verdict.reasons[1:])
        return base_row(
            panel, self.asked, self.suspect, sha256, **fields, **seconds, seconds_score=self.seconds
        )


def judge(panel: Panel, skeletons: Skeletons, suspect: Suspect, loaded: Loaded) -> list[Row]:
    """Fill the suspect's architecture with its weights, ask, and decide for every reference.

    Raises:
        UapfastError: weights that do not fit or are not finite.
        Exception: whatever a network or its factory raises where nobody expects it.
    """
    with skeletons.borrow(suspect) as skeleton:
        start = time.perf_counter()
        skeleton.load(loaded.tensors, suspect.shown, loaded.fits, loaded.flat)
        spent = {"seconds_read": loaded.seconds, "seconds_load": time.perf_counter() - start}
        cases, forward = _ask(panel, skeleton, suspect, loaded.sha256)
        if not skeleton.settled():
            skeleton.load(loaded.tensors, suspect.shown, loaded.fits, loaded.flat)
            cases, forward = _ask(panel, skeleton, suspect, loaded.sha256)
    spent["seconds_forward"] = forward
    return [case.row(panel, loaded.sha256, **spent) for case in cases]


def _ask(panel: Panel, skeleton: Skeleton, suspect: Suspect, sha256: str) -> tuple[list[Case], float]:
    cases = [Case.of(asked, suspect, sha256) for asked in panel.asked]
    forward = 0.0
    while live := [c for c in cases if c.examination.open]:
        for shape in dict.fromkeys(shape_of(c.asked) for c in live):
            forward += _ask_together(skeleton, [c for c in live if shape_of(c.asked) == shape])
    return cases, forward


def _ask_together(skeleton: Skeleton, live: list[Case]) -> float:
    """What is due for references whose queries have one shape, in common batches; returns seconds."""
    start = time.perf_counter()
    counts = [c.due for c in live]
    parts = (images for c in live for images in c.images())
    try:
        values = skeleton.answer(parts, sum(counts), live[0].suspect.name)
    except SuspectError as exc:
        for case in live:
            case.examination.fail(exc)
        return time.perf_counter() - start
    seconds = time.perf_counter() - start
    for case, part in zip(live, torch.split(values, counts), strict=True):
        case.take(part)
    return seconds


__all__ = ["base_row", "failed_rows", "judge"]
