"""One suspect before all references: asked in stages, every reference left as soon as it is settled."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from uapfast.errors import ModelError, SuspectError, UapfastError, UnavailableError
from uapfast.examination import Examination, Reading, reading_of
from uapfast.models.answers import Answers, detect
from uapfast.models.preprocessing import Preprocessing
from uapfast.models.state import TRIED
from uapfast.screening.asking.architecture import answers_differ
from uapfast.screening.asking.panel import Panel, PreparedReference, shape_of
from uapfast.screening.asking.reader import Loaded
from uapfast.screening.asking.records import PendingRecord
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.rows import VERDICT_FIELDS, Row, error_line
from uapfast.suspects.networks.proof import agree
from uapfast.suspects.networks.skeletons import Skeleton, Skeletons
from uapfast.types import Decision

COMPARED = 16  # images on which two architectures are compared
Readings = Mapping[str, Reading]  # by the reference's SHA-256


def base_row(
    panel: Panel, asked: PreparedReference, suspect: Entry, sha256: str | None, **fields: Any
) -> Row:
    """A row with everything that does not depend on answers."""
    fields.setdefault("arch", suspect.arch)
    return Row(
        reference=asked.name,
        reference_sha256=asked.reference.sha256,
        name=suspect.name,
        path=suspect.shown,
        kind=suspect.kind,
        sha256=sha256,
        alpha=panel.settings.alpha,
        settings=asked.told(),
        versions=panel.versions,
        queries_full=asked.queries,
        **fields,
    )


def failed_rows(
    panel: Panel, suspect: Entry, error: BaseException, sha256: str | None = None, **seconds: float
) -> list[Row]:
    """Rows of a suspect that cannot be read or asked: invalid or unavailable, never an acquittal."""
    return [_failed(panel, asked, suspect, error, sha256, **seconds) for asked in panel.asked]


def _failed(
    panel: Panel,
    asked: PreparedReference,
    suspect: Entry,
    error: BaseException,
    sha256: str | None,
    **fields: Any,
) -> Row:
    said = error_line(error) or type(error).__name__
    told = {"error_class": type(error).__name__, "error_message": said, "reasons": (said,)}
    decision: Decision = "unavailable" if isinstance(error, UnavailableError) else "invalid"
    return base_row(panel, asked, suspect, sha256, decision=decision, **told, **fields)


@dataclass
class Case:
    """One suspect before one reference.

    Attributes:
        asked: the reference.
        suspect: who answers.
        examination: what it is asked and what comes of it.
        seconds: spent on scores.
        kept: its answers until the end, where a record is wanted.
    """

    asked: PreparedReference
    suspect: Entry
    examination: Examination
    seconds: float = 0.0
    kept: PendingRecord | None = None

    @classmethod
    def of(
        cls,
        asked: PreparedReference,
        suspect: Entry,
        sha256: str,
        notes: Sequence[str] = (),
        reading: Reading | None = None,
    ) -> Case:
        """Before the first question."""
        examination = Examination(
            asked.design,
            alpha=asked.settings.alpha,
            name=suspect.name,
            output=suspect.output,
            sha256=sha256,
            order=suspect.class_order,
            notes=(*notes, *suspect.notes),
        )
        folder = asked.settings.record
        kept = None if folder is None else PendingRecord(folder, asked, suspect, sha256, reading)
        return cls(asked, suspect, examination, kept=kept)

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
        self._keep(values)
        self.examination.take(values)
        self.seconds += time.perf_counter() - start

    def fail(self, error: SuspectError) -> None:
        """The network failed at what was due."""
        self._keep(None)
        self.examination.fail(error)

    def _keep(self, values: Tensor | None) -> None:
        if self.kept is not None:
            self.kept.take(self.examination.due()[0], values)

    def row(self, panel: Panel, sha256: str | None, **rest: Any) -> Row:
        """The row of a case that ended; ``rest`` are fields that it does not know itself."""
        verdict, error = self.examination.verdict(), self.examination.error
        if self.kept is not None:
            self.kept.write(self.examination)
        fields: dict[str, Any] = {name: getattr(verdict, name) for name in VERDICT_FIELDS}
        for name in ("reference_sha256", "alpha"):
            del fields[name]
        if error is not None:
            fields |= {"error_class": type(error).__name__, "error_message": error_line(error)}
            fields["reasons"] = (error_line(error), *verdict.reasons[1:])
        return base_row(panel, self.asked, self.suspect, sha256, **fields, **rest, seconds_score=self.seconds)


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of one suspect.

    Attributes:
        rows: one for each reference.
        reused: they rest on a network that others had before.
        refuted: that network turned out to answer otherwise than a new one.
        retry: a resumed run asks once more.
    """

    rows: list[Row]
    reused: bool = False
    refuted: bool = False
    retry: bool = False


