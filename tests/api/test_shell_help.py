"""What ``uapfast --help`` lists, and what a shell can complete."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command

import uapfast.cli.app as commands
from tests.api.test_shell import run
from uapfast.cli import main


def test_a_shell_completes_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for typed, expected in (("uapfast ver", "verify"), ("uapfast verify --stat", "--statement")):
        words = {
            "COMP_WORDS": typed,
            "COMP_CWORD": str(typed.count(" ")),
            "_UAPFAST_COMPLETE": "complete_bash",
        }
        done = run(code=f"import os, sys; os.environ.update({words}); import uapfast.cli; uapfast.cli.main()")
        assert (done.returncode, done.stdout.split(), done.stderr) == (0, [expected], "")
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    shown = run("--show-completion", "bash")
    assert shown.returncode == 0 and "complete " in shown.stdout and shown.stderr == ""
    assert run("--show-completion", "no-shell").returncode == 2


def test_help_lists_every_command_once_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    sections = capsys.readouterr().out.partition("Options:")[2]
    shown = re.findall(r"^  ([a-z]+)  +\S", sections, re.MULTILINE)
    assert sorted(shown) == sorted(get_command(commands.app).commands)  # type: ignore[attr-defined]
    order = [shown.index(c) for c in ("demo", "plan", "pool", "generate", "verify", "screen", "audit")]
    assert order == sorted(order)
