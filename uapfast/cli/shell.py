"""What a command says: one-line errors and warnings, progress, the result. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from uapfast.errors import PoolNote, UapfastWarning

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

ERROR, INTERRUPTED = 2, 130
MESSAGE_LIMIT = 600


def one_line(text: object, limit: int = MESSAGE_LIMIT) -> str:
    """``text`` as one printable line of at most ``limit`` characters; the middle gives way.

    Control characters are shown escaped, so that a hostile file name cannot drive the terminal.
    """
    raw = str(text)
    if len(raw) > 8 * limit:  # do not walk megabytes to show some hundred characters
        raw = raw[: 4 * limit] + raw[-4 * limit :]
    flat = " ".join(raw.split())
    flat = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in flat)
    if len(flat) <= limit:
        return flat
    head = (limit - 5) * 2 // 3
    return f"{flat[:head]} ... {flat[-(limit - 5 - head) :]}"


def say(text: object) -> None:
    """One line on stderr; a closed stderr is no reason to fail."""
    with contextlib.suppress(OSError, ValueError):
        print(one_line(text), file=sys.stderr, flush=True)


def show_warning(debug: bool) -> Callable[..., None]:
    """For ``warnings.showwarning``: ours are a line each, others are shown with ``--debug``."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if debug or issubclass(category, UapfastWarning):
            say(f"warning: {message}")

    return show


@contextlib.contextmanager
def notes_counted(path: str) -> Iterator[None]:
    """Show each warning once; those that nobody can act on (``PoolNote``) are counted only.

    Args:
        path: of the reference that keeps them.
    """
    show, seen, notes = warnings.showwarning, set[str](), 0

    def counted(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        nonlocal notes
        if str(message) in seen:
            return
        seen.add(str(message))
        if issubclass(category, PoolNote):
            notes += 1
        else:
            show(message, category, *rest, **named)

    warnings.showwarning = counted
    try:
        yield
    finally:
        warnings.showwarning = show
        if notes:
            say(f"{notes} more that need nothing of you: uapfast info {path}")


class _Log(logging.Handler):
    """Records as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")


@contextlib.contextmanager
def logged(debug: bool) -> Iterator[None]:
    """Show our log while a command runs with ``--debug``."""
    ours, handler = logging.getLogger("uapfast"), _Log()
    before = ours.level
    if debug:
        ours.addHandler(handler)
        ours.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before)


@contextlib.contextmanager
def only_result_on_stdout() -> Iterator[TextIO]:
    """Send everything printed meanwhile to stderr, and hand out the real stdout for the result.

    A user's factory file and the packages that it imports may print; the caller of ``--json`` must
    not have to parse that. Works on the file descriptor too, for what compiled code prints.
    """
    real = sys.stdout
    saved = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        real.flush()
        if os.path.samestat(os.fstat(real.fileno()), os.fstat(1)):  # the same file, by whatever number
            saved = os.dup(1)
            os.dup2(2, 1)
    result = os.fdopen(os.dup(saved), "w", encoding="utf-8") if saved is not None else real
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield result
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
            result.close()


class Reporter:
    """Progress on stderr: a bar on a terminal, a line now and then elsewhere.

    Args:
        every: seconds between lines.
        rate: say how many a second, and the time left.
        brief: say nothing of what ends before the first line is due.
    """

    def __init__(self, every: float = 10.0, *, rate: bool = False, brief: bool = False) -> None:
        self._silent = brief
        self._every, self._last, self._rate = every, time.monotonic(), rate
        self._first: tuple[float, int] | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Reporter:
        """Start the bar if stderr is a terminal."""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            ]
            if self._rate:
                columns += [TextColumn("{task.fields[pace]}")]
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        """``done`` of ``total`` steps of ``what`` are finished."""
        pace = self._pace(done, total)
        if self._bar is not None:
            from rich.markup import escape

            if self._task is None:
                self._task = self._bar.add_task("", total=None, pace="")
            shown = escape(one_line(what, 60))
            self._bar.update(self._task, completed=done, total=total, description=shown, pace=pace)
            return
        now = time.monotonic()
        due = now - self._last >= self._every
        if due or (done >= total and not self._silent):
            self._last, self._silent = now, False
            say(f"[{done}/{total}] {what} {pace}".rstrip())

    def _pace(self, done: int, total: int) -> str:
        """Rate of this run (what an earlier one did does not count) and time left."""
        if not self._rate:
            return ""
        if self._first is None:
            self._first = time.monotonic(), done
        start, before = self._first
        if done <= before:
            return ""
        rate = (done - before) / max(time.monotonic() - start, 1e-9)
        left = int((total - done) / rate)
        pace = f"{rate:.1f}/s, " if rate >= 0.1 else ""
        return f"{pace}{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
