"""What every command shares: exit codes, one-line errors, a clean stdout, progress. Needs no models."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import uapfast.cli.app as commands
from uapfast.cli import main, options, shell
from uapfast.cli.show import lines, verdict_lines
from uapfast.errors import InputError, PoolNote, PoolWarning, StorageError, UapfastError
from uapfast.types import EXIT_CODES, Decision, Verdict

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "generate": "--arch --weights --data --pool --out --eps --norm --uap --points --views --seed --device",
    "pool": "--arch --weights --data --out --recipe --twins --surrogates --epochs --jobs",
    "verify": "--arch --weights --json",
    "encode": "--arch --weights --out",
    "info": "--json",
    "inspect": "--json",
    "demo": "--out",
    "subspace": "--pool --data --out",
}


def run(*arguments: str, code: str = "from uapfast.cli import main; import sys; sys.exit(main())", **kw: Any):
    """The command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, text=True, stdin=subprocess.DEVNULL,
        **{"capture_output": True, **kw},
    )  # fmt: skip


def make_verdict(decision: Decision, **changed: Any) -> Verdict:
    kinds = ("", "_floor", "_exact")
    sides = [f"p_{side}{kind}" for side in ("candidate", "suspect", "joint") for kind in kinds]
    empty = [
        "p_value",
        "p_is_bound",
        *sides,
        "p_view",
        "similarity",
        "z",
        "z_pool",
        "rank",
        "agreement",
        "agreement_least",
    ]
    values: dict[str, Any] = dict.fromkeys([*empty, "output", "suspect_sha256"]) | {
        "decision": decision, "views_used": 2, "queries_used": 40, "alpha": 1e-3,
        "reasons": ("because",), "reference_sha256": "ab" * 32,
    }  # fmt: skip
    return Verdict(**{**values, **changed})


# -- help and usage ------------------------------------------------------------------------------
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_their_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in COMMANDS[command].split():
        assert option in shown.split() or f"{option}," in shown, option


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    from uapfast import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"uapfast {__version__}\n"
    assert main([]) == 2
    got = capsys.readouterr()
    assert got.out == "" and all(f"\n  {c} " in got.err for c in COMMANDS)
    assert "..." not in got.err.partition("Options:")[2]  # no sentence is cut off


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bogus"], "bogus"),
        (["verify"], "REF"),
        (["verify", "x.uapref", "--arch", "a"], "--weights"),
        (["generate", "--points", "many"], "--points"),
        (["generate", "--norm", "l7"], "--norm"),
        (["info", "x", "--no-such"], "--no-such"),
        (["verify", "x", "--arch", "a", "--weights", "b", "--alpha", "0.5"], "0.5"),
        (["verify", "x", "--arch", "a", "--weights", "b", "--alpha", "nan"], "nan"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    got = capsys.readouterr()
    assert got.out == ""
    assert told in got.err and got.err.count("\n") == 1 and got.err.startswith("error: ")


# -- exit codes ------------------------------------------------------------------------------------
REPEATED = [
    ("verify", "r --arch a --weights w --arch b", "--arch", 2),
    ("encode", "r --arch a --weights w --out o --out o", "--out", 2),
    ("info", "r --json --json", "--json", 2),
    ("generate", "--arch a --weights w --data d --pool p --out o --seed 1 --seed 2 --seed 3", "--seed", 3),
    ("pool", "--arch a --weights w --data d --out o --twins 3 --twins 8", "--twins", 2),
    ("screen", "r --out t --dir d --arch a --resume --no-resume", "--resume", 2),
    ("report", "t --out o --title a --title b", "--title", 2),
    ("subspace", "--arch a --weights w --data d --pool p --out o --eps=1 --eps=2", "--eps", 2),
    ("demo", "--out a --out b", "--out", 2),
]


@pytest.mark.parametrize(("command", "arguments", "option", "times"), REPEATED)
def test_an_option_that_is_given_again_is_an_error(
    command: str, arguments: str, option: str, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *arguments.split()]) == 2
    want = f"error: {command}: {option} must be given once, got it {times} times"
    assert capsys.readouterr().err.strip() == want


def test_an_option_that_collects_may_be_given_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "t", "--out", "/tmp/no-such/o", "--reference", "a", "--reference", "b"]) == 2
    assert "given once" not in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("decision", EXIT_CODES)
