"""``encode``: a suspect's answers as embeddings."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.examination.asking import as_suspect
from uapfast.method.fingerprint import Answering, answers_of, probabilities_of, reduce_classes, top_classes
from uapfast.models.answers import label_rows
from uapfast.models.forms import Form
from uapfast.reference import Reference, as_reference


def encode(
    reference: Reference | str | os.PathLike[str],
    suspect: Any,
    *,
    output: str = "auto",
    device: str = "cpu",
) -> Tensor:
    """Compute the embedding of a suspect's fingerprints, one row per view.

    Args:
        reference: from :func:`uapfast.generate` or :func:`uapfast.load`, or its file.
        suspect: an ``nn.Module`` for images in 0..1 (they are first normalised by the victim's mean and std,
            if the reference was made with them), a :class:`uapfast.Model` with its own preprocessing, or any
            callable from ``[N,C,H,W]`` float32 in 0..1 to ``[N,K]`` logits or probabilities, or to ``[N]``
            labels.
        output: what the suspect answers with: ``logits``, ``probabilities``, ``labels``, or ``auto``.
        device: device of an ``nn.Module``.

    Returns:
        float32 ``[V,d]``, one row per view: unit rows (``paper``), or rows whose mean is a unit vector
        (``lineage``). Compare only embeddings of the same reference and the same form of answer.

    Raises:
        SuspectError: answers are NaN or infinite, or have another class count.

    Example:
        >>> uapfast.encode(reference, suspect).shape[0]  # one row a view
        6
    """
    reference = as_reference(reference, "encode")
    model = as_suspect(reference, suspect, output, device)
    features, form = features_of(reference, model)
    return torch.from_numpy(reference.statistic.scorer(form).embed(features))


def features_of(reference: Reference, suspect: Answering) -> tuple[NDArray[np.float32], Form]:
    """A suspect's feature rows, as the scorers take them, and the form of its answers."""
    plan = reference.plan
    given = answers_of(suspect, plan.chunks(), plan.queries, reference.classes)
    answers = probabilities_of(given).reshape(plan.views, plan.blocks, plan.per_view, -1)
    form = given.form
    if form.labels:
        reduced = label_rows(top_classes(answers, reference.keep), reference.answers.shape[-1])
    else:
        reduced = reduce_classes(answers, reference.keep)
    return reference.statistic.features(reduced, form.labels).numpy(), form
