"""Commitment, statement and audit as two parties use them: on files, the audit in its own process."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import uapfast
from tests.api.evidence_case import Case, only_failure, resigned
from tests.api.evidence_world import MLP
from tests.api.tsa import Authority
from uapfast.cli import main
from uapfast.errors import (
    EvidenceError,
    InputError,
    RecordError,
    ReferenceFileError,
    SignatureError,
    StorageError,
    TimeStampError,
)
from uapfast.evidence import commitment, statement, timestamp
from uapfast.evidence.audit import Files, audit
from uapfast.evidence.canonical import dumps
from uapfast.evidence.commitment import commit, read_commitment, salted
from uapfast.evidence.compare import alike
from uapfast.evidence.dossier import Dossier, Wanted
from uapfast.evidence.envelope import bundled, sign
from uapfast.evidence.keys import load_private, load_public
from uapfast.evidence.statement import read_statement
from uapfast.evidence.timestamp import load_certificates
from uapfast.verbs.queries import numbered
from uapfast.verbs.replay import verify_record

pytestmark = [pytest.mark.needs("cryptography", "rfc8785", "rfc3161-client", "openssl", "httpx2")]
ROOT = Path(__file__).parents[2]


# -- it holds --------------------------------------------------------------------------------------
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


# -- it does not -----------------------------------------------------------------------------------
SPOILT = ("statement", "reference", "record", "commitment", "salt")


@pytest.mark.parametrize("what", SPOILT)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte_in_any_file_is_found_and_named(case, tmp_path, what, data):
    files = case.copied(tmp_path)
    path = Path(getattr(files, what))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != whole[place]))
    path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    name, error = only_failure(audit(files))
    assert name == what and path.name in str(error)
    assert isinstance(error, EvidenceError | ReferenceFileError)


@pytest.mark.parametrize("what", SPOILT)
def test_a_byte_more_or_less_is_found_and_named(case, tmp_path, what):
    files = case.copied(tmp_path)
    path = Path(getattr(files, what))
    whole = path.read_bytes()
    for changed in (whole + b"\n", whole[:-1], b"", whole[: len(whole) // 2], whole * 2):
        path.write_bytes(changed)
        assert only_failure(audit(files))[0] == what
    path.unlink()
    assert only_failure(audit(files))[0] == what


def test_another_key_is_found(case, tmp_path):
    other = load_public(case.folder / "other.pub")
    name, error = only_failure(audit(replace(case.files, trust=other)))
    assert name == "key" and isinstance(error, SignatureError) and other.keyid in str(error)
    # a statement that somebody else signed anew, word by word
    files, key = case.copied(tmp_path), load_private(case.folder / "other.pem")
    made = read_statement(files.statement).statement
    made["predicate"]["signer"] = key.public.told()
    Path(files.statement).write_bytes(bundled(*sign(made, key), key, None))
    found = audit(replace(files, trust=None))
    assert [c.what for c in found.failed] == ["commitment"] and isinstance(
        found.failed[0].error, SignatureError
    )


def earlier(told, name) -> None:
    """Twenty years earlier: a time is no number that may be off by a little."""
    told[name] = str(int(told[name][:4]) - 20) + told[name][4:]


def other_digit(told, name) -> None:
    """The last digit of the longest number in a hash is another."""
    last = max(re.finditer(r"[1-8]+", told[name]), key=lambda found: len(found.group())).end() - 1
    told[name] = told[name][:last] + str(int(told[name][last]) + 1) + told[name][last + 1 :]


def test_numbers_are_compared_as_what_they_are():
    for a, b, path in (
        ("0.00000001", "0.0000009", "pValues.value"),  # both below the tolerance of other numbers
        ("0.0010005", "0.001", "level"),
        ("closer than 200 honest models", "closer than 203 honest models", "reasons[0]"),
        ("2026-11-30T03:40:00.000Z", "2006-11-30T03:40:00.000Z", "verdict.settings.commitment.committedAt"),
        ("model-1000", "model-1001", "verdict.settings.name"),
    ):
        assert not alike(a, b, path), (a, b, path)
    assert alike("7.0790001", "7.0790002", "verdict.z")
    assert alike("p 0.00074 <= 0.001", "p 0.00075 <= 0.001", "verdict.reasons[0]")


def test_what_cannot_be_checked_hides_no_lie(case, tmp_path):
    """Without the commitment the rest of a statement is held against the record all the same."""

    def guilty(made) -> None:
        for told in (made["predicate"], made["predicate"]["verdict"]):
            told["reasons"] = ["it is guilty"]

    def added(made) -> None:
        for told in (made["predicate"], made["predicate"]["verdict"]):
            told["reasons"].append("it is guilty")

    for change in (guilty, added):
        files = replace(resigned(case, tmp_path, change), commitment=None, salt=None)
        name, error = only_failure(audit(files))
        assert name == "what is stated" and error.argument.startswith("reasons")
    rates = {"source": "x", "rates": [{"accused": "none of 1000000000"}]}
    files = resigned(case, tmp_path, lambda m: m["predicate"].update(measured=rates))
    assert only_failure(audit(files))[0] == "measured error rates"


def test_an_asked_suspect_is_judged_by_all_its_answers(case, tmp_path):
    """An owner who leaves out views afterwards picks the verdict: no commitment covers that."""
    lines = Path(case.files.record).read_text().splitlines()
    first = json.loads(lines[0]) | {
        "answered": sorted({int(i) for i in numbered(case.world.reference).ids.ravel()})
    }
    (tmp_path / "r.jsonl").write_text("\n".join([json.dumps(first, separators=(",", ":")), *lines[1:], ""]))
    more = {"record": None, "tsa_root": case.authority.root}
    dossier = Dossier(wanted(case, tmp_path, **more), case.world.ref, case.world.reference, 0.001)
    verdict, dossier.recording = verify_record(case.world.reference, tmp_path / "r.jsonl")
    with pytest.raises(EvidenceError, match="answers must be all of them"):
        dossier.finish(verdict)


def test_a_statement_that_says_something_else_than_its_record_is_found(case, tmp_path):
    changes = {
        "decision": lambda m: m["predicate"].update(decision="independent"),
        "pValues.joint.p": lambda m: m["predicate"]["pValues"]["joint"].update(p="0.00001"),
        "verdict.z": lambda m: m["predicate"]["verdict"].update(z="9.5"),
        "reasons[0]": lambda m: m["predicate"]["reasons"].__setitem__(0, "it is guilty"),
        "queries.asked": lambda m: m["predicate"]["queries"].update(asked=4000),
        "verdict.proof": lambda m: m["predicate"]["verdict"].update(proof="more"),
        "examination.startedAt": lambda m: earlier(m["predicate"]["examination"], "startedAt"),
        "commitment.committedAt": lambda m: earlier(m["predicate"]["commitment"], "committedAt"),
        "verdict.suspect_sha256": lambda m: other_digit(m["predicate"]["verdict"], "suspect_sha256"),
    }
    for path, change in changes.items():
        name, error = only_failure(audit(resigned(case, tmp_path, change)))
        assert name == "what is stated" and error.argument == path, path
    other = resigned(case, tmp_path, lambda m: m["subject"][0].update(name="somebody else"))
    assert only_failure(audit(other))[0] == "suspect"
    began = resigned(case, tmp_path, lambda m: m["predicate"]["commitment"].update(began="unknown"))
    assert only_failure(audit(began))[0] == "what is stated"

    def small(made) -> None:
        verdict = made["predicate"]["verdict"]
        verdict["z"] = repr(float(verdict["z"]) + 1e-7)

    assert audit(resigned(case, tmp_path, small)).holds  # 1e-6 is allowed for other machines
    early = resigned(case, tmp_path, lambda m: m["predicate"].update(evaluatedAt="2020-01-01T00:00:00.000Z"))
    assert only_failure(audit(early))[0] == "times"
    late = resigned(case, tmp_path, lambda m: m["predicate"].update(evaluatedAt="2999-01-01T00:00:00.000Z"))
    assert only_failure(audit(late))[0] == "statement"


def test_stamps_expired_of_the_future_or_of_nobody_trusted(case, tmp_path):
    yesterday = datetime.now(UTC) - timedelta(days=2)
    assert only_failure(audit(replace(case.files, now=yesterday)))[0] == "statement"
    other = Authority(tmp_path / "other")
    found = audit(replace(case.files, roots=load_certificates(other.root)))
    assert {c.what for c in found.failed} == {"time stamp of the statement", "commitment"}
    files, key = case.copied(tmp_path), load_private(case.key)
    made = read_statement(files.statement).statement
    payload, signature = sign(made, key)
    old = Authority(tmp_path / "old", first=datetime.now(UTC) - timedelta(days=99), days=9)
    with old.served() as url:
        from uapfast.evidence.timestamp import ask

        with pytest.raises(TimeStampError, match="had expired"):
            ask(url, signature)
    with case.authority.served() as url:
        stamp = ask(url, b"something else")
    Path(files.statement).write_bytes(bundled(payload, signature, key, stamp))
    name, error = only_failure(audit(files))
    assert name == "time stamp of the statement" and "something else" in str(error)


def test_a_hostile_record_is_a_typed_error(case, tmp_path):
    """Found by a fuzzer: each of these ended in another error than ours."""
    lines = Path(case.files.record).read_text().splitlines()
    first, end = json.loads(lines[0]), json.loads(lines[-1])["end"]
    answers = [json.loads(line) for line in lines[1:-1]]
    rows = [{"i": a["i"], "query": a["query"], "kind": "label", "answer": 3} for a in answers]
    bad = [(first | {"answered": [2**70]}, answers, end)]
    bad += [(first, answers, end | {"error": {"class": kind, "args": ["x"]}}) for kind in ([], {})]
    bad += [(first, rows, end), (first, [a | {"answer": 2**70} for a in rows], end)]
    for dtype in ("complex64", "float4_e2m1fn_x2"):
        bad.append((first, [a | {"dtype": dtype} for a in answers], end))
    for one, body, last in bad:
        made = [json.dumps(line, separators=(",", ":")) for line in (one, *body, {"end": last})]
        (tmp_path / "r.jsonl").write_text("\n".join([*made, ""]))
        with pytest.raises(RecordError):
            verify_record(case.world.reference, tmp_path / "r.jsonl")


def test_a_record_of_somebody_else_is_refused(case, tmp_path):
    from uapfast.suspects.record_writer import Recorder

    with Recorder(tmp_path / "honest.jsonl") as record:
        uapfast.verify(case.world.reference, case.world.honest, record=record)
    name, error = only_failure(audit(replace(case.files, record=tmp_path / "honest.jsonl")))
    assert name == "record" and isinstance(error, RecordError)


# -- commit and verify -----------------------------------------------------------------------------
def test_a_commitment_is_made_once_and_whole(case, tmp_path, monkeypatch):
    key, out = load_private(case.key), tmp_path / "c.json"
    with case.authority.served(503) as url, pytest.raises(TimeStampError):
        commit(case.world.ref, key, out, tsa=url)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ReferenceFileError):
        commit(case.files.record, key, out)
    with pytest.raises(InputError, match="alpha must be"):
        commit(case.world.ref, key, out, alpha=0.7)
    assert list(tmp_path.iterdir()) == []
    commit(case.world.ref, key, out, salt=tmp_path / "salt")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(StorageError, match="commitment must be a new file"):
        commit(case.world.ref, key, out, salt=tmp_path / "salt2")
    with pytest.raises(StorageError, match="salt must be a new file"):
        commit(case.world.ref, key, tmp_path / "c2.json", salt=tmp_path / "salt")
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    found = read_commitment(out)
    assert found.stamp is None and found.settings["alpha"] == "0.001"
    pool = found.signed.predicate["pool"]
    assert pool["twins"] == 8 and pool["innocents"] == len(case.world.reference.innocents) > 10


def test_a_clock_that_is_ahead_of_the_authority_leaves_nothing_behind(case, tmp_path, monkeypatch):
    """What it dates would be later than its own stamp, and fail every audit."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(minutes=3)

    for module in (commitment, statement, timestamp):
        monkeypatch.setattr(module, "datetime", Ahead)
    key = load_private(case.key)
    with case.authority.served() as url:
        with pytest.raises(TimeStampError, match="this machine's clock must be at most 60 s ahead"):
            commit(case.world.ref, key, tmp_path / "c.json", tsa=url)
        asked = ["verify", str(case.world.ref), "--answers", str(case.files.record), "--tsa", url]
        assert main([*asked, "--statement", str(tmp_path / "s"), "--key", str(case.key)]) == 2
    assert list(tmp_path.iterdir()) == []


