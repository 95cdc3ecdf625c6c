"""Weights on their way to a device."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from uapfast.streams import Event


class Arriving(dict[str, Tensor]):
    """A checkpoint's tensors on a device, where their bytes are about to arrive.

    Attributes:
        ready: they are there.
        taken: set by who reads them: after it they may be overwritten.
    """

    def __init__(self, tensors: Mapping[str, Tensor], ready: Event) -> None:
        super().__init__(tensors)
        self.ready = ready
        self.taken: Event | None = None


__all__ = ["Arriving"]
