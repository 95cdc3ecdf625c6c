"""What somebody tries who means to deceive: with a record of their own making, places, and odd files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.api.evidence_case import Case, only_failure, resigned
from tests.api.owner import MLP
from uapfast.cli import main
from uapfast.errors import EvidenceError, InputError, RecordError, ReferenceFileError, UapfastError
from uapfast.evidence.audit import Files, audit
from uapfast.evidence.commitment import read_commitment
from uapfast.evidence.envelope import bundled, sign
from uapfast.evidence.keys import load_private
from uapfast.evidence.statement import read_statement
from uapfast.reference import load
from uapfast.reference_file import KEY, content_sha256
from uapfast.report.bom import make_bom
from uapfast.report.stated import stated
from uapfast.suspects.record_reader import read_record
from uapfast.suspects.record_writer import line_of
from uapfast.verbs.queries import numbered

pytestmark = [pytest.mark.needs("cryptography", "rfc8785", "rfc3161-client", "openssl", "httpx2")]
HOSTILE = [None, True, -1, 1.5, "x", [], {}, [[None]], {"a": [1]}, 2**70]


def forged(case: Case, folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> Files:
    """A record of the owner's making, and the statement of it, signed with the owner's key."""
    lines = [json.loads(line) for line in Path(case.files.record).read_text().splitlines()]
    change(lines)
    record, statement = folder / "r.jsonl", folder / "s.json"
    record.write_bytes(b"".join(map(line_of, lines)))
    asked = ["verify", str(case.world.ref), "--answers", str(record), "--statement", str(statement)]
    code = main([*asked, "--key", str(case.key), "--overwrite"])
    assert code in (0, 1, 2, 3, 5)
    if code == 2:  # our tool refuses: the owner changes it, too
        return Files(case.files.statement, case.world.ref, record)
    return Files(statement, case.world.ref, record, any_key=True)


def test_what_a_record_remarks_is_the_accusers_word(case: Case, tmp_path: Path) -> None:
    """It is among the reasons, and the audit cannot know where it is from."""
    guilty = "it is guilty, and everybody knows"
    found = audit(forged(case, tmp_path, lambda lines: lines[-1]["end"]["notes"].append(guilty)))
    said = [c.said for c in found.checks if c.what == "remark of the record"]
    assert found.holds and said[-1] == f"the accuser's word: {guilty}"
    many = audit(forged(case, tmp_path, lambda lines: lines[-1]["end"]["notes"].extend(["x" * 9999] * 99)))
    said = [c.said for c in many.checks if c.what == "remark of the record"]
    assert len(said) < 30 and max(map(len, said)) < 500


def test_views_that_were_left_out_are_found_without_a_commitment(case: Case, tmp_path: Path) -> None:
    """Whoever picks the answers afterwards picks the verdict."""
    ids = sorted({int(i) for i in numbered(case.world.reference).ids.ravel()})
    files = forged(case, tmp_path, lambda lines: lines[0].update(answered=ids))
    assert main(["verify", str(case.world.ref), "--answers", str(files.record)]) == 2
    # by a tool that was changed
    key, made = load_private(case.key), read_statement(case.files.statement).statement
    predicate = made["predicate"]
    predicate["record"]["sha256"] = hashlib.sha256(Path(files.record).read_bytes()).hexdigest()
    predicate["commitment"] = predicate["verdict"]["settings"]["commitment"] = None
    (tmp_path / "s.json").write_bytes(bundled(*sign(made, key), key, None))
    name, error = only_failure(audit(Files(tmp_path / "s.json", case.world.ref, files.record, any_key=True)))
    assert name == "looks" and isinstance(error, EvidenceError) and "all of them" in str(error)


def test_fewer_views_are_said(case: Case, tmp_path: Path) -> None:
    per_view = case.world.reference.plan.blocks * case.world.reference.plan.per_view

    def fewer(lines: list[dict[str, Any]]) -> None:
        lines[0]["looks"] = [5]
        del lines[5 * per_view + 1 : -1]
        lines[-1]["end"].update(asked=5 * per_view, answers=5 * per_view)

    found = audit(forged(case, tmp_path, fewer))
    said = [(c.state, c.said) for c in found.checks if c.what == "looks"]
    assert found.holds and said[-1] == ("note", "after [5] of 6 views: no commitment says so")


def test_what_the_accuser_chose_is_noted(case: Case, tmp_path: Path) -> None:
    """Several looks, forms of answers, preprocessings and class orders can be tried, and one be stated."""

    def choose(lines: list[dict[str, Any]]) -> None:
        lines[0].update(looks=[1, 2, 3, 4, 5, 6], class_order=list(range(10)))
        lines[0]["suspect"]["output"] = "labels"
        lines[0]["suspect"]["settings"]["preprocessing"] = {"mean": [0.5], "std": [0.2]}

    found = audit(forged(case, tmp_path, choose))
    notes = {c.what: c.said for c in found.checks if c.state == "note"}
    assert found.holds and "no commitment says so" in notes["looks"]
    assert notes["answers"] == "read as labels: the accuser said so" and "accuser" in notes["class order"]
    assert notes["preprocessing"] == "other than the victim's: the accuser said so"


def test_answers_that_others_are_said_to_have_given_are_noted(case: Case, tmp_path: Path) -> None:
    """Whoever hands in a part of them chose it, and only the accuser says that others were asked."""
    ids = sorted({int(i) for i in numbered(case.world.reference).ids.ravel()})

    def recorded(lines: list[dict[str, Any]]) -> None:
        lines[0]["suspect"]["settings"]["kind"] = "recorded"
        lines[0]["answered"] = ids

    found = audit(forged(case, tmp_path, recorded))
    said = [c.said for c in found.checks if c.what == "answers" and c.state == "note"]
    assert found.holds and len(said) == 2
    assert "the accuser says" in said[0] and "no file tells who chose them" in said[1]


def test_what_only_the_accusers_clock_says_is_noted(case: Case, tmp_path: Path) -> None:
    made, out = tmp_path / "c.json", tmp_path / "s.json"
    assert main(["commit", str(case.world.ref), "--key", str(case.key), "--out", str(made)]) == 0
    asked = ["verify", str(case.world.ref), str(case.world.files["copy"]), "--arch", MLP]
    asked += ["--record", str(tmp_path / "r"), "--statement", str(out), "--key", str(case.key)]
    assert main([*asked, "--commitment", str(made)]) == 1
    found = audit(Files(out, case.world.ref, tmp_path / "r", made, trust=case.files.trust))
    notes = {c.what: c.said for c in found.checks if c.state == "note"}
    assert found.holds and "signer's own word" in notes["time of the commitment"]
    assert "no file tells whether the suspect was asked before that" in notes["examination"]


def test_a_name_that_goes_on_like_a_hash_is_no_hash(case: Case, tmp_path: Path) -> None:
    name = "x.safetensors sha256 " + "0" * 40
    told = {"name": name, "digest": {}}
    found = audit(forged(case, tmp_path, lambda lines: lines[0]["suspect"].update(subject=told)))
    assert f"'{name}' 'answersSha256' '" in next(c.said for c in found.checks if c.what == "suspect")


# -- numbers and versions ----------------------------------------------------------------------------
def test_a_number_that_no_float_holds_is_not_near_another(case: Case, tmp_path: Path) -> None:
    """Infinity is within a millionth of itself of everything; so are digits of other scripts."""

    def stated(place: str, text: str) -> Callable[[dict[str, Any]], None]:
        def change(made: dict[str, Any]) -> None:
            verdict = made["predicate"]["verdict"]
            if place == "verdict.z":
                verdict["z"] = text.format(z=verdict["z"])
            else:
                found = re.search(r"\d\.\d+", made["predicate"]["reasons"][0])
                assert found is not None
                made["predicate"]["reasons"][0] = made["predicate"]["reasons"][0].replace(found[0], text)

        return change

    for place, text in (
        *(("verdict.z", "1e999"), ("verdict.z", "-1e999"), ("verdict.z", "000{z}")),
        *(("reasons[0]", "1e999"), ("reasons[0]", "٠.٠٠٠٧٤١")),
    ):
        name, error = only_failure(audit(resigned(case, tmp_path, stated(place, text))))
        assert name == "what is stated" and isinstance(error, EvidenceError) and error.argument == place


def test_versions_are_versions(case: Case, tmp_path: Path) -> None:
    """They are not compared, and would have room for anything."""
    for name, text in (("certified by", "1"), ("torch", "this is a copy, and everybody knows")):

        def change(made: dict[str, Any], name: str = name, text: str = text) -> None:
            for told in (made["predicate"], made["predicate"]["verdict"]["settings"]):
                told["versions"][name] = text

        _, error = only_failure(audit(resigned(case, tmp_path, change)))
        assert isinstance(error, EvidenceError) and error.argument == f"versions.{name}"


# -- words of a record, and names of a suspect --------------------------------------------------------
def test_all_words_of_a_record_are_the_accusers(case: Case, tmp_path: Path) -> None:
    """How earlier answers were read, and why it ended, become reasons as well."""
    read = {"kind": "probabilities", "scale": 1.0, "least": 0.0, "note": "what a stolen model says"}

    def noted(lines: list[dict[str, Any]]) -> None:
        lines[0]["suspect"]["replay"] = "suspect"
        lines[0]["suspect"]["settings"]["read"] = read
        for line in lines[1:-1]:
            line["answer"] = torch.tensor(line["answer"]).softmax(-1).tolist()

    def ended(lines: list[dict[str, Any]]) -> None:
        lines[-1]["end"]["error"] = {"class": "UnavailableError", "args": ["it confessed"]}

    for change, text in ((noted, read["note"]), (ended, "it confessed")):
        files = forged(case, tmp_path, change)
        assert text in " ".join(read_statement(files.statement).predicate["reasons"])
        said = [c.said for c in audit(files).checks if c.what == "remark of the record"]
        assert len(said) == 1 and said[0].startswith("the accuser's word: ") and str(text) in said[0]
    for bad in ({"scale": -1.0}, {"least": 2.0}, {"note": ["x"]}, {"scale": "1"}):
        told = {"replay": "suspect", "settings": {"read": read | bad}}
        files = forged(case, tmp_path, lambda lines, told=told: lines[0]["suspect"].update(told))  # type: ignore[misc]
        assert files.statement == case.files.statement  # refused


def test_words_are_no_numbers_and_an_endpoint_is_read_as_one(case: Case, tmp_path: Path) -> None:
    """Another reader of JSON would see no numbers; and what a server sent may not be left out unseen."""
    for value in ("1.5", "1_0", " nan", None, []):
        with pytest.raises(RecordError, match="line 2"):
            spoiled(case, tmp_path, lambda lines, value=value: lines[1]["answer"].__setitem__(0, value))
    for told in (
        {"settings": {"kind": "http"}}, {"subject": {"name": "x", "digest": {"urlSha256": "0" * 64}}},
        {"sha256": "a copy"}, {"subject": {"name": "x", "digest": {"sha256": "a copy"}}},
        {"subject": {"name": "x", "digest": {"certified": "0" * 64}}},
    ):  # fmt: skip
        with pytest.raises(RecordError, match="line 1"):
            spoiled(case, tmp_path, lambda lines, told=told: lines[0]["suspect"].update(told))


def spoiled(case: Case, folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    lines = [json.loads(line) for line in Path(case.files.record).read_text().splitlines()]
    change(lines)
    (folder / "spoiled").write_bytes(b"".join(map(line_of, lines)))
    read_record(folder / "spoiled", case.world.reference.most_asked)


def test_no_name_of_a_suspect_hinders_its_statement(case: Case, tmp_path: Path) -> None:
    """A name that UTF-8 has no bytes for cannot be canonical JSON: the accused may have chosen it."""
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors")
    Path(bad).write_bytes(Path(case.world.files["copy"]).read_bytes())
    record, statement, bill = tmp_path / "r", tmp_path / "s", tmp_path / "b.json"
    asked = ["verify", str(case.world.ref), bad, "--arch", MLP, "--record", str(record)]
    asked += ["--statement", str(statement), "--key", str(case.key), "--report", str(tmp_path / "p.html")]
    assert main(asked) == 1
    assert read_statement(statement).statement["subject"][0]["name"] == "\\udcff.safetensors"
    assert audit(Files(statement, case.world.ref, record, any_key=True)).holds
    assert main(["report", str(statement), "--bom", str(bill)]) == 0


def test_line_ends_of_another_system_are_named(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "r.jsonl"
    record.write_bytes(Path(case.files.record).read_bytes().replace(b"\n", b"\r\n"))
    name, error = only_failure(audit(replace(case.files, record=record)))
    assert name == "record" and "CR LF" in str(error)
    assert main(["verify", str(case.world.ref), "--answers", str(record)]) == 2
    assert "CR LF" in capsys.readouterr().err


# -- places ----------------------------------------------------------------------------------------
def test_no_two_results_share_a_place(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The later would be all that is left of both."""
    ref, key = str(case.world.ref), str(case.key)
    (tmp_path / "link").symlink_to(tmp_path)
    one, other = str(tmp_path / "one"), str(tmp_path / "link" / "one")
    commands = [["commit", ref, "--key", key, "--out", one, "--salt", other]]
    asked = ["verify", ref, str(case.world.files["copy"]), "--arch", MLP, "--key", key, "--report", one]
    commands.append([*asked, "--statement", other])
    commands.append([*asked, "--statement", str(tmp_path / "s"), "--record", other])
    commands.append(["report", str(case.files.statement), "--out", one, "--bom", other])
    for command in commands:
        assert main(command) == 2, command
        said = capsys.readouterr().err
        assert said.startswith("error: ") and " must be " in said
    assert [p.name for p in tmp_path.iterdir()] == ["link"]


