"""A library's log and bar are silent while any thread loads, and as they were afterwards."""

from __future__ import annotations

import sys
import threading
from types import ModuleType

import pytest

from uapfast.suspects.quiet import Quiet


class Library(ModuleType):
    """The part of a library that prints, in the words of transformers."""

    CRITICAL = 50

    def __init__(self, bar: bool) -> None:
        super().__init__("loud")
        self.level, self.bar = 30, bar

    def get_verbosity(self) -> int:
        return self.level

    def set_verbosity(self, level: int) -> None:
        self.level = level

    def is_progress_bar_enabled(self) -> bool:
        return self.bar

    def disable_progress_bar(self) -> None:
        self.bar = False

    def enable_progress_bar(self) -> None:
        self.bar = True


@pytest.mark.parametrize("bar", [True, False])
def test_who_leaves_first_does_not_end_the_silence_of_another(
    monkeypatch: pytest.MonkeyPatch, bar: bool
) -> None:
    library = Library(bar)
    monkeypatch.setitem(sys.modules, "loud", library)
    quiet, inside, leave = Quiet("loud"), threading.Event(), threading.Event()

    def other() -> None:
        with quiet:
            inside.set()
            leave.wait(30)

    with quiet:
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(30)
    assert (library.level, library.bar) == (library.CRITICAL, False)  # the other is still within
    leave.set()
    thread.join(30)
    assert (library.level, library.bar) == (30, bar)


def test_an_error_within_ends_the_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(True)
    monkeypatch.setitem(sys.modules, "loud", library)
    with pytest.raises(ZeroDivisionError), Quiet("loud"):
        raise ZeroDivisionError
    assert (library.level, library.bar) == (30, True)
