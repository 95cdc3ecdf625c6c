"""The fuzz drivers work, find nothing in a short run, and would say so if they did."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from tests.security import cases, fuzz, fuzz_pickle, fuzz_safetensors, fuzz_zip, fuzzing
from uapfast.errors import InputError

DRIVERS = [fuzz_pickle, fuzz_zip, fuzz_safetensors]


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda d: d.__name__.rsplit(".", 1)[-1])
def test_a_short_run(driver: object) -> None:
    for blob in driver.SEEDS:  # type: ignore[attr-defined]
        driver.one(blob)  # type: ignore[attr-defined]
    assert fuzzing.plain(driver.one, driver.SEEDS, 2.0, seed=5) > 20  # type: ignore[attr-defined]


def test_a_finding_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_zip.ziparchive, "_check_growth", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        fuzzing.plain(fuzz_zip.one, fuzz_zip.SEEDS, 5.0)


def test_all_drivers_run_from_one_command_and_a_finding_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fuzz.run(1.0, tmp_path, jobs=3, plain=True) == dict.fromkeys(fuzz.DRIVERS, "no finding")
    assert "executions, no finding" in (tmp_path / "fuzz_zip" / "log").read_text()
    monkeypatch.setattr(fuzz, "DRIVERS", ("fuzz_none_such",))
    assert fuzz.run(1.0, tmp_path, plain=True) == {"fuzz_none_such": "exit code 1"}


def test_cases_say_what_they_found(tmp_path: Path) -> None:
    """An untyped error, a slow case, a message that is none, the network and a file of another name."""

    def untyped() -> str:
        raise KeyError("x")

    def unreadable() -> str:
        raise InputError("a", "b", "c", "\x1b[2J")

    def reaching() -> str:
        with socket.socket() as link:
            link.settimeout(0.01)
            link.connect_ex(("127.0.0.1", 9))
        with contextlib.suppress(OSError):
            open(cases.CANARY).close()
        return "answers"

    found = cases.run([untyped, unreadable, reaching], slow=0.0)
    assert found.ends == {"untyped KeyError": 1, "InputError": 1, "answers": 1}
    text = " ".join(found.findings)
    assert "KeyError" in text and "bad message" in text and text.count("took") == 3
    assert [said.split()[0] for said in found.outside] == ["socket.connect", "open"]