def wanted(case: Case, folder: Path, **more) -> Wanted:
    given = {"record": folder / "r", "statement": folder / "s", "key": case.key}
    return Wanted(**{**given, "commitment": case.files.commitment, "salt": case.files.salt, **more})


def test_what_would_fail_afterwards_fails_before_anybody_is_asked(case, tmp_path):
    w, ref = case.world, case.world.reference
    other = dataclasses.replace(ref, settings={**ref.settings, "more": 1}, _cache={})
    other.save(tmp_path / "other.uapref")
    bad = [
        (InputError, "--key must be given with --statement", wanted(case, tmp_path, key=None), 0.001, w.ref),
        (InputError, "--key must be given with", Wanted(key=case.key, record=tmp_path / "r"), 0.001, w.ref),
        (InputError, "--salt must be", Wanted(record=tmp_path / "r", salt=case.files.salt), 0.001, w.ref),
        (SignatureError, "No such file", wanted(case, tmp_path, key=tmp_path / "none"), 0.001, w.ref),
        (
            SignatureError,
            "signed the commitment",
            wanted(case, tmp_path, key=case.folder / "other.pem"),
            0.001,
            w.ref,
        ),
        (EvidenceError, "alpha must be as committed, 0.001", wanted(case, tmp_path), 0.01, w.ref),
        (EvidenceError, "reference must be that", wanted(case, tmp_path), 0.001, tmp_path / "other.uapref"),
        (EvidenceError, "salt must|of 32 bytes", wanted(case, tmp_path, salt=case.key), 0.001, w.ref),
        (EvidenceError, "commitment", wanted(case, tmp_path, commitment=case.files.statement), 0.001, w.ref),
        (StorageError, "place of the reference", wanted(case, tmp_path, statement=w.ref), 0.001, w.ref),
        (
            StorageError,
            "the place of the statement",
            wanted(case, tmp_path, record=tmp_path / "s"),
            0.001,
            w.ref,
        ),
        (
            StorageError,
            "the place of the commitment",
            wanted(case, tmp_path, statement=case.files.commitment),
            0.001,
            w.ref,
        ),
        (
            StorageError,
            "got a commitment",
            Wanted(statement=case.files.commitment, key=case.key),
            0.001,
            w.ref,
        ),
        (StorageError, "existing one", wanted(case, tmp_path, record=tmp_path / "no" / "r"), 0.001, w.ref),
    ]
    for kind, said, what, alpha, path in bad:
        with pytest.raises(kind, match=said):
            Dossier(what, path, uapfast.load(path), alpha)
    assert [p.name for p in tmp_path.iterdir()] == ["other.uapref"]


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