def judge(panel: Panel, skeletons: Skeletons, loaded: Loaded) -> Judged:
    """Fill the suspect's architecture with its weights, ask, and decide for every reference.

    Raises:
        UapfastError: weights that do not fit, are not finite, or fit two architectures that answer otherwise.
        Exception: whatever a network or its factory raises where nobody expects it.
    """
    try:
        return _judge(panel, skeletons, loaded)
    except _Otherwise as exc:
        readings = exc.readings
    by_way: dict[Reading | None, list[PreparedReference]] = {}
    for asked in panel.asked:
        reading = readings.get(asked.reference.sha256)
        by_way.setdefault(reading if reading and reading.otherwise else None, []).append(asked)
    found: list[Judged] = []
    for way, some in by_way.items():
        again = loaded
        if way is not None:
            entry = loaded.entry.asked_by(way.preprocessing, assumed=False)
            again = replace(loaded, entry=entry, notes=(*loaded.notes, way.note))
        found.append(_judge(replace(panel, asked=tuple(some)), skeletons, again, readings))
    rows = {row.reference_sha256: row for one in found for row in one.rows}
    return Judged(
        [rows[a.reference.sha256] for a in panel.asked],
        reused=any(one.reused for one in found),
        refuted=any(one.refuted for one in found),
    )


class _Otherwise(UapfastError):  # the network that it was asked on is as good as before
    """A suspect without mean and std is not asked as the victim, before some of the references."""

    def __init__(self, readings: Readings) -> None:
        super().__init__("asked otherwise than the victim")
        self.readings = readings


def _judge(panel: Panel, skeletons: Skeletons, loaded: Loaded, readings: Readings | None = None) -> Judged:
    suspect = loaded.entry
    proof, agreed, refuted = skeletons.proof(suspect), None, False
    if loaded.also:
        _check_same(panel, skeletons, loaded)
    with skeletons.borrow(suspect) as skeleton:
        if skeleton.is_new:
            found = _Asking(panel, skeleton, loaded, False, readings)
            return Judged(found.rows(), refuted=not skeleton.settled() and proof.refute())
        how = proof.begin(loaded.sha256, skeleton.holds)
        try:
            if how != "own":
                reused = _Asking(panel, skeleton, loaded, how == "both", readings)
                if skeleton.settled() and how == "reused":
                    return Judged(reused.rows(), reused=True)
            with skeletons.borrow(suspect, own=True) as new:
                found = _Asking(panel, new, loaded, how == "both", readings)
                if how != "own":
                    agreed = skeleton.in_place and found.agrees_with(reused)
                    refuted = not agreed
        finally:
            if how != "own":
                proof.end(agreed)
    return Judged(found.rows(), refuted=refuted)


def _check_same(panel: Panel, skeletons: Skeletons, loaded: Loaded) -> None:
    """Architectures whose names and shapes are the same have to answer alike: no file says which is meant."""
    entry, points = loaded.entry, panel.asked[0].reference.plan.x(slice(0, COMPARED))
    found = []
    for arch in (entry.arch, *loaded.also):
        with skeletons.borrow(entry.taking(arch), own=True) as new:
            new.load(loaded.tensors, entry.shown)
            found.append(new.answer(iter([points]), len(points), entry.name))
            if answers_differ(found[0], found[-1]):
                rule = "one that the weights alone identify (else name it in a manifest, column arch)"
                got = f"{entry.arch} and {arch}: {entry.shown} fits both, and they answer differently"
                raise ModelError("screen", "arch", rule, got)


