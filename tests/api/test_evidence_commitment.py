"""Commitments are made once and whole; what would fail afterwards fails before anybody is asked."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import uapfast
from tests.api.evidence_case import Case
from tests.api.owner import MLP
from uapfast.cli import main
from uapfast.errors import (
    EvidenceError,
    InputError,
    ReferenceFileError,
    SignatureError,
    StorageError,
    TimeStampError,
)
from uapfast.evidence import commitment, statement, timestamp
from uapfast.evidence.commitment import commit, read_commitment
from uapfast.evidence.dossier import Dossier, DossierRequest
from uapfast.evidence.keys import load_private
from uapfast.verbs.queries import numbered
from uapfast.verbs.replay import verify_record

pytestmark = [pytest.mark.needs("cryptography", "rfc8785", "rfc3161-client", "openssl", "httpx2")]


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


def wanted(case: Case, folder: Path, **more) -> DossierRequest:
    given = {"record": folder / "r", "statement": folder / "s", "key": case.key}
    return DossierRequest(**{**given, "commitment": case.files.commitment, "salt": case.files.salt, **more})


def test_what_would_fail_afterwards_fails_before_anybody_is_asked(case, tmp_path):
    w, ref = case.world, case.world.reference
    other = dataclasses.replace(ref, settings={**ref.settings, "more": 1}, _cache={})
    other.save(tmp_path / "other.uapref")
    bad = [
        (InputError, "--key must be given with --statement", wanted(case, tmp_path, key=None), 0.001, w.ref),
        (
            InputError,
            "--key must be given with",
            DossierRequest(key=case.key, record=tmp_path / "r"),
            0.001,
            w.ref,
        ),
        (
            InputError,
            "--salt must be",
            DossierRequest(record=tmp_path / "r", salt=case.files.salt),
            0.001,
            w.ref,
        ),
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
            DossierRequest(statement=case.files.commitment, key=case.key),
            0.001,
            w.ref,
        ),
        (StorageError, "existing one", wanted(case, tmp_path, record=tmp_path / "no" / "r"), 0.001, w.ref),
    ]
    for kind, said, what, alpha, path in bad:
        with pytest.raises(kind, match=said):
            Dossier(what, path, uapfast.load(path), alpha)
    assert [p.name for p in tmp_path.iterdir()] == ["other.uapref"]


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
