"""A skeleton on a GPU: one recorded forward for every shape of batch, on a stream of its own.

The thread that has read a checkpoint sends its bytes on a stream for copies
(:mod:`uapfast.screening.asking.device`), while other threads' networks compute. A worker's stream waits on
the device for the copy, takes the weights out of the mirror into the memory that the recorded forward reads,
and replays it for batch after batch of the resident queries. The host waits once a stage, for the answers.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from uapfast.models.batches import batch_size
from uapfast.streams import Device, Replay, Stream
from uapfast.suspects.networks.arriving import Arriving
from uapfast.suspects.networks.described import Described
from uapfast.suspects.networks.precision import raw_answers
from uapfast.suspects.networks.shapes import Shapes
from uapfast.suspects.networks.skeletons import Skeleton

FORWARDS = 8  # batch shapes that a skeleton keeps recorded
log = logging.getLogger(__name__)


class _Forward:
    """The network for batches of one shape: static images, static answers, one graph between them."""

    def __init__(
        self, forward: Callable[[Tensor], Any], images: Tensor, device: Device, stream: Stream
    ) -> None:
        self.images = images
        plain = stream.now(lambda: forward(images.clone()))
        if not isinstance(plain, Tensor) or plain.ndim == 0 or len(plain) != len(images):
            raise TypeError("not one row an image")  # asked the plain way, it gets the error that says so
        answers = self.answers = stream.now(lambda: torch.empty_like(plain))
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}
        self._device, self._stream = device, stream

        def work() -> None:  # knows of no self, so that nothing waits for the garbage collector
            answers.copy_(forward(images.clone()))  # a copy goes in: the network may write into its images

        self.run = Replay(work, [], device, stream, "screen: a forward")
        self.run()
        same = stream.now(lambda: torch.equal(answers.nan_to_num(), plain.nan_to_num()))
        if self.run.recorded and not same:
            log.warning("screen: a forward does not repeat itself as a graph; it runs without one")
            self.run = Replay(work, [], device, stream, "screen: a forward", wanted=False)

    def room(self, count: int) -> tuple[Tensor, Tensor]:
        """Memory for ``count`` answers, on the device and (pinned) here."""
        if count not in self._rows:
            shape = (count, *self.answers.shape[1:])
            there = self._stream.now(lambda: self.answers.new_empty(shape))
            here = torch.empty(shape, dtype=self.answers.dtype, pin_memory=self._device.pinned)
            self._rows[count] = there, here
        return self._rows[count]


def _asked(module: nn.Module, precision: str, images: Tensor) -> Any:
    return raw_answers(module, images, precision)


class DeviceSkeleton(Skeleton):
    """A skeleton on a stream of its own that waits for nothing but its answers.

    What it answers equals what a :class:`Skeleton` on the device answers. A network that is not replaced in
    place, or that has not yet been seen to stay as it was loaded, or in which ``train()`` and ``eval()`` do
    more than usual, is asked as there.

    Args:
        suspect: as there.
        precision: as there.
        device: where it runs.
        most: as there.
    """

    def __init__(self, suspect: Described, precision: str, device: Device, most: int | None = None) -> None:
        self.stream = device.stream()
        self.lanes = device
        self._forwards: dict[tuple[int, ...], _Forward | None] = {}
        self._total = torch.zeros(0)
        self._seen = torch.zeros(1, dtype=torch.float32, pin_memory=device.pinned)
        self._unchecked: tuple[object] | None = None  # where weights are from that were not judged yet
        self.stream.wait(device.main().record())
        start = super().__init__
        self.stream.now(lambda: start(suspect, str(device.place), precision, most))
        self._outside: list[Tensor] = []

    def _make_flat(self) -> None:
        super()._make_flat()
        assert self._flat is not None
        low, high = self._flat.data_ptr(), self._flat.data_ptr() + self._flat.nbytes
        every = [t for t in self._targets.values() if t.is_floating_point() and t.numel()]
        self._outside = [t for t in every if not low <= t.data_ptr() < high]
        self._total = torch.zeros(1, dtype=torch.float32, device=self.lanes.place)

    def load(
        self,
        tensors: Mapping[str, Tensor],
        path: object,
        fits: Shapes | None = None,
        flat: Tensor | None = None,
    ) -> None:
        """Take a suspect's weights where they arrive; see :meth:`Skeleton.load`.

        NaN and infinities are named by :meth:`settled`, once answers were waited for.
        """
        arriving = tensors if isinstance(tensors, Arriving) else None
        if arriving is not None:
            self.stream.wait(arriving.ready)
        self._unchecked = None
        try:
            if not self.is_new and self._settled and self.stream.now(self._takes_more):
                self._take_in_place(tensors, path, fits, flat)
            else:
                plainly = super().load
                self.stream.now(lambda: plainly(tensors, path, fits, flat))
        finally:
            if arriving is not None:
                arriving.taken = self.stream.record()

    def _take_in_place(
        self, tensors: Mapping[str, Tensor], path: object, fits: Shapes | None, flat: Tensor | None
    ) -> None:
        tensors, names, flat = self.shapes.to_copy(tensors, path, fits, flat)
        resident = self._flat
        assert resident is not None
        if self._moves:
            self.stream.now(self.module.train)
        alike: dict[bool, tuple[list[Tensor], list[Tensor]]] = {True: ([], []), False: ([], [])}
        for name in names:
            target, tensor = self._targets[name], tensors[name]
            to, of = alike[target.dtype == tensor.dtype == torch.float32]
            to.append(target)
            of.append(tensor)

        def copy() -> None:
            if flat is not None:
                resident.copy_(flat)
            for to, of in alike.values():  # one kernel for those of one type
                if to:
                    torch._foreach_copy_(to, of, non_blocking=True)
            torch.sum(resident, dim=0, keepdim=True, out=self._total)
            for t in self._outside:
                self._total += t.sum().to(torch.float32)

        self.stream.do(copy)
        if self._moves:
            self.stream.now(self._after_copy)
        self._unchecked = (path,)

    def settled(self) -> bool:
        """As :meth:`Skeleton.settled`; raises ``SuspectError`` for NaN or infinite weights."""
        if self._unchecked is not None:
            (path,) = self._unchecked
            if not bool(torch.isfinite(self._seen).all()):
                self.stream.now(lambda: self._check_finite(path))
            self._unchecked = None
        return self.stream.now(super().settled)

    def answer(self, parts: Iterable[Tensor], count: int, name: str) -> Tensor:
        """As :meth:`Skeleton.answer`."""
        forward, rest = None, iter(parts)
        self._asked = True
        if self.in_place and self._settled and not self._moves:
            first = next(rest)
            rest = itertools.chain([first], rest)
            forward = self._forward_for(batch_size(count, self._at_once(first)), first)
        if forward is None:
            plainly = super().answer
            found: Tensor = self.stream.now(lambda: plainly(rest, count, name))
            if self._unchecked is not None:
                self._seen.copy_(self.stream.now(lambda: self._total.cpu()))
            return found
        return self._replayed(forward, rest, count)

    def _replayed(self, forward: _Forward, parts: Iterator[Tensor], count: int) -> Tensor:
        size = len(forward.images)
        there, here = forward.room(count)
        row = done = 0
        for part in parts:
            while len(part):
                piece, part = part[: size - row], part[size - row :]
                self._fill(forward, row, piece)
                row += len(piece)
                if row == size:
                    self._run(forward, there[done : done + size])
                    done, row = done + size, 0
        if row:
            rest = forward.images[row:]
            self.stream.do(lambda: rest.copy_(forward.images[:1].expand_as(rest)))
            self._run(forward, there[done : done + row])
        self.stream.do(lambda: here.copy_(there, non_blocking=True))
        self.stream.do(lambda: self._seen.copy_(self._total, non_blocking=True))
        self.stream.record().synchronize()
        return here.clone()

    def _fill(self, forward: _Forward, row: int, piece: Tensor) -> None:
        target = forward.images[row : row + len(piece)]
        self.stream.do(lambda: target.copy_(piece, non_blocking=True))

    def _run(self, forward: _Forward, target: Tensor) -> None:
        forward.run()
        self.stream.do(lambda: target.copy_(forward.answers[: len(target)]))

    def _forward_for(self, size: int, like: Tensor) -> _Forward | None:
        """The recorded forward for batches of ``size``; None where there can be none."""
        key = (size, *like.shape[1:])
        if key not in self._forwards:
            while len(self._forwards) >= FORWARDS:
                self.stream.record().synchronize()
                del self._forwards[next(iter(self._forwards))]
            self._forwards[key] = self._new_forward(key, like)
        return self._forwards[key]

    def _new_forward(self, key: tuple[int, ...], like: Tensor) -> _Forward | None:
        try:
            images = self.stream.now(
                lambda: like[:1].to(self.lanes.place).expand(key).clone(memory_format=torch.contiguous_format)
            )
            forward = partial(_asked, self.module, self.precision)  # not self: see _Forward
            return _Forward(forward, images, self.lanes, self.stream)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # a network may fail in any way; asked the plain way, it gets its typed error
            log.debug("screen: no static forward", exc_info=True)
            return None


__all__ = ["DeviceSkeleton"]
