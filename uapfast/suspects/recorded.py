"""Answers that were recorded elsewhere, as a suspect (:mod:`uapfast.verbs.queries` writes what is asked)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import InputError
from uapfast.models.answers import OUTPUTS
from uapfast.models.labels import ClassNames, some
from uapfast.suspects.answer_files import AnswerBounds, FileAnswers, read_answer_file
from uapfast.suspects.base import Suspect

BATCH = 1024


def content(image: Tensor) -> bytes:
    """By what a query is known again: a hash of one image float32 ``[C,H,W]``, bit for bit."""
    return hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest()


def open_recorded(
    path: str | os.PathLike[str],
    queries: Mapping[bytes, int],
    *,
    classes: int,
    class_names: Sequence[str] | None = None,
    output: str = "auto",
) -> Recorded:
    """Recorded answers as a suspect.

    Args:
        path: ``.npz`` with ``id`` int ``[N]`` and one of ``logits``, ``probabilities`` float ``[N,K]`` or
            ``labels`` ``[N]``; or CSV, Parquet, or JSON a line, with ``id`` and one of: ``label``; a column a
            class (named as in ``class_names``, or numbered: ``0``, ``p_0``, ``logit_0``, ...);
            ``label_1, score_1, label_2, ...``; in JSON also ``logits`` or ``probabilities`` as lists. Told by
            content. Labels are numbers of classes, or names out of ``class_names``. Rows in any order; a
            query may be missing.
        queries: :func:`content` of every query -> its id.
        classes: how many the suspect has, at most: K of the reference, or more where a class order is given.
        class_names: what the suspect calls its classes, in their order.
        output: ``auto``, or what is to be read where the file holds several: ``labels``, ``logits``,
            ``probabilities``.

    Raises:
        InputError: the file cannot be read, is too large for so many queries, or holds none of these; ids are
            foreign or double, labels unknown: they are named.
    """
    where = f"answers {Path(path).name}"
    if output not in OUTPUTS:
        raise InputError(where, "output", f"one of {', '.join(OUTPUTS)}", repr(output))
    names = None if class_names is None else ClassNames(class_names, where)
    bounds = AnswerBounds.of(len(set(queries.values())), classes if names is None else len(names))
    found = read_answer_file(path, where, bounds, names, output)
    _check_ids(found, queries, where)
    return Recorded(where, queries, found, () if names is None else names.notes)


class Recorded(Suspect):
    """See :func:`open_recorded`.

    Attributes:
        answered: ids that have an answer, int64, sorted.
    """

    def __init__(
        self, name: str, queries: Mapping[bytes, int], found: FileAnswers, notes: tuple[str, ...] = ()
    ) -> None:
        self.name, self.output, self.batch_size = name, found.output, BATCH
        self.answered: NDArray[np.int64] = np.sort(found.ids)
        self.notes = (*notes, *found.notes)
        self._queries = queries
        self._rows = {int(id_): row for row, id_ in enumerate(found.ids)}
        self._values = found.values

    @property
    def source(self) -> dict[str, Any]:
        """What it is, for the record."""
        return {"kind": "recorded", "name": self.name, "answers": len(self._rows)}

    def answer(self, images: Tensor) -> Tensor:
        """What was recorded for these images.

        Raises:
            InputError: one of them is no query, or has no answer.
        """
        return self._values[[self._row(image) for image in images]]

    def _row(self, image: Tensor) -> int:
        id_ = self._queries.get(content(image))
        if id_ is None:
            raise InputError(
                self.name, "image", "a query of the reference that it was opened with", "another"
            )
        if id_ not in self._rows:
            raise InputError(self.name, "answers", "given for every query that is asked", f"none to {id_}")
        return self._rows[id_]


def _check_ids(found: FileAnswers, queries: Mapping[bytes, int], where: str) -> None:
    known = set(queries.values())
    given, counts = np.unique(found.ids, return_counts=True)
    foreign = [int(i) for i in given if int(i) not in known]
    if foreign:
        rule = "ids of this reference's queries (were they written for another reference?)"
        raise InputError(where, "id", rule, f"{len(foreign)} others: {some(foreign)}")
    double = given[counts > 1].tolist()
    if double:
        raise InputError(where, "id", "given once", f"{len(double)} more than once: {some(double)}")


__all__ = ["Recorded", "content", "open_recorded"]
