"""Every hostile file ends in a typed error or in tensors, in bounded time and memory; no code runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.security import corpus
from tests.security.corpus import CASES, GOOD, MARKER, attempt, build

ROOT = Path(__file__).resolve().parents[2]
SECONDS, MIB = 10.0, 2048
TYPED = {"UnsafeFileError", "CorruptFileError", "TooLargeError", "UnsupportedFileError"}
# What may well be read: harmless content under a name that looks like more, values that are not judged here.
READABLE = {
    "frame of 2^63 bytes",
    "safetensors: NaN weights",
    "safetensors: a name that climbs",
    "a link to a good file",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All files read in one fresh process: a crash of it would be a failure of every test here."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.corpus", str(tmp_path_factory.mktemp("corpus"))],
        cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True, timeout=1500,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1600)]


def test_no_code_ran_and_memory_was_bounded(outcomes: dict[str, Any]) -> None:
    assert len(CASES) > 200 and outcomes["files"].keys() == CASES.keys()
    assert outcomes["ran"] is False
    assert max(outcomes["peak_mib"]) < MIB, outcomes["peak_mib"]


@pytest.mark.parametrize("name", CASES)
def test_the_outcome_is_typed(outcomes: dict[str, Any], name: str) -> None:
    outcome, message, seconds = outcomes["files"][name]
    assert seconds < SECONDS
    if name in READABLE:
        assert outcome == "read"
        return
    assert outcome in TYPED, f"{name}: {outcome}"
    assert message.startswith("load: weights must be ") and message.isprintable() and len(message) < 1000
    assert "does not understand" not in message, "no check foresaw this form"
    if name.startswith("call "):
        assert outcome == "UnsafeFileError" and name.removeprefix("call ") in message


def test_what_was_cut_is_whole_before(tmp_path: Path) -> None:
    for kind, blob in GOOD.items():
        (tmp_path / "w.pt").write_bytes(blob)
        assert attempt(tmp_path / "w.pt")[0] == "read", kind


@pytest.mark.parametrize(
    "name", ["call posix.system", "call builtins.exec", "call subprocess.getoutput", "STACK_GLOBAL", "INST"]
)
def test_the_payloads_do_run_where_pickle_reads_them(tmp_path: Path, name: str) -> None:
    path = build(name, tmp_path)
    code = "import pickle, sys, zipfile; pickle.loads(zipfile.ZipFile(sys.argv[1]).read('archive/data.pkl'))"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert (tmp_path / MARKER).exists()
    (tmp_path / MARKER).unlink()
    assert attempt(path)[0] == "UnsafeFileError" and not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    "name",
    ["n" * 250, "n" * 300, "n/" * 3000 + "n", "a\nb\x1b[2J\x07", "nul\0", "\udcff", "a b 'c\"; rm"],
    ids=repr,
)
def test_names_of_files_that_are_huge_or_odd(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.pt"
    try:
        path.write_bytes(GOOD["zip"])
        there = True
    except (OSError, ValueError):
        there = False
    outcome, message, seconds = attempt(path)
    assert seconds < SECONDS and outcome == ("read" if there else "CorruptFileError")
    if there:
        path.write_bytes(GOOD["zip"][:-5])
        outcome, message, _ = attempt(path)
    assert outcome == "CorruptFileError" and message.isprintable() and len(message) < 1000


def test_the_corpus_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("records that overlap", "call posix.system", "safetensors: hole"):
        first = build(name, tmp_path).read_bytes()
        assert first == build(name, tmp_path).read_bytes() and corpus.CASES[name] is CASES[name]