def test_exit_code_and_output_of_each_decision(
    decision: Decision, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = make_verdict(decision)
    monkeypatch.setattr("uapfast.reference.load", lambda path: None)
    monkeypatch.setattr("uapfast.suspects.resolve.open_suspect", lambda *a, **k: None)
    monkeypatch.setattr("uapfast.verbs.verify.verify", lambda *a, **k: verdict)
    code = main(["verify", "r", "--arch", "a", "--weights", "w", *(["--json"] if as_json else [])])
    assert (
        code == {"independent": 0, "piracy": 1, "inconclusive": 3, "invalid": 4, "unavailable": 5}[decision]
    )
    out = capsys.readouterr().out
    if as_json:
        assert json.loads(out) == verdict.to_dict() and out.count("\n") == 1
    else:
        assert out.startswith(f"{decision.upper()}: ") and "because" in out


def fail(monkeypatch: pytest.MonkeyPatch, exc: BaseException) -> None:
    def load(path: object) -> None:
        raise exc

    monkeypatch.setattr("uapfast.reference.load", load)


@pytest.mark.parametrize(
    ("exc", "code", "told"),
    [
        (
            InputError("load", "path", "a reference", "junk"),
            2,
            "error: load: path must be a reference, got junk",
        ),
        (StorageError("write: no space"), 2, "error: write: no space"),
        (
            RuntimeError("odd\nthing"),
            2,
            "internal error: RuntimeError: odd thing (--debug shows the traceback)",
        ),
        (PermissionError(13, "Permission denied", "x.bin"), 2, "error: Permission denied: x.bin"),
        (MemoryError(), 2, "internal error: MemoryError:  (--debug shows the traceback)"),
        (SystemExit(0), 2, "error: the program was asked to exit by code that it loaded (exit status 0)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_whatever_happens_is_no_decision(
    exc: BaseException, code: int, told: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fail(monkeypatch, exc)
    assert main(["info", "r"]) == code
    got = capsys.readouterr()
    assert (got.out, got.err.strip()) == ("", told.replace("  ", " "))


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(monkeypatch, UapfastError("deep inside"))
    assert main(["info", "r"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["info", "r", "--debug"]) == 2
    got = capsys.readouterr().err
    assert "Traceback" in got and got.endswith("error: deep inside\n")


def test_a_huge_value_makes_a_short_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(monkeypatch, InputError("load", "names", "short", "x" * 10_000_000))
    assert main(["info", "r"]) == 2
    got = capsys.readouterr().err
    assert len(got) < 1000 and got.startswith("error: load: names must be short, got xxx")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_stdout_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = run("--version", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device\n"


@pytest.mark.parametrize("asked", ["--version", "--help"])
def test_a_closed_pipe_is_no_success_and_no_message(asked: str) -> None:
    """Who closes it has seen enough; the library of the command line turns it into an exit of its own."""
    reading, writing = os.pipe()
    os.close(reading)
    done = run(asked, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "")


# -- stdout ----------------------------------------------------------------------------------------
def test_only_the_result_reaches_stdout() -> None:
    code = """
import os, sys
from uapfast.cli.shell import only_result_on_stdout
print("before")
with only_result_on_stdout() as out:
    print("printed by a factory")
    os.write(1, b"written by compiled code\\n")
    os.system("echo from a child process")
    print("RESULT", file=out, flush=True)
    print("after")
print("end")
"""
    done = run(code=code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["before", "RESULT", "end", ""]
    for line in ("printed by a factory", "written by compiled code", "from a child process", "after"):
        assert line in done.stderr


# -- text ------------------------------------------------------------------------------------------
@given(st.text(max_size=3000), st.integers(20, 700))
def test_one_line_is_one_short_printable_line(text: str, limit: int) -> None:
    line = shell.one_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=200))
def test_short_text_is_kept(text: str) -> None:
    assert shell.one_line(text) == text


def test_escape_sequences_do_not_reach_the_terminal() -> None:
    assert shell.one_line("a\x1b[31mb\x9b\u202ec") == "a\\x1b[31mb\\x9b\\u202ec"


def test_warnings_are_one_line_and_only_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(path: object) -> None:
        warnings.warn(PoolWarning("few\ntwins"), stacklevel=1)
        warnings.warn("of another package", stacklevel=1)
        raise UapfastError("end")

    monkeypatch.setattr("uapfast.reference.load", load)
    shown = warnings.showwarning
    main(["info", "r"])
    assert capsys.readouterr().err == "warning: few twins\nerror: end\n"
    assert warnings.showwarning is shown, "the caller's way to show warnings is put back"


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with shell.Reporter(every=3600) as report:
        for done in range(1, 101):
            report(done, 100, "train")
    assert stream.getvalue() == "[100/100] train\n"


# -- options ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"), [(None, None), ("0.5", (0.5,)), ("0.1, 0.2,3", (0.1, 0.2, 3.0)), ("1e-2", (0.01,))]
)
def test_numbers(text: str | None, value: tuple[float, ...] | None) -> None:
    assert options.numbers(text, "--mean") == value


@pytest.mark.parametrize("text", ["", "a", "0.1,", "nan", "0.1,inf"])
def test_bad_numbers_are_named(text: str) -> None:
    with pytest.raises(InputError, match="--mean") as caught:
        options.numbers(text, "--mean")
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", ""])
def test_bad_devices_are_named(name: str) -> None:
    with pytest.raises(InputError, match="--device") as caught:
        options.device(name)
    assert repr(name) in str(caught.value)


def test_a_verdict_for_people_says_what_is_extrapolated() -> None:
    verdict = make_verdict("piracy", p_value=1e-6, p_candidate=1e-6, p_candidate_floor=1 / 9, p_suspect=0.2,
                           p_suspect_floor=0.06, z=12.0, rank=1, similarity=0.5)  # fmt: skip
    text = "\n".join(verdict_lines(verdict.to_dict()))
    assert "1e-06 (below 0.111 extrapolated)" in text
    assert text.count("extrapolated") == 1


def test_enums_match_the_settings() -> None:
    from typing import get_args

    from uapfast import config

    for enum, literal in (
        (options.NormChoice, config.Norm),
        (options.UapChoice, config.UapMethod),
        (options.EncoderChoice, config.EncoderName),
        (options.SelectionChoice, config.Selection),
    ):
        assert tuple(e.value for e in enum) == get_args(literal)
    assert isinstance(commands.app, typer.Typer)


def test_sentences_are_shown_whole_and_each_on_its_line():
    """As ``info`` shows a reference's warnings and its UAPs."""
    long = "the pool " + "is small " * 60 + "and ends here"
    uap = [{"model": "victim", "method": "margin", "fooling_rate": 0.81234567, "norm": "linf", "passes": 20}]
    shown = lines(
        {"classes": 10, "warnings": [long, "a second one"], "uap": uap, "limits": [], "input": [1, 8]}
    )
    assert f"  - {long}" in shown and "  - a second one" in shown
    assert "  - model victim, method margin, fooling_rate 0.8123, norm linf, passes 20" in shown
    assert any(line.split() == ["input", "1,", "8"] for line in shown)
    hostile = lines({"warnings": ["a sentence\x1b[31m " + "x" * 10_000]})
    assert len(hostile[1]) < 2100 and "\x1b" not in hostile[1]


def test_help_says_what_a_suspect_may_be(capfd):
    assert main(["verify", "--help"]) == 0
    said = capfd.readouterr().out
    for part in (
        "uapfast inspect PATH",
        "suspect.onnx",
        "--arch net.py:make",
        "endpoint.toml",
        "--answers FILE",
    ):
        assert part in said
    assert "--mean 0 --std 1" in " ".join(said.split()) and "[[" not in said


def test_warnings_are_shown_once_and_what_nobody_can_act_on_is_counted(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = shell.show_warning(False)
        before = warnings.showwarning
        with pytest.raises(InputError), shell.notes_counted("v.uapref"):
            for text in ("more twins", "more twins", "another recipe"):
                warnings.warn(PoolWarning(text), stacklevel=1)
            for number in range(3):
                warnings.warn(PoolNote(f"weak model {number}"), stacklevel=1)
            raise InputError("x", "y", "z", "an error loses none of it")
        assert warnings.showwarning is before
    said = capfd.readouterr().err.splitlines()
    assert said[:2] == ["warning: more twins", "warning: another recipe"]
    assert said[2:] == ["3 more that need nothing of you: uapfast info v.uapref"]