def test_the_audit_refuses_what_is_no_key_or_certificate(case, capsys):
    common = [
        "audit",
        str(case.files.statement),
        "--reference",
        str(case.world.ref),
        "--record",
        str(case.files.record),
    ]
    assert main([*common, "--trust", str(case.key)]) == 2
    assert "public key must be an Ed25519 one" in capsys.readouterr().err
    assert main([*common, "--tsa-root", str(case.key)]) == 2
    assert "--tsa-root must be certificates in PEM" in capsys.readouterr().err


def test_a_hostile_statement_is_a_failed_check_and_never_a_crash(case, tmp_path):
    """Its signer may state anything."""
    files, key = case.copied(tmp_path), load_private(case.key)
    whole = read_statement(files.statement).statement
    paths = [("subject",), ("subject", 0), ("subject", 0, "digest"), ("subject", 0, "name")]
    paths += [("predicate", name) for name in whole["predicate"]]
    paths += [("predicate", "reference", n) for n in ("sha256", "format")]
    paths += [("predicate", "commitment", n) for n in ("sha256", "began")]
    for path in paths:
        for value in (None, -1, "x", [], {}, [[{}]], {"uapfast": [1]}):
            made = json.loads(json.dumps(whole))
            at = made
            for name in path[:-1]:
                at = at[name]
            was, at[path[-1]] = at[path[-1]], value
            Path(files.statement).write_bytes(bundled(*sign(made, key), key, None))
            found = audit(files)
            if was != value and path[-1] not in ("measured", "versions"):  # others state other ones
                assert not found.holds, (path, value)


def test_a_screen_that_looked_otherwise_than_committed_is_refused(case, tmp_path, capsys):
    """Its record is sound, and it says nothing under that commitment."""
    views = case.world.reference.plan.blocks * case.world.reference.plan.per_view
    screening = uapfast.screen(
        case.world.ref, [case.world.files["copy"]], arch=MLP, record=tmp_path / "r", queries=4 * views
    )
    screening.finish()
    (record,) = (tmp_path / "r").iterdir()
    asked = [
        "verify",
        str(case.world.ref),
        "--answers",
        str(record),
        "--commitment",
        str(case.files.commitment),
    ]
    asked += ["--statement", str(tmp_path / "s.json"), "--key", str(case.key)]
    assert main(asked) == 2
    assert "looks must be as committed, after [6] or [1, 2, 5, 6] views" in capsys.readouterr().err
    assert not (tmp_path / "s.json").exists()
