"""Files where evidence is read and written: pipes, folders, devices, and results that are there already."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import uapfast
from tests.api.evidence_case import Case
from tests.api.owner import MLP
from uapfast.cli import main
from uapfast.errors import StorageError
from uapfast.files import atomic_path, open_plain
from uapfast.screening.table.store import Store
from uapfast.suspects.record_reader import is_record

pytestmark = [pytest.mark.needs("cryptography", "rfc8785", "rfc3161-client", "openssl", "httpx2")]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """A pipe that is waited for ends the test."""

    def late(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, str]:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {n: str(tmp_path / n) for n in ("pipe", "folder", "loop", "none")} | {"device": "/dev/zero"}


KINDS = ("pipe", "folder", "loop", "none", "device")
# FILE is the odd one
READ: dict[str, list[str]] = {
    "statement": ["audit", "FILE", "--reference", "REF", "--record", "RECORD"],
    "reference of an audit": ["audit", "STATEMENT", "--reference", "FILE", "--record", "RECORD"],
    "record": ["audit", "STATEMENT", "--reference", "REF", "--record", "FILE"],
    "commitment": ["audit", "STATEMENT", "--reference", "REF", "--record", "RECORD", "--commitment", "FILE"],
    "salt": [
        *("audit", "STATEMENT", "--reference", "REF", "--record", "RECORD", "--commitment", "COMMITMENT"),
        *("--salt", "FILE"),
    ],
    "trust": ["audit", "STATEMENT", "--reference", "REF", "--record", "RECORD", "--trust", "FILE"],
    "root": ["audit", "STATEMENT", "--reference", "REF", "--record", "RECORD", "--tsa-root", "FILE"],
    "reference": ["info", "FILE"],
    "committed": ["commit", "FILE", "--key", "KEY", "--out", "OUT"],
    "key": ["commit", "REF", "--key", "FILE", "--out", "OUT"],
    "answers": ["verify", "REF", "--answers", "FILE"],
    "class names": ["verify", "REF", "--answers", "RECORD.csv", "--class-names", "FILE"],
    "suspect": ["verify", "REF", "FILE", "--arch", MLP],
    "signing key": ["verify", "REF", "--answers", "RECORD", "--statement", "OUT", "--key", "FILE"],
    "table": ["report", "FILE", "--out", "OUT"],
    "stated": ["report", "FILE", "--bom", "OUT"],
    "manifest": ["screen", "REF", "--manifest", "FILE", "--out", "OUT"],
}


@pytest.mark.parametrize("what", READ)
def test_what_is_no_plain_file_is_named_and_not_waited_for(
    case: Case, odd: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    f = case.files
    names = {"REF": f.reference, "RECORD": f.record, "STATEMENT": f.statement, "COMMITMENT": f.commitment}
    names |= {"KEY": case.key, "OUT": tmp_path / "out", "RECORD.csv": tmp_path / "a.csv"}
    (tmp_path / "a.csv").write_text("id,label\n1,a\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    for kind in KINDS:
        arguments = [odd[kind] if a == "FILE" else str(names.get(a, a)) for a in READ[what]]
        with within(20):
            code = main(arguments)
        said = capsys.readouterr()
        audited = arguments[0] == "audit" and code == 1 and "DOES NOT HOLD" in said.out
        typed = code == 2 and said.err.startswith("error: ") and " must be " in said.err
        assert audited or typed, (kind, code, said)
        assert "Traceback" not in said.err
    left = [p.name for p in tmp_path.iterdir() if not p.name.startswith("out.store")]  # screens go on from it
    assert sorted(left) == before


def test_a_plain_file_is_opened_and_nothing_else(odd: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    for name in ("x", "link"):
        with open_plain(tmp_path / name) as stream:
            assert stream.read() == b"abc"
    for kind in KINDS:
        with within(5), pytest.raises(OSError):
            open_plain(odd[kind])
    with pytest.raises(OSError, match="null"):
        open_plain("a\0b")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_no_result_takes_the_place_of_a_pipe_or_a_device(odd: dict[str, str], kind: str) -> None:
    """As root a file would be put in the place of /dev/zero."""
    with pytest.raises(StorageError, match="path must be"), atomic_path(odd[kind]) as temporary:
        temporary.write_bytes(b"x")
    assert not Path(odd[kind]).is_file()


# -- results that are there ------------------------------------------------------------------------
def test_a_reference_is_not_replaced_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    """Somebody may have committed to it."""
    shutil.copy(case.world.ref, tmp_path / "r.uapref")
    before = (tmp_path / "r.uapref").read_bytes()
    asked = ["generate", "--arch", MLP, "--weights", "none", "--data", "none", "--pool", "none"]
    asked += ["--out", str(tmp_path / "r.uapref")]
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert "reference must be a new file (--overwrite replaces it), got " in said
    assert main([*asked, "--overwrite"]) == 2  # then it goes on, to what is not there
    assert "--overwrite" not in capsys.readouterr().err
    assert (tmp_path / "r.uapref").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.uapref"]


def test_records_and_statements_are_not_replaced_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    asked = ["verify", str(case.world.ref), str(case.world.files["copy"]), "--arch", MLP]
    record, statement = tmp_path / "r.jsonl", tmp_path / "s.json"
    asked += ["--record", str(record), "--statement", str(statement), "--key", str(case.key)]
    assert main(asked) == 1
    before = {p: p.read_bytes() for p in (record, statement)}
    assert main(asked) == 2
    assert "statement must be a new file (--overwrite replaces it)" in capsys.readouterr().err
    statement.unlink()
    assert main(asked) == 2
    assert "record must be a new file (--overwrite replaces it)" in capsys.readouterr().err
    assert record.read_bytes() == before[record] and not statement.exists()
    assert main([*asked, "--overwrite"]) == 1
    assert record.read_bytes() != before[record]  # times
    # not even then the place of what it rests on
    shutil.copy(case.world.ref, tmp_path / "v.uapref")
    for place in ("v.uapref", "r.jsonl"):
        bad = [str(tmp_path / place) if a == str(statement) else a for a in asked]
        bad[1] = str(tmp_path / "v.uapref")
        assert main([*bad, "--overwrite"]) == 2
        assert "must be of the statement alone" in capsys.readouterr().err or place == "r.jsonl"


def test_a_screen_replaces_no_records_but_goes_on(tmp_path: Path, case: Case) -> None:
    folder, records, out = tmp_path / "suspects", tmp_path / "records", tmp_path / "t.parquet"
    folder.mkdir()
    for name in ("copy", "honest"):
        shutil.copy(case.world.files[name], folder / f"{name}.safetensors")

    def screened(**how: object) -> None:
        uapfast.screen(
            case.world.ref,
            folder,
            arch=MLP,
            out=out,
            record=records,
            **how,  # type: ignore[arg-type]
        ).finish()

    screened()
    before = {p: p.read_bytes() for p in records.iterdir()}
    assert len(before) == 2 and all(map(is_record, before))
    screened()  # resumed: nothing is left to be asked
    assert {p: p.read_bytes() for p in records.iterdir()} == before
    # stopped before the rows were committed: the records are there, and are written once more
    (tmp_path / "t.parquet").unlink()
    (tmp_path / "t.parquet.store").unlink()
    Store(tmp_path / "t.parquet.store", {}).close()
    screened()
    assert {p.name for p in records.iterdir()} == {p.name for p in before}
    before = {p: p.read_bytes() for p in records.iterdir()}
    for how in ({"resume": False}, {"store": tmp_path / "another"}):
        with pytest.raises(StorageError, match="record must be a folder without records, or that of the run"):
            screened(**how)
    assert {p: p.read_bytes() for p in records.iterdir()} == before
    screened(resume=False, alpha=0.01, overwrite=True)  # other settings, other records
    assert all(p.read_bytes() == data for p, data in before.items())
    assert len(list(records.iterdir())) == 4
