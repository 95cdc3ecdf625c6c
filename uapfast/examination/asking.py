"""A suspect of any kind examined: what is assumed of it, and how it is asked to the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from uapfast.errors import SuspectError, UnavailableError
from uapfast.examination.design import Design
from uapfast.examination.examination import Examination
from uapfast.examination.preprocessing import asked_as_victim, reading_of
from uapfast.method.decision import Assessment
from uapfast.method.fingerprint import Answering, answers_of
from uapfast.method.sequential import Looks
from uapfast.models.answers import Answers
from uapfast.models.model import Model, as_model
from uapfast.models.preprocessing import Preprocessing
from uapfast.models.state import TRIED
from uapfast.reference import Reference
from uapfast.suspects.base import Suspect
from uapfast.suspects.record_writer import Recorder
from uapfast.types import Progress

Askable = TypeVar("Askable", Model, Suspect)


def as_suspect(
    reference: Reference,
    suspect: Any,
    output: str = "auto",
    device: str = "cpu",
    batch_size: int | None = None,
    order: Sequence[int] | None = None,
) -> Model | Suspect:
    """A suspect as something to ask; its ``notes`` say what is assumed of it.

    A module, or an ONNX file that takes floats, that comes without mean and std is asked with the victim's,
    as a copy of it has to be, unless its answers to some queries show that it normalises its own input, or
    takes its channels in another order. Who knows that says so: ``Model(module, mean=[0], std=[1])``, or
    opened with them.

    ``order`` is as ``class_order`` of :func:`uapfast.verify`.

    Raises:
        InputError: not something that answers, or the order does not fit the classes.
    """
    own = reference.preprocessing
    if isinstance(suspect, Suspect):
        return _rightly(reference, suspect, asked_as_victim(suspect, own), order)
    # a copy: what is found out by trying is not the caller's to keep
    plain = as_model(suspect, output=output, device=device).with_batch_size(batch_size)
    model = _rightly(reference, plain, asked_as_victim(plain, own), order)
    model.try_out(reference.plan.x(slice(0, TRIED)))
    return model


def _rightly(reference: Reference, bare: Askable, asked: Askable, order: Sequence[int] | None) -> Askable:
    """Of two ways to ask one suspect, as it came and as the victim, the one that it answers rightly."""
    if asked is bare:
        return asked

    def ask(way: Preprocessing, images: Tensor) -> Answers:
        return answers_of(bare.with_preprocessing(way), [images], len(images))

    found = reading_of(reference, ask, bare.channel_order, order)
    if found is None:
        return asked
    if found.otherwise:
        asked = bare.with_preprocessing(found.preprocessing)
        asked.notes = (*asked.notes, found.note)
    asked.tried = found.to_dict()
    return asked


def examine(
    design: Design,
    model: Model | Suspect,
    *,
    alpha: float,
    order: Sequence[int] | None = None,
    progress: Progress | None = None,
    record: Recorder | None = None,
    seen: Callable[[Assessment], None] | None = None,
) -> Examination:
    """Ask a suspect until the examination ends.

    Args:
        design: reference, budget and looks.
        model: as :func:`as_suspect` gives it.
        alpha: level of a conviction on each side.
        order: as ``class_order`` of :func:`verify`.
        progress: called as ``progress(done, total, what)`` as images are asked.
        record: takes down every answer.
        seen: called with what the verdict rests on; not where nothing was scored.
    """
    examination = Examination(
        design,
        alpha=alpha,
        name=model.name,
        output=model.output,
        sha256=model.sha256,
        order=order,
        notes=model.notes,
    )
    with taped(record, design, model, alpha, order):
        while examination.open:
            _ask(examination, model, progress, record)
    if isinstance(model, Suspect):
        examination.notes = list(model.notes)  # with what was noticed while it was asked
    if seen is not None and (assessed := examination.assessed) is not None:
        seen(assessed)
    if record is not None:
        spent = model.spent if isinstance(model, Suspect) else None
        record.end(examination.notes, examination.failure, spent)
    return examination


@contextlib.contextmanager
def taped(
    record: Recorder | None,
    design: Design,
    model: Model | Suspect,
    alpha: float,
    order: Sequence[int] | None,
) -> Iterator[None]:
    """While it is entered, what ``model`` answers is taken down; its first line is written."""
    if record is None:
        yield
        return
    begin_record(record, design, about(model), alpha, order)
    model.tape = record
    try:
        yield
    finally:
        model.tape = None


def begin_record(
    record: Recorder,
    design: Design,
    suspect: Mapping[str, Any],
    alpha: float,
    order: Sequence[int] | None,
    started: str | None = None,
) -> None:
    """Write the first line of a record."""
    record.start(
        design.reference.sha256,
        suspect,
        started,
        alpha=alpha,
        looks=list(design.looks.views),
        class_order=None if order is None else [int(k) for k in order],
    )


def about(model: Model | Suspect) -> dict[str, Any]:
    """What a record says of a suspect, and of how it is asked; never a secret."""
    if isinstance(model, Suspect):
        spent = model.spent or {}
        settings = {k: v for k, v in model.source.items() if k not in spent}
        settings["read"] = model.read
        replay = model.replay
    else:
        settings = {"kind": "model", "arch": model.arch, "preprocessing": model.preprocessing}
        settings |= {"channel_order": model.channel_order, "device": str(model.device), "apart": model.apart}
        replay = "model"
    settings |= {"batch_size": model.batch_size}
    if model.tried is not None:
        settings["tried"] = model.tried
    return {
        "name": model.name,
        "sha256": model.sha256,
        "output": model.output,
        "replay": replay,
        "settings": settings,
    }


def design_for(reference: Reference, model: Answering) -> Design:
    """How it is asked: look by look where queries cost somebody something, else all views at once."""
    early = isinstance(model, Suspect) and model.costly and reference.statistic.partial
    views = reference.plan.views
    return Design(reference, Looks.default(views) if early else Looks.single(views))


def _told(examination: Examination, progress: Progress | None, record: Recorder | None) -> Iterator[Tensor]:
    """The images that are due; each chunk counts when the next one is wanted."""
    design, done = examination.design, examination.queries
    total = max(design.queries(design.views), done + examination.due()[1])
    if record is not None:
        record.stage()
    for images in examination.images():
        if record is not None:
            record.asked(images)
        yield images
        done += len(images)
        if progress is not None:
            progress(done, total, f"answers of {examination.name}")


def _ask(
    examination: Examination, model: Answering, progress: Progress | None, record: Recorder | None = None
) -> None:
    """Ask what is due."""
    try:
        classes = examination.design.reference.classes
        _, count = examination.due()
        wanted = None if examination.renames else classes
        answers = answers_of(model, _told(examination, progress, record), count, wanted)
    except SuspectError as exc:
        examination.fail(exc)
    except UnavailableError as exc:
        examination.lose(exc)
    else:
        examination.take(answers)


__all__ = ["about", "as_suspect", "begin_record", "design_for", "examine"]
