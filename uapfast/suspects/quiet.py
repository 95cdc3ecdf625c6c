"""Silence of a library that prints as it loads, in a process whose threads load at the same time."""

from __future__ import annotations

import importlib
import threading
from types import TracebackType


class Quiet:
    """Without the bar and the log of transformers, which say of weights what is checked here.

    Both belong to the process. The first that enters silences them and the last that leaves puts back what
    was found: one alone would end the others' silence, or leave theirs behind.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._within = 0
        self._found: tuple[int, bool] = (0, False)

    def __enter__(self) -> None:
        """Be silent; ``ImportError`` where there is no such module."""
        logging = importlib.import_module(self._module)
        with self._lock:
            if self._within == 0:
                self._found = logging.get_verbosity(), logging.is_progress_bar_enabled()
                logging.set_verbosity(logging.CRITICAL)
                logging.disable_progress_bar()
            self._within += 1

    def __exit__(self, kind: type[BaseException] | None, exc: object, trace: TracebackType | None) -> None:
        """Put back what was found, if nobody else is within."""
        logging = importlib.import_module(self._module)
        with self._lock:
            self._within -= 1
            if self._within == 0:
                level, bar = self._found
                logging.set_verbosity(level)
                if bar:
                    logging.enable_progress_bar()


QUIET = Quiet("transformers.utils.logging")


__all__ = ["QUIET", "Quiet"]
