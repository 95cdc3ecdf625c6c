"""Building a network of a library by what an untrusted file says: without memory first, within bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry

from uapfast.errors import ModelError
from uapfast.safeload import Limits

MOST_BYTES = Limits().tensor_bytes  # of one network; no larger weights file is read
MOST_TENSORS = Limits().tensors
MOST_MODULES = 30_000  # the largest image classifiers have some thousands
SECONDS = 60.0


class BuildBounds:
    """While it is entered, building more than the bounds in this thread raises ``ModelError``.

    Args:
        most: bytes of parameters and buffers, each counted as often as it is registered.
        tensors: how many of these.
    """

    def __init__(self, most: int = MOST_BYTES, tensors: int = MOST_TENSORS) -> None:
        self.most, self.tensors = most, tensors
        self.size = self.held = self.count = 0
        self.refusal: ModelError | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> BuildBounds:
        self._thread, self._end = threading.get_ident(), time.monotonic() + SECONDS
        self._handles = [
            registry.register_module_parameter_registration_hook(self._tensor),
            registry.register_module_buffer_registration_hook(self._tensor),
            registry.register_module_module_registration_hook(self._module),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        if self.refusal is not None and error is not self.refusal:
            raise self.refusal from error  # the library caught it

    def _tensor(self, _: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is not None and threading.get_ident() == self._thread:
            self.size += tensor.numel() * tensor.element_size()
            self.held += 1
            self._check()

    def _module(self, _: nn.Module, name: str, part: nn.Module | None) -> None:
        if threading.get_ident() == self._thread:
            self.count += 1
            self._check()

    def _check(self) -> None:
        for rule, most, got in (
            (f"a network of at most {self.most} bytes", self.most, self.size),
            (f"a network of at most {self.tensors} tensors", self.tensors, self.held),
            (f"a network of at most {MOST_MODULES} modules", MOST_MODULES, self.count),
            (f"a network that is built within {SECONDS:g} s", self._end, time.monotonic()),
        ):
            if got > most:
                self.refusal = ModelError("load", "arch", rule, "more")
                raise self.refusal


def rehearse(
    build: Callable[[], nn.Module], most: int = MOST_BYTES, tensors: int = MOST_TENSORS
) -> nn.Module:
    """Build a network on the meta device, so that its weights take no memory.

    Args:
        build: makes the network.
        most: bytes of its weights and buffers.
        tensors: how many these are.

    Returns:
        The network without weights.

    Raises:
        ModelError: more bytes, tensors or modules than that, or too slow.
        Exception: whatever ``build`` raises.
    """
    with BuildBounds(most, tensors), torch.device("meta"):
        return build()


__all__ = ["MOST_BYTES", "BuildBounds", "rehearse"]