# -- made-up files that are signed -----------------------------------------------------------------
def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = (
        value.items() if isinstance(value, dict) else enumerate(value[:1] if isinstance(value, list) else [])
    )
    return [path, *(p for key, one in below for p in places(one, (*path, key)))]


def put(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    made = json.loads(json.dumps(whole))
    at = made
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return made


def test_a_made_up_commitment_is_a_failed_check(case: Case, tmp_path: Path) -> None:
    key, whole = load_private(case.key), read_commitment(case.files.commitment).signed.statement
    out, tried = tmp_path / "c.json", 0
    (tmp_path / "c.json.salt").write_bytes(Path(case.files.salt or "").read_bytes())
    for path in places(whole["predicate"])[1:]:
        for value in HOSTILE:
            if isinstance(value, float) or value == 2**70:  # canonical JSON has none
                continue
            made = put(whole, ("predicate", *path), value)
            if made == whole or path[0] == "signer":
                continue
            out.write_bytes(bundled(*sign(made, key), key, None))
            try:
                read_commitment(out)
            except UapfastError:
                tried += 1
                continue
            tried += 1
    assert tried > 100


def test_a_made_up_statement_makes_no_bill_but_a_typed_error(case: Case, tmp_path: Path) -> None:
    key, whole = load_private(case.key), read_statement(case.files.statement).statement
    verdict = whole["predicate"]["verdict"]
    paths = [("predicate", "verdict", *path) for path in places(verdict)[1:] if path[0] != "settings"]
    paths += [("predicate", "verdict", "settings"), ("predicate", "verdict", "settings", "commitment")]
    paths += [("predicate", "verdict", "settings", "commitment", "level")]
    paths += [("subject", 0, "name"), ("subject", 0, "digest"), ("subject", 0, "digest", "sha256")]
    made, bills = tmp_path / "s.json", 0
    for path in paths:
        for value in (None, True, "x", "nan", [], {}):
            made.write_bytes(bundled(*sign(put(whole, path, value), key), key, None))
            try:
                bills += json.loads(json.dumps(make_bom([stated(made)])))["bomFormat"] == "CycloneDX"
            except InputError as exc:
                assert " must be " in str(exc)
    assert bills > 20


def test_a_statement_that_contradicts_itself_makes_no_bill(case: Case, tmp_path: Path) -> None:
    """A hub that is handed one has no record: what it says must at least agree with itself."""
    key, whole = load_private(case.key), read_statement(case.files.statement).statement
    told, made = ("predicate", "verdict"), tmp_path / "s.json"
    for path, value in (
        ((*told, "p_value"), "0.00001"), (("predicate", "pValues", "value"), "0.00001"),
        ((*told, "alpha"), "0.9"), (("predicate", "decision"), "independent"),
        (("predicate", "reasons"), ["it is guilty"]),
        (("subject", 0, "digest", "sha256"), "certified"), ((*told, "suspect_sha256"), "certified"),
    ):  # fmt: skip
        made.write_bytes(bundled(*sign(put(whole, path, value), key), key, None))
        with pytest.raises(EvidenceError):
            stated(made)
    for p in ("0.5", "-1.0", "1e-999"):  # wherever it stands
        other = put(put(whole, (*told, "p_value"), p), ("predicate", "pValues", "value"), p)
        made.write_bytes(bundled(*sign(other, key), key, None))
        with pytest.raises(EvidenceError, match="p_value"):
            stated(made)


# each was an error of Python's in the midst of an examination
WRONG: list[tuple[tuple[Any, ...], Any]] = [
    (("encoder",), "x"), (("encoder",), []), (("views",), True), (("classes",), 1), (("format",), True),
    (("format",), 6.0), (("scale",), "x"), (("scale",), []), (("scale", 0), {}), (("scale",), [True, 0.2]),
    (("records", 0, "name"), 1), (("records", 0), None), (("records",), 5), (("settings",), None),
    (("settings", "limits"), None), (("settings", "limits"), "x"), (("settings", "warnings"), [1]),
    (("settings", "log"), True), (("settings", "log"), {"views": 1}), (("settings", "suspect_side"), "x"),
    (("settings", "suspect_side"), {}), (("settings", "twins"), None), (("settings", "init"), []),
    (("settings", "twins"), {"kind": "designated"}), (("settings", "twins"), {"kind": "branch", "at": "x"}),
]  # fmt: skip


def test_a_made_up_reference_is_a_typed_error(case: Case, tmp_path: Path) -> None:
    """Whoever accuses hands it in, with a hash that fits."""
    data, out = Path(case.world.ref).read_bytes(), tmp_path / "r.uapref"
    tensors = safetensors.torch.load(data)
    with safetensors.safe_open(str(case.world.ref), "pt") as stream:
        header = json.loads(stream.metadata()[KEY])
    header.pop("sha256")

    def written(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
        stamped = json.dumps(header | {"sha256": content_sha256(tensors, header)}, sort_keys=True)
        out.write_bytes(safetensors.torch.save(tensors, {KEY: stamped}))
        return out

    assert load(written(header, tensors)).sha256 == case.world.reference.sha256
    for path, value in WRONG:
        with pytest.raises(ReferenceFileError, match="reference must be "):
            load(written(put(header, path, value), tensors))
    labels, answers = tensors["labels"], tensors["answers"]
    for name, other in (
        *(("labels", labels.double()), ("labels", labels + 100), ("labels", labels[0])),
        *(("answers", answers[..., None]), ("answers", labels.clone()), ("points", tensors["points"][0])),
    ):
        with pytest.raises(ReferenceFileError, match="reference must be "):
            load(written(header, {**tensors, name: other.contiguous()}))
