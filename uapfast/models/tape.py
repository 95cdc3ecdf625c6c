"""What takes down answers as they come, whoever gives them; see :mod:`uapfast.suspects.record_writer`."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Tape(Protocol):
    """Takes down questions and answers; neither is to be changed by it."""

    def took(self, values: Tensor) -> None:
        """Answers ``[n,...]`` as they came, their dtype kept, in the order asked."""
        ...

    def row(self, place: int, row: Any, trip: Any = None) -> None:
        """An endpoint's answer to the image at ``place`` of what is asked now.

        Args:
            place: from 0 on.
            row: as :func:`uapfast.suspects.http_rows.row_of` gives it.
            trip: the request that brought it; None where it was known before.
        """
        ...

    def again(self, image: Tensor, row: Any, trip: Any) -> None:
        """An endpoint's answer to ``[C,H,W]`` that was asked before, to see if the answer stays."""
        ...

    def failed(self, trip: Any, images: int) -> None:
        """A request that came to nothing."""
        ...


__all__ = ["Tape"]
