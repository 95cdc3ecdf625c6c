"""The base class of suspects: something that answers images, with what is known about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor

from uapfast.errors import InputError
from uapfast.models.answers import Answers, detect, unpack
from uapfast.models.batches import batches
from uapfast.models.preprocessing import Preprocessing
from uapfast.models.tape import Tape

BATCH = 64  # images asked at a time, unless a kind has a size of its own


class Suspect(ABC):
    """Something that answers images. A new kind of suspect is one file with a subclass.

    Attributes:
        name: shown in errors and tables.
        sha256: SHA-256 of its weights or its file; None if neither is known (an endpoint, a callable).
        output: what it answers with: ``auto``, ``logits``, ``probabilities`` or ``labels``.
        notes: what a reader of the verdict must know about how it was loaded or queried; plain sentences.
        costly: whether queries have a cost. If so, ``verify`` queries it in steps and stops early.
        batch_size: images per call.
        source: what it is, for the record; JSON types, without secrets.
        spent: what querying it has cost, for the record; None if it costs nothing.
        replay: how its record is read again: ``suspect``, or ``endpoint`` if its answers are rows of a
            server's responses.
        tape: keeps every answer as it comes, or None.
        tried: how it was queried before its preprocessing was chosen, for the record; None where it was said.
    """

    name: str
    sha256: str | None = None
    output: str = "auto"
    notes: tuple[str, ...] = ()
    costly: bool = False
    batch_size: int = BATCH
    replay: str = "suspect"
    tape: Tape | None = None
    tried: dict[str, Any] | None = None
    _first: Answers | None = None

    @property
    def spent(self) -> dict[str, Any] | None:
        """What querying it has cost, for the record."""
        return None

    @property
    def source(self) -> dict[str, Any]:
        """What it is, for the record."""
        return {"kind": type(self).__name__.lower(), "name": self.name}

    @property
    def read(self) -> dict[str, Any] | None:
        """How its answers are read, for the record; decided by the first answers, None before."""
        if self._first is None:
            return None
        found = self._first.read
        return {"kind": self._first.kind, **({} if found is None else vars(found))}

    @property
    def bare(self) -> bool:
        """Whether it may need normalised images and nobody said how; most kinds know."""
        return False

    @property
    def channel_order(self) -> str | None:
        """The order in which it takes channels, ``rgb`` or ``bgr``, if that was said."""
        return None

    def with_preprocessing(self, preprocessing: Preprocessing) -> Self:
        """The same suspect, queried with images prepared so. Only a :attr:`bare` suspect supports it.

        Raises:
            InputError: it is not bare.
        """
        rule = "left out (the suspect prepares images itself)"
        raise InputError(self.name, "mean and std", rule, preprocessing)

    @abstractmethod
    def answer(self, images: Tensor) -> Any:
        """Its answers to one batch, float32 ``[n,C,H,W]`` in 0..1, in any form that ``detect`` reads.

        Raises:
            SuspectError: its answers cannot be used.
            UnavailableError: it does not answer now.
            Exception: any error on the caller's side, unchanged.
        """

    def answers_to(self, chunks: Iterable[Tensor], classes: int | None = None) -> Answers:
        """Query it with images that come in chunks, in batches of at most ``batch_size``, in order.

        Args:
            chunks: float32 ``[n,C,H,W]`` in 0..1.
            classes: expected number of classes K, or None.

        Raises:
            as :meth:`answer`; OutputError if the kind of answers is ambiguous.
        """
        parts, rows = [], 0
        for padded, count in batches(chunks, self.batch_size):
            found = unpack(self.answer(padded[:count]), self.name, count, self.output)
            parts.append(found.detach().to("cpu"))
            rows += count
            if self.tape is not None:
                self.tape.took(parts[-1])
        like, output = self._first, self.output
        read = detect(torch.cat(parts), self.name, rows=rows, classes=classes, output=output, like=like)
        if like is None:  # how the first answers are read holds for all
            self._first = read
        return read

    def close(self) -> None:  # noqa: B027, most kinds hold nothing
        """Release what it holds: processes, connections."""

    def __enter__(self) -> Suspect:
        """Return itself; it is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


__all__ = ["BATCH", "Suspect"]
