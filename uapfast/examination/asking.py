"""A suspect of any kind examined: what is assumed of it, and how it is asked to the end."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from uapfast.errors import SuspectError, UnavailableError
from uapfast.examination.design import Design
from uapfast.examination.examination import Examination, preprocessing_note
from uapfast.method.fingerprint import Answering
from uapfast.method.sequential import Looks
from uapfast.models.model import Model, as_model
from uapfast.reference import Reference
from uapfast.suspects.base import Suspect


def as_suspect(
    reference: Reference, suspect: Any, output: str = "auto", device: str = "cpu"
) -> tuple[Model | Suspect, list[str]]:
    """A suspect as something to ask, and what is assumed of it.

    A module that comes without mean and std is asked with the victim's, as a copy of it has to be. One that
    normalises its own input is given as ``Model(module, mean=[0], std=[1])``.

    Raises:
        InputError: not something that answers.
    """
    if isinstance(suspect, Suspect):
        return suspect, list(suspect.notes)
    model, own = as_model(suspect, output=output, device=device), reference.preprocessing
    assumed = own is not None and model.module is not None and model.preprocessing is None
    # a copy: what is found out by trying is not the caller's to keep
    model = model.with_preprocessing(**own) if own is not None and assumed else copy.copy(model)
    model.try_out(reference.points)
    notes = list(model.notes)
    return model, [*notes, preprocessing_note(**own)] if own is not None and assumed else notes


def examine(
    design: Design,
    model: Model | Suspect,
    *,
    alpha: float,
    order: Sequence[int] | None = None,
    notes: Sequence[str] = (),
) -> Examination:
    """Ask a suspect until the examination ends.

    Args:
        design: reference, budget and looks.
        model: as :func:`uapfast.verbs.encode.as_suspect` gives it, with its ``notes``.
        alpha: level of a conviction on each side.
        order: as ``class_order`` of :func:`verify`.
        notes: what a reader has to know of how it is asked.
    """
    examination = Examination(
        design,
        alpha=alpha,
        name=model.name,
        output=model.output,
        sha256=model.sha256,
        order=order,
        notes=notes,
    )
    while examination.open:
        _ask(examination, model)
    if isinstance(model, Suspect):
        noticed = [note for note in model.notes if note not in notes]  # while it was asked
        examination.notes = [*notes, *noticed]
    return examination


def design_for(reference: Reference, model: Answering) -> Design:
    """How it is asked: look by look where queries cost somebody something, else all views at once."""
    early = isinstance(model, Suspect) and model.costly and reference.encoder == "lineage"
    views = reference.plan.views
    return Design(reference, Looks.default(views) if early else Looks.single(views))


def _ask(examination: Examination, model: Answering) -> None:
    """Ask what is due."""
    try:
        classes = examination.design.reference.classes
        answers = model.answers_to(examination.images(), None if examination.renames else classes)
    except SuspectError as exc:
        examination.fail(exc)
    except UnavailableError as exc:
        examination.lose(exc)
    else:
        examination.take(answers)


__all__ = ["as_suspect", "design_for", "examine"]
