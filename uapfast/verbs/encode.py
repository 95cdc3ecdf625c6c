"""``encode``: a suspect's answers as unit vectors."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from uapfast.method.fingerprint import ask, only_labels, reduce_classes
from uapfast.models.answers import Kind
from uapfast.models.model import as_model
from uapfast.reference import Reference, as_reference


def ask_suspect(
    reference: Reference, suspect: Any, output: str = "auto", device: str = "cpu"
) -> tuple[Tensor, Kind, str | None]:
    """Ask a suspect every query of a reference.

    Returns:
        probabilities ``[V,B,n,K]``, what it answered with, and the SHA-256 of its weights (if any).

    Raises:
        SuspectError: NaN or infinite answers, or another class count.
        InputError: not something that answers.
    """
    model = as_model(suspect, output=output, device=device)
    answers, kind = ask(model, reference.plan, reference.classes)
    return answers, kind, model.sha256


def reduced_features(reference: Reference, answers: Tensor, kind: Kind) -> Any:
    """The suspect's feature rows, as :meth:`Reference.scorer` takes them."""
    shown = only_labels(answers) if kind == "labels" else answers
    return reference.suspect_features(reduce_classes(shown, reference.keep), kind == "labels")


def encode(
    reference: Reference | str | os.PathLike[str],
    suspect: Any,
    *,
    output: str = "auto",
    device: str = "cpu",
) -> Tensor:
    """Embed a suspect's fingerprints.

    Args:
        reference: from :func:`uapfast.generate` or :func:`uapfast.load`, or its file.
        suspect: ``nn.Module`` taking 0..1 images, or any callable from ``[N,C,H,W]`` float32 in 0..1
            to ``[N,K]`` logits or probabilities, or to ``[N]`` labels.
        output: what it answers with, ``logits``, ``probabilities``, ``labels``, or ``auto``.
        device: where an ``nn.Module`` is run.

    Returns:
        float32 ``[V,d]``, one row a view: unit rows (``paper``), or rows whose mean is a unit vector
        (``lineage``). Compare only embeddings of one reference and one kind of answer.

    Raises:
        SuspectError: NaN or infinite answers, or another class count.
    """
    reference = as_reference(reference, "encode")
    answers, kind, _ = ask_suspect(reference, suspect, output, device)
    scorer = reference.scorer(kind == "labels")
    return torch.from_numpy(scorer.embed(reduced_features(reference, answers, kind)))