class _Asking:
    """One suspect asked on one network.

    Args:
        panel: references.
        skeleton: the network.
        loaded: the suspect's weights.
        keep: its answers, to compare them.
        readings: how it is asked, if that is known; else it is looked at, where its mean and std are assumed.
    """

    def __init__(
        self, panel: Panel, skeleton: Skeleton, loaded: Loaded, keep: bool, readings: Readings | None
    ) -> None:
        self._panel, self._loaded, self._keep = panel, loaded, keep
        suspect = loaded.entry
        start = time.perf_counter()
        fresh = skeleton.is_new or not skeleton.in_place  # then it is built for this suspect
        skeleton.holds = loaded.sha256
        skeleton.load(loaded.tensors, suspect.shown, loaded.fits, loaded.flat)
        if fresh:
            skeleton.try_out(panel.asked[0].reference.plan.x(slice(0, TRIED)))
        if readings is None:
            readings = self._readings(skeleton) if suspect.assumed else {}
        self._spent = {"seconds_read": loaded.seconds, "seconds_load": time.perf_counter() - start}
        self._answers: list[Tensor] = []
        notes = tuple(dict.fromkeys((*loaded.notes, *skeleton.notes)))
        self._cases = [
            Case.of(asked, suspect, loaded.sha256, notes, readings.get(asked.reference.sha256))
            for asked in panel.asked
        ]
        self._spent["seconds_forward"] = self._ask(skeleton)

    def _readings(self, skeleton: Skeleton) -> Readings:
        """How it is asked for each reference; raises ``_Otherwise`` if that is not as the victim for all."""
        entry, asked_with = self._loaded.entry, self._loaded.entry.preprocessing
        assert asked_with is not None

        def ask(way: Preprocessing, images: Tensor) -> Answers:
            if way != asked_with:  # behind which the network sees what it would by the other way
                images = asked_with.undone(way.applied(images))
            values = skeleton.answer(iter([images]), len(images), entry.name)
            return detect(values, entry.name, rows=len(images), output=entry.output)

        found: dict[str, Reading] = {}
        for asked in self._panel.asked:
            said = None if entry.order_assumed else entry.channel_order
            reading = reading_of(asked.reference, ask, said, entry.class_order)
            if reading is not None:
                found[asked.reference.sha256] = reading
        if any(reading.otherwise for reading in found.values()):
            raise _Otherwise(found)
        return found

    def _ask(self, skeleton: Skeleton) -> float:
        forward = 0.0
        while live := [c for c in self._cases if c.examination.open]:
            for shape in dict.fromkeys(shape_of(c.asked) for c in live):
                forward += self._ask_together(skeleton, [c for c in live if shape_of(c.asked) == shape])
        return forward

    def _ask_together(self, skeleton: Skeleton, live: list[Case]) -> float:
        """What is due for references whose queries have one shape, in common batches; returns seconds."""
        start = time.perf_counter()
        counts = [c.due for c in live]
        parts = (images for c in live for images in c.images())
        try:
            values = skeleton.answer(parts, sum(counts), live[0].suspect.name)
        except SuspectError as exc:
            for case in live:
                case.fail(exc)
            return time.perf_counter() - start
        seconds = time.perf_counter() - start
        if self._keep:
            self._answers.append(values)
        for case, part in zip(live, torch.split(values, counts), strict=True):
            case.take(part)
        return seconds

    def agrees_with(self, other: _Asking) -> bool:
        """Whether another network gave the same answers, and failed where this one did."""
        settings = self._panel.settings
        errors = ([str(case.examination.error) for case in asking._cases] for asking in (self, other))
        if not agree(self._answers, other._answers, settings.device, settings.precision):
            return False
        return next(errors) == next(errors)

    def rows(self) -> list[Row]:
        """One for each reference."""
        return [case.row(self._panel, self._loaded.sha256, **self._spent) for case in self._cases]


__all__ = ["Judged", "base_row", "failed_rows", "judge"]
