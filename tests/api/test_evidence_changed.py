"""What was changed in evidence is found and named by the audit, and hides no other lie."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import uapfast
from tests.api.evidence_case import only_failure, resigned
from tests.api.tsa import Authority
from uapfast.cli import main
from uapfast.errors import EvidenceError, RecordError, ReferenceFileError, SignatureError, TimeStampError
from uapfast.evidence.audit import audit
from uapfast.evidence.compare import same_value
from uapfast.evidence.envelope import bundled, sign
from uapfast.evidence.keys import load_private, load_public
from uapfast.evidence.statement import read_statement
from uapfast.evidence.timestamp import load_certificates
from uapfast.verbs.replay import verify_record

pytestmark = [pytest.mark.needs("cryptography", "rfc8785", "rfc3161-client", "openssl", "httpx2")]


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
        assert not same_value(a, b, path), (a, b, path)
    assert same_value("7.0790001", "7.0790002", "verdict.z")
    assert same_value("p 0.00074 <= 0.001", "p 0.00075 <= 0.001", "verdict.reasons[0]")


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
        from uapfast.evidence.timestamp import request_stamp

        with pytest.raises(TimeStampError, match="had expired"):
            request_stamp(url, signature)
    with case.authority.served() as url:
        stamp = request_stamp(url, b"something else")
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
