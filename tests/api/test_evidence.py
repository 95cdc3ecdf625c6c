"""Commitment, statement and audit as two parties use them: on files, the audit in its own process."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.evidence_case import only_failure
from tests.api.owner import MLP
from uapfast.cli import main
from uapfast.evidence.audit import Files, audit
from uapfast.evidence.canonical import dumps
from uapfast.evidence.commitment import read_commitment, salted
from uapfast.evidence.envelope import bundled, sign
from uapfast.evidence.keys import load_private
from uapfast.evidence.statement import read_statement

pytestmark = [pytest.mark.needs("cryptography", "rfc8785", "rfc3161-client", "openssl", "httpx2")]
ROOT = Path(__file__).parents[2]


def test_everything_holds_in_a_process_of_its_own(case, tmp_path):
    f = case.files
    command = [
        sys.executable, "-m", "tests.api.run_cli", "audit", str(f.statement), "--reference", str(f.reference),
        "--record", str(f.record), "--commitment", str(f.commitment), "--trust", str(case.folder / "key.pub"),
        "--tsa-root", str(case.authority.root),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "ALL HOLDS: piracy"
    assert all(line.startswith(("ok ", "note examination: ")) for line in lines[:-1])
    for what in (
        "statement:",
        "key:",
        "time stamp of",
        "reference:",
        "record:",
        "commitment:",
        "salt:",
        "verdict:",
    ):
        assert any(line.startswith(f"ok {what}") for line in lines), what


def test_the_files_are_the_standard_ones(case):
    for path, kind in ((case.files.statement, "verdict"), (case.files.commitment, "commitment")):
        data = Path(path).read_bytes()
        found = json.loads(data)
        assert dumps(found) == data
        assert found["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
        assert set(found["verificationMaterial"]) == {"publicKey", "timestampVerificationData"}
        assert found["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"
        made = json.loads(base64.b64decode(found["dsseEnvelope"]["payload"]))
        assert made["_type"] == "https://in-toto.io/Statement/v1"
        assert made["predicateType"] == f"urn:uapfast:{kind}:v1"
        assert "." not in json.dumps([v for v in made["predicate"].values() if isinstance(v, float)])


def test_the_committed_hash_is_that_of_sha256sum(case):
    shell = f"cat {case.files.salt} {case.files.reference} | sha256sum"
    found = subprocess.run(shell, shell=True, check=True, capture_output=True, text=True).stdout.split()[0]
    assert found == read_commitment(case.files.commitment).value
    assert stat.S_IMODE(os.stat(case.files.salt).st_mode) == 0o600
    assert b"piracy" not in Path(case.files.commitment).read_bytes()


def test_the_statement_says_what_the_verdict_said(case, capsys):
    said = read_statement(case.files.statement).predicate
    assert main(["verify", str(case.world.ref), "--answers", str(case.files.record), "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert said["decision"] == verdict["decision"] == "piracy" and said["level"] == "0.001"
    for side in ("candidate", "suspect", "joint"):
        for name, field in (("p", ""), ("floor", "_floor"), ("exact", "_exact")):
            assert float(said["pValues"][side][name]) == verdict[f"p_{side}{field}"]
    assert float(said["pValues"]["value"]) == verdict["p_value"] and said["pValues"]["isBound"] is True
    assert said["reasons"][: len(verdict["reasons"])] == verdict["reasons"]
    assert said["queries"] == {"asked": verdict["queries_used"], "views": verdict["views_used"]}
    assert said["commitment"]["began"] == "after" and said["record"]["answers"] == verdict["queries_used"]
    subject = read_statement(case.files.statement).statement["subject"][0]
    assert subject["digest"]["sha256"] == salted(b"", case.world.files["copy"])  # of the file, without a salt
    assert subject["digest"]["tensorsSha256"] == verdict["suspect_sha256"]


def test_an_examination_begun_before_its_commitment_says_so(case, tmp_path, capsys):
    """Answers that were there already: a record from before, and one whose times nobody knows."""
    late = tmp_path / "late.json"
    assert main(["commit", str(case.world.ref), "--key", str(case.key), "--out", str(late)]) == 0
    asked = ["verify", str(case.world.ref), "--answers", str(case.files.record), "--commitment", str(late)]
    asked += ["--statement", str(tmp_path / "s.json"), "--key", str(case.key)]
    capsys.readouterr()
    assert main([*asked, "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["settings"]["commitment"]["began"] == "before"
    assert verdict["reasons"][-1].startswith("the examination began before the reference was committed to")
    files = Files(tmp_path / "s.json", case.world.ref, case.files.record, late, any_key=True)
    found = audit(files)
    assert found.holds, [str(c) for c in found.failed]
    notes = {c.what: c.said for c in found.checks if c.state == "note"}
    assert "before the commitment" in notes["examination"] and "own word" in notes["time of the statement"]
    # it may not be hidden
    key, made = load_private(case.key), read_statement(files.statement).statement
    made["predicate"]["commitment"]["began"] = "after"
    Path(files.statement).write_bytes(bundled(*sign(made, key), key, None))
    assert not audit(files).holds


def test_a_statement_needs_no_commitment_and_no_record(case, tmp_path, capsys):
    asked = ["verify", str(case.world.ref), str(case.world.files["honest"]), "--arch", MLP]
    made = tmp_path / "s.json"
    assert main([*asked, "--statement", str(made), "--signing-key", str(case.key)]) == 0
    said = read_statement(made).predicate
    assert said["record"] is None and said["commitment"] is None and said["decision"] == "independent"
    found = audit(Files(made, case.world.ref, case.files.record))
    name, error = only_failure(found)
    assert name == "record" and "without one" in str(error)
    assert (
        main(["audit", str(made), "--reference", str(case.world.ref), "--record", str(case.files.record)])
        == 1
    )
    assert "DOES NOT HOLD: record" in capsys.readouterr().out
    assert main([*asked, "--statement", str(made), "--key", "no-such-weights"]) == 2  # the name of weights
