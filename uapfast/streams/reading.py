"""Work that no graph can hold, found out before one is begun."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class CannotCapture(Exception):
    """Work that cannot become a graph here; it runs as it is instead."""


class NoReading(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where work reads on the host what ``place`` computes, or copies from there.

    A capture that fails leaves traces in torch's allocator; this finds out before one is begun.
    """

    reading = frozenset(
        "_local_scalar_dense item equal nonzero masked_select _unique2 bincount repeat_interleave".split()
    )

    def __init__(self, place: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = place.type

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``, unless it is one of those that wait for their result."""
        name = func.overloadpacket.__name__
        mine = any(isinstance(a, Tensor) and a.device.type == self.kind for a in args)
        if mine and name in self.reading:
            raise CannotCapture(f"it calls {name}, which waits for the device")
        out = func(*args, **(kwargs or {}))
        ends = {"_to_copy": (args[0], out), "copy_": args[:2]}.get(name)
        if ends is not None and ends[0].device.type != ends[1].device.type:
            raise CannotCapture(f"it copies between {ends[0].device} and {ends[1].device}")
        return out


__all__ = ["CannotCapture", "NoReading"]
