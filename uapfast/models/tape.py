"""What takes down answers as they come, whoever gives them; see :mod:`uapfast.suspects.record_writer`."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Tape(Protocol):
    """Takes down questions and answers; neither is to be changed by it."""

    def took(self, values: Tensor) -> None:
        """Answers ``[n,...]`` as they came, their dtype kept, in the order asked."""
        ...

    def response(self, trip: Any, reading: Any, images: int, body: bytes | None = None) -> None:
        """What an endpoint sent, before the rows that are read from it.

        Args:
            trip: the request that brought it.
            reading: how it is read, JSON types.
            images: that were asked.
            body: of the response; None where it may not be kept.
        """
        ...

    def row(self, place: int, row: Any, trip: Any = None, nth: int = 0) -> None:
        """An endpoint's answer to the image at ``place`` of what is asked now.

        Args:
            place: from 0 on.
            row: as :func:`uapfast.suspects.http_rows.row_of` gives it.
            trip: the request that brought it; None where it was known before.
            nth: row of its response.
        """
        ...

    def again(self, image: Tensor, row: Any, trip: Any) -> None:
        """An endpoint's answer to ``[C,H,W]`` that was asked before, to see if the answer stays."""
        ...

    def failed(self, trip: Any, images: int, body: bytes | None = None) -> None:
        """A request that came to nothing; ``body`` as in :meth:`response`, if a response came."""
        ...


__all__ = ["Tape"]
