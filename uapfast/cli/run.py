"""One command from its arguments to its exit code.

The only exit codes are 0, 1, 3, 4, 5 (what ``verify`` decides), 2 for any error, and 130 (interrupted).
Imports nothing heavy, so that ``uapfast --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from uapfast.cli.shell import ERROR, INTERRUPTED, MESSAGE_LIMIT, logged, one_line, say, show_warning
from uapfast.errors import UapfastError
from uapfast.threads import abandoned_threads


def _run(argv: Sequence[str], debug: bool) -> int:
    from uapfast.cli.app import app

    with warnings.catch_warnings(), logged(debug):
        warnings.showwarning = show_warning(debug)
        code = app(args=list(argv), prog_name="uapfast", standalone_mode=False)
    sys.stdout.flush()
    if code == INTERRUPTED:  # typer's own handling of Ctrl-C
        say("interrupted")
    return code if isinstance(code, int) else 0


def _message(exc: BaseException) -> str:
    """What the user is told about ``exc``."""
    usage: Any = getattr(exc, "format_message", None)  # typer's (click's) usage errors
    if usage is not None:
        context = getattr(exc, "ctx", None)
        path = context.command_path if context is not None else "uapfast"
        return f"error: {one_line(usage())} (see {path} --help)"
    if isinstance(exc, UapfastError):
        return f"error: {exc}"
    if isinstance(exc, SystemExit):
        return f"error: the program was asked to exit by code that it loaded (exit status {exc.code!r})"
    if isinstance(exc, OSError) and exc.strerror:
        name = f": {exc.filename}" if exc.filename else ""
        return f"error: {exc.strerror}{name}"
    detail = one_line(exc, MESSAGE_LIMIT - 120)
    return f"internal error: {type(exc).__name__}: {detail} (--debug shows the traceback)"


def _discard_stdout() -> None:
    """Let the interpreter's last flush succeed (a closed pipe or a full disk would change the exit code)."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (the console script exits with it)."""
    code = _main(list(sys.argv[1:] if argv is None else argv))
    if argv is None and abandoned_threads():
        # the interpreter's own end is not safe beside a thread inside a suspect
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    return code


def _completes(arguments: Sequence[str]) -> bool:
    """Whether a shell asks what could be typed next, or for the script that asks so; no command runs then."""
    return "_UAPFAST_COMPLETE" in os.environ or arguments[:1] in (
        ["--install-completion"],
        ["--show-completion"],
    )


def _main(arguments: list[str]) -> int:
    if _completes(arguments):
        from uapfast.cli.app import app

        try:
            app(args=arguments, prog_name="uapfast")
        except SystemExit as exc:
            return ERROR if exc.code else 0  # 1 would read as a decision
    debug = "--debug" in arguments
    try:
        return _run(arguments, debug)
    except BaseException as exc:  # whatever it was, the exit code must not read as a decision
        if debug:
            import traceback

            traceback.print_exc()
        if isinstance(exc, KeyboardInterrupt) or type(exc).__name__ == "Abort":
            say("interrupted")
            return INTERRUPTED
        if isinstance(exc, SystemExit) and isinstance(exc.__context__, BrokenPipeError):
            pass  # whoever read our output has seen enough of it
        elif type(exc).__name__ == "NoArgsIsHelpError":  # plain ``uapfast``
            print(exc.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
        else:
            say(_message(exc))
        _discard_stdout()
        return ERROR


__all__ = ["main"]
