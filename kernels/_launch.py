"""Launching: the caller's stream and device, and a choice among a few shapes of launch that is made once.

Importing this module needs triton; a driver is needed only to launch, and neither under TRITON_INTERPRET=1.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import triton
from triton import knobs
from triton.runtime.errors import OutOfResources

# The interpreter runs the same kernels on CPU tensors, in numpy. Triton decides it when a kernel is
# decorated, so at import.
INTERPRETED = bool(knobs.runtime.interpret)


class Tuned:
    """A kernel with a few configurations of which the fastest is kept for each ``key``.

    Configurations differ in the shape of the launch alone: every element of a result is computed by the
    same operations in the same order under each of them, so the choice never changes a number.

    The first launch for a key times them, which waits for the device. While a stream is being captured,
    and under the interpreter, nothing is timed: the choice made before holds, or else the first one.

    Args:
        kernel: a ``triton.jit`` function.
        configs: what to choose from, the best guess first.
        options: further compile options of every launch.
    """

    def __init__(self, kernel: Any, configs: Sequence[triton.Config], **options: Any) -> None:
        self.kernel, self.configs, self.options = kernel, tuple(configs), options
        self._best: dict[Hashable, triton.Config] = {}
        self._lock = threading.Lock()

    def __call__(
        self, key: Hashable, grid: Callable[[dict[str, Any]], tuple[int, ...]], *args: Any, **meta: Any
    ) -> None:
        """Launch over ``grid`` (a function of the constants) on the current stream of the current device."""
        place = None if INTERPRETED else torch.cuda.current_device()
        config = self._best.get((place, key))
        if config is None:
            if INTERPRETED:  # the largest blocks: what numpy takes is the number of calls
                config = max(self.configs, key=lambda c: math.prod(c.kwargs.values()))
            elif torch.cuda.is_current_stream_capturing():
                config = self.configs[0]
            else:
                with self._lock:
                    config = self._best.get((place, key)) or self._fastest(grid, args, meta)
                    self._best[place, key] = config
        self.launch(config, grid, args, meta)

    def launch(
        self,
        config: triton.Config,
        grid: Callable[[dict[str, Any]], tuple[int, ...]],
        args: Sequence[Any],
        meta: dict[str, Any],
    ) -> None:
        """Launch under ``config``."""
        self.kernel[grid](*args, **meta, **config.all_kwargs(), **self.options)

    def _fastest(
        self,
        grid: Callable[[dict[str, Any]], tuple[int, ...]],
        args: Sequence[Any],
        meta: dict[str, Any],
    ) -> triton.Config:
        if len(self.configs) == 1:
            return self.configs[0]

        def milliseconds(config: triton.Config) -> float:
            try:
                return triton.testing.do_bench(
                    lambda: self.launch(config, grid, args, meta), warmup=3, rep=15, return_mode="median"
                )
            except OutOfResources:  # more shared memory than a small device has
                return math.inf

        return min(self.configs, key=milliseconds)


def generation() -> int:
    """Major compute capability of the current device; where there is none, Hopper's."""
    return torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 9


def size_class(count: int) -> int:
    """Sizes that share a choice: those of equal power of four."""
    return (max(count, 1).bit_length() + 1) // 2
