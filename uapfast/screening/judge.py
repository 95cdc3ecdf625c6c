"""One suspect before all references: asked in stages, every reference left as soon as it is settled."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import SuspectError
from uapfast.method.decision import view_level_p
from uapfast.method.fingerprint import only_labels, reduce_classes
from uapfast.method.sequential import Stop, Stopper
from uapfast.models.answers import Kind, detect
from uapfast.screening.panel import Asked, Mode, Panel, shape_of
from uapfast.screening.plan import Suspect
from uapfast.screening.proof import agree
from uapfast.screening.reader import Loaded
from uapfast.screening.rows import Row, one_line
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
        views: asked so far.
        features: ``[k,B,F]`` of the views so far, stage by stage (lineage).
        stop: where it ended.
        error: why its answers cannot be used.
        seconds: spent on scores.
    """

    asked: Asked
    suspect: Suspect
    kind: Kind | None = None
    views: int = 0
    features: list[NDArray[np.float32]] = field(default_factory=list)
    stop: Stop | None = None
    error: SuspectError | None = None
    seconds: float = 0.0
    p_view: float | None = None
    _mode: Mode | None = None
    _stopper: Stopper | None = None

    @property
    def open(self) -> bool:
        """Whether more views are asked."""
        return self.stop is None and self.error is None

    def take(self, values: Tensor, stage: int) -> None:
        """Take the answers to one stage's queries, as the network gave them, and look."""
        start = time.perf_counter()
        try:
            self._look(self._probabilities(values, stage), stage)
        except SuspectError as exc:
            self.error = exc
        self.seconds += time.perf_counter() - start

    def _probabilities(self, values: Tensor, stage: int) -> Tensor:
        """``[k,B,n,R]`` of the stage's k views, classes reduced."""
        reference, part = self.asked.reference, self.asked.stage(stage)
        rows, said = self.asked.asked(len(part)), self.kind or self.suspect.output
        # what the first stage looks like holds for all; later answers that contradict it are invalid
        answers = detect(values, self.suspect.name, rows=rows, classes=reference.classes, output=said)
        self.kind = answers.kind
        shape = (len(part), reference.plan.blocks, reference.plan.per_view, answers.classes)
        shown = answers.probabilities().reshape(shape)
        if answers.kind == "labels":
            shown = only_labels(shown)
        keep = None if reference.keep is None else reference.keep[part.start : part.stop]
        return reduce_classes(shown, keep)

    def _look(self, reduced: Tensor, stage: int) -> None:
        reference, self.views = self.asked.reference, self.asked.looks.views[stage]
        first = self.asked.stage(stage).start
        features = reference.suspect_features(reduced, self.kind == "labels", first)
        if reference.encoder != "lineage":  # asked in one stage
            self._paper(features)
            return
        if self._mode is None:
            self._mode = self.asked.mode(self.kind == "labels")
            self._stopper = self.asked.stopper(self._mode)
        self.features.append(features)
        own, rest = self._mode.scorer.scores(np.concatenate(self.features))
        if self._stopper is None:
            self.stop = self.asked.settle(own, rest, self._mode)
        else:
            self.stop = self._stopper.look(own, rest)
        if self.stop is not None:
            self.p_view = view_level_p(own[:, 0], rest[:, :, 0])

    def _paper(self, features: Any) -> None:
        from uapfast.method.decision import decide

        found = self.asked.reference.scorer(self.kind == "labels").assess(features, self.views)
        outcome = decide(found, self.asked.settings.alpha)
        self.p_view = view_level_p(found.views, found.innocent_views)
        self.stop = Stop(outcome, self.views, found.similarity)

    def row(self, panel: Panel, sha256: str, **seconds: float) -> Row:
        """The row of a case that ended."""
        asked, spent = self.asked, seconds | {"seconds_score": self.seconds}
        used = {"views_used": self.views, "queries_used": asked.asked(self.views)}
        if self.stop is None:
            error = self.error or RuntimeError("the looks ended without a decision")
            return _failed(panel, asked, self.suspect, error, sha256, **used, **spent)
        outcome = self.stop.outcome
        candidate, suspect = outcome.candidate, outcome.suspect
        reasons = list(outcome.reasons)
        if self.kind == "labels":
            reasons.append("the suspect answers with labels only: the pool was reduced to labels as well")
        return base_row(
            panel,
            asked,
            self.suspect,
            sha256,
            decision=outcome.decision,
            p_value=outcome.p,
            p_candidate=candidate.p if candidate else None,
            p_candidate_floor=candidate.floor if candidate else None,
            p_candidate_exact=candidate.exact if candidate else None,
            p_suspect=suspect.p,
            p_suspect_floor=suspect.floor,
            p_suspect_exact=suspect.exact,
            p_view=self.p_view,
            similarity=self.stop.similarity,
            z=outcome.z,
            z_pool=suspect.z,
            rank=outcome.rank,
            output=self.kind,
            reasons=tuple(reasons),
            **used,
            **spent,
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of one suspect.

    Attributes:
        rows: one for each reference.
        lent: they rest on a network that others had before.
        refuted: that network turned out to answer otherwise than a new one.
    """

    rows: list[Row]
    lent: bool = False
    refuted: bool = False


def judge(panel: Panel, skeletons: Skeletons, suspect: Suspect, loaded: Loaded) -> Judged:
    """Fill the suspect's architecture with its weights, ask, and decide for every reference.

    Raises:
        UapfastError: weights that do not fit or are not finite.
        Exception: whatever a network or its factory raises where nobody expects it.
    """
    proof, agreed, refuted = skeletons.proof(suspect), None, False
    with skeletons.borrow(suspect) as skeleton:
        if skeleton.is_new:
            found = _Asking(panel, skeleton, suspect, loaded, False)
            return Judged(found.rows(), refuted=not skeleton.settled() and proof.refute())
        how = proof.begin(loaded.sha256, skeleton.holds)
        try:
            if how != "own":
                lent = _Asking(panel, skeleton, suspect, loaded, how == "both")
                if skeleton.settled() and how == "lent":
                    return Judged(lent.rows(), lent=True)
            with skeletons.borrow(suspect, own=True) as new:
                found = _Asking(panel, new, suspect, loaded, how == "both")
                if how != "own":
                    agreed = skeleton.in_place and found.agrees_with(lent)
                    refuted = not agreed
        finally:
            if how != "own":
                proof.end(agreed)
    return Judged(found.rows(), refuted=refuted)


class _Asking:
    """One suspect asked on one network; ``keep`` its answers, to compare them."""

    def __init__(
        self, panel: Panel, skeleton: Skeleton, suspect: Suspect, loaded: Loaded, keep: bool
    ) -> None:
        self._panel, self._loaded, self._keep = panel, loaded, keep
        start = time.perf_counter()
        skeleton.load(loaded.tensors, suspect.shown, loaded.fits, loaded.flat)
        skeleton.holds = loaded.sha256
        self._spent = {"seconds_read": loaded.seconds, "seconds_load": time.perf_counter() - start}
        self._answers: list[Tensor] = []
        self._cases = [Case(asked, suspect) for asked in panel.asked]
        self._spent["seconds_forward"] = self._ask(skeleton)

    def _ask(self, skeleton: Skeleton) -> float:
        panel, forward = self._panel, 0.0
        shapes = list(dict.fromkeys(shape_of(a) for a in panel.asked))
        for stage in range(panel.stages):
            for shape in shapes:
                live = [c for c in self._cases if c.open and shape_of(c.asked) == shape]
                live = [c for c in live if stage < len(c.asked.looks.views)]
                if live:
                    forward += self._ask_stage(skeleton, live, stage)
        return forward

    def _ask_stage(self, skeleton: Skeleton, live: list[Case], stage: int) -> float:
        """One stage of all references whose queries have one shape, in common batches; returns seconds."""
        start = time.perf_counter()
        counts = [c.asked.asked(len(c.asked.stage(stage))) for c in live]
        parts = (c.asked.images(view) for c in live for view in c.asked.stage(stage))
        try:
            values = skeleton.answer(parts, sum(counts), live[0].suspect.name)
        except SuspectError as exc:
            for case in live:
                case.error = exc
            return time.perf_counter() - start
        seconds = time.perf_counter() - start
        if self._keep:
            self._answers.append(values)
        for case, part in zip(live, torch.split(values, counts), strict=True):
            case.take(part, stage)
        return seconds

    def agrees_with(self, other: _Asking) -> bool:
        """Whether another network gave the same answers, and failed where this one did."""
        settings = self._panel.settings
        errors = ([str(case.error) for case in asking._cases] for asking in (self, other))
        if not agree(self._answers, other._answers, settings.device, settings.precision):
            return False
        return next(errors) == next(errors)

    def rows(self) -> list[Row]:
        """One for each reference."""
        return [case.row(self._panel, self._loaded.sha256, **self._spent) for case in self._cases]


__all__ = ["Judged", "base_row", "failed_rows", "judge"]
