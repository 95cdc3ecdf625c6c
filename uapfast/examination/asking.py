"""A suspect of any kind examined: what is assumed of it, and how it is asked to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from uapfast.errors import SuspectError, UnavailableError
from uapfast.examination.design import Design
from uapfast.examination.examination import Examination
from uapfast.examination.preprocessing import asked_as_victim
from uapfast.method.fingerprint import Answering, answers_of
from uapfast.method.sequential import Looks
from uapfast.models.model import Model, as_model
from uapfast.models.state import TRIED
from uapfast.reference import Reference
from uapfast.suspects.base import Suspect

Progress = Callable[[int, int, str], None]


def as_suspect(
    reference: Reference,
    suspect: Any,
    output: str = "auto",
    device: str = "cpu",
    batch_size: int | None = None,
) -> Model | Suspect:
    """A suspect as something to ask; its ``notes`` say what is assumed of it.

    A module, or an ONNX file that takes floats, that comes without mean and std is asked with the victim's,
    as a copy of it has to be. One that normalises its own input is given as ``Model(module, mean=[0],
    std=[1])``, or opened with them.

    Raises:
        InputError: not something that answers.
    """
    own = reference.preprocessing
    if isinstance(suspect, Suspect):
        return asked_as_victim(suspect, own)
    # a copy: what is found out by trying is not the caller's to keep
    plain = as_model(suspect, output=output, device=device).with_batch_size(batch_size)
    model = asked_as_victim(plain, own)
    model.try_out(reference.plan.x(slice(0, TRIED)))
    return model


def examine(
    design: Design,
    model: Model | Suspect,
    *,
    alpha: float,
    order: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Examination:
    """Ask a suspect until the examination ends.

    Args:
        design: reference, budget and looks.
        model: as :func:`as_suspect` gives it.
        alpha: level of a conviction on each side.
        order: as ``class_order`` of :func:`verify`.
        progress: called as ``progress(done, total, what)`` as images are asked.
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
    while examination.open:
        _ask(examination, model, progress)
    if isinstance(model, Suspect):
        examination.notes = list(model.notes)  # with what was noticed while it was asked
    return examination


def design_for(reference: Reference, model: Answering) -> Design:
    """How it is asked: look by look where queries cost somebody something, else all views at once."""
    early = isinstance(model, Suspect) and model.costly and reference.statistic.partial
    views = reference.plan.views
    return Design(reference, Looks.default(views) if early else Looks.single(views))


def _told(examination: Examination, progress: Progress | None) -> Iterator[Tensor]:
    """The images that are due; each chunk counts when the next one is wanted."""
    design, done = examination.design, examination.queries
    total = max(design.queries(design.views), done + examination.due()[1])
    for images in examination.images():
        yield images
        done += len(images)
        if progress is not None:
            progress(done, total, f"answers of {examination.name}")


def _ask(examination: Examination, model: Answering, progress: Progress | None) -> None:
    """Ask what is due."""
    try:
        classes = examination.design.reference.classes
        _, count = examination.due()
        wanted = None if examination.renames else classes
        answers = answers_of(model, _told(examination, progress), count, wanted)
    except SuspectError as exc:
        examination.fail(exc)
    except UnavailableError as exc:
        examination.lose(exc)
    else:
        examination.take(answers)


__all__ = ["as_suspect", "design_for", "examine"]
