"""Slots of a screen on a GPU: pinned, each with a mirror there to which its bytes go on their own stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from uapfast.screening.reader import Loaded, Slot
from uapfast.streams import Device, Stream
from uapfast.suspects.networks.arriving import Arriving


class MirroredSlot(Slot):
    """A slot whose bytes are sent to the device.

    Args:
        device: where to.
        copies: the stream on which they go.
        rest: as :class:`Slot`.
    """

    def __init__(self, device: Device, copies: Stream, *rest: Any) -> None:
        super().__init__(device.pinned, *rest)
        self._device, self._copies = device, copies
        self._mirror = torch.empty(0, dtype=torch.uint8)
        self._arrival: Arriving | None = None
        self._sent: list[Tensor] = []
        self._views: list[Tensor] = []

    def free(self) -> None:
        """Wait until the bytes of the last checkpoint have left; then they may be overwritten."""
        if self._arrival is not None:
            self._arrival.ready.synchronize()

    def send(self, loaded: Loaded) -> Loaded:
        """The same checkpoint on the device, where its bytes are about to arrive."""
        base, tensors = self._buffer.data_ptr(), list(loaded.tensors.values())
        every = tensors if loaded.flat is None else [*tensors, loaded.flat]
        end = max((t.data_ptr() - base + t.nbytes for t in every if t.numel()), default=0)
        before = self._arrival
        if before is not None and before.taken is not None:
            self._copies.wait(before.taken)
        if len(self._mirror) < end:
            if before is not None and before.taken is not None:
                before.taken.synchronize()  # the memory goes to others now, not only to the next copy
            room = len(self._buffer)
            self._mirror = self._copies.now(
                lambda: torch.empty(room, dtype=torch.uint8, device=self._device.place)
            )
            self._sent = []
        if len(self._sent) != len(tensors) or any(
            a is not b for a, b in zip(self._sent, tensors, strict=True)
        ):
            self._views = [self._view(t, t.data_ptr() - base) for t in tensors]
            self._sent = tensors
        source, target = self._buffer[:end], self._mirror[:end]
        self._copies.do(lambda: target.copy_(source, non_blocking=True))
        there = dict(zip(loaded.tensors, self._views, strict=True))
        self._arrival = Arriving(there, self._copies.record())
        flat = None if loaded.flat is None else self._mirror[: loaded.flat.nbytes].view(torch.float32)
        return replace(loaded, tensors=self._arrival, flat=flat)

    def leave(self) -> None:
        """As :meth:`Slot.leave`; the mirror goes with the buffer."""
        super().leave()
        if not self.size and len(self._mirror):
            if self._arrival is not None and self._arrival.taken is not None:
                self._arrival.taken.synchronize()
            self._mirror, self._sent, self._views = torch.empty(0, dtype=torch.uint8), [], []

    def _view(self, tensor: Tensor, start: int) -> Tensor:
        if not tensor.numel():
            return torch.empty_like(tensor, device=self._device.place)
        return self._mirror[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)


__all__ = ["MirroredSlot"]
