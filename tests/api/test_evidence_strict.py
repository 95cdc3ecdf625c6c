"""What an audit may not overlook: files, keys and authorities that are not there, other versions, levels."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.api.evidence_case import Case, only_failure, resigned
from uapfast.cli import main
from uapfast.cli.show import reference_lines
from uapfast.errors import EvidenceError, RecordError
from uapfast.evidence import content
from uapfast.evidence.audit import Files, audit
from uapfast.evidence.audited import Audit
from uapfast.evidence.commitment import check_committed, commit, read_commitment
from uapfast.evidence.envelope import bundled, sign
from uapfast.evidence.keys import load_private
from uapfast.evidence.statement import measured_error_rates, read_statement
from uapfast.examination import error_rates as rates
from uapfast.examination.calibration import convicts_nobody, reference_summary
from uapfast.report.bom import make_bom
from uapfast.report.stated import stated

pytestmark = [pytest.mark.needs("cryptography", "rfc8785", "rfc3161-client", "openssl", "httpx2")]


def states(found: Audit) -> dict[str, str]:
    return {check.what: check.state for check in found.checks}


# -- what is not there -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("missing", "names"),
    [
        ({"trust": None}, {"key"}),
        ({"commitment": None, "salt": None}, {"commitment"}),
        ({"roots": None}, {"authority that stamped the statement", "authority that stamped the commitment"}),
        ({"trust": None, "commitment": None, "salt": None}, {"key", "commitment"}),
    ],
)
def test_what_could_not_be_checked_does_not_hold(
    case: Case, missing: dict[str, Any], names: set[str]
) -> None:
    found = audit(replace(case.files, **missing))
    assert not found.failed and {check.what for check in found.unchecked} == names
    assert not found.holds and found.exit_code == 3 and found.sentence.startswith("NOT ALL WAS CHECKED: ")
    assert all(name in found.sentence for name in names)


def test_whoever_does_without_has_to_say_so(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    f = case.files
    asked = ["audit", str(f.statement), "--reference", str(f.reference), "--record", str(f.record)]
    asked += ["--commitment", str(f.commitment)]
    assert main(asked) == 3
    out = capsys.readouterr().out
    assert "does not say who signed (--trust PUBKEY; --any-key to do without)" in out
    assert out.splitlines()[-1].startswith("NOT ALL WAS CHECKED: key, authority that stamped the statement, ")
    assert main([*asked, "--any-key"]) == main([*asked, "--any-tsa"]) == 3
    capsys.readouterr()
    assert main([*asked, "--any-key", "--any-tsa", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["holds"] is True and said["unchecked"] == said["failed"] == []
    assert {c["what"] for c in said["checks"] if c["state"] == "note"} == {
        "key", "authority that stamped the statement", "authority that stamped the commitment", "examination",
    }  # fmt: skip
    assert main([*asked, "--any-key", "--trust", str(case.folder / "key.pub")]) == 2
    assert "--any-key must be left out where the key or certificate is given" in capsys.readouterr().err


def test_a_failure_outweighs_what_was_not_checked(case: Case, tmp_path: Path) -> None:
    def lie(made: dict[str, Any]) -> None:
        made["predicate"].update(decision="independent")

    found = audit(replace(resigned(case, tmp_path, lie), trust=None))
    assert found.exit_code == 1
    assert found.sentence == "DOES NOT HOLD: what is stated; NOT CHECKED: key"


# -- another version -------------------------------------------------------------------------------
def by_version(number: str, **more: Any) -> Any:
    """A signer who states another version's number, and something besides."""

    def change(made: dict[str, Any]) -> None:
        predicate = made["predicate"]
        predicate["versions"]["uapfast"] = number
        predicate["verdict"]["settings"]["versions"]["uapfast"] = number
        for path, value in more.items():
            *names, last = path.split("__")
            at = predicate
            for name in names:
                at = at[name]
            if value is None:
                del at[last]
            else:
                at[last] = value

    return change


FAKE = {"source": "docs/verdicts.md", "rates": [{"accused": "none of 1000000000"}]}


@pytest.mark.parametrize(
    ("more", "failed"),
    [
        ({"measured": FAKE}, None),
        ({"verdict__old": "1"}, None),
        ({"pValues__joint__p": "0.00001"}, "pValues.joint.p"),
        ({"pValues__joint": None}, "pValues.joint"),
        ({"verdict__p_joint": None}, "verdict.p_joint"),
        ({"pValues__better": "0.00001"}, "pValues.better"),
        ({"queries__asked": 4000}, "queries.asked"),
    ],
)
def test_the_number_of_another_version_makes_no_check_weaker(
    case: Case, tmp_path: Path, more: dict[str, Any], failed: str | None
) -> None:
    """It is the signer's word: what is not known here of that version is not believed, and nothing holds."""
    found = audit(resigned(case, tmp_path, by_version("0.0.9", **more)))
    assert not found.holds and states(found)["measured error rates"] == "not checked"
    if failed is None:
        assert not found.failed and found.exit_code == 3
        assert "audit with uapfast 0.0.9" in next(c.said for c in found.unchecked)
    else:
        name, error = only_failure(found)
        assert name == "what is stated" and isinstance(error, EvidenceError) and error.argument == failed


def test_made_up_rates_of_this_version_fail(case: Case, tmp_path: Path) -> None:
    found = audit(resigned(case, tmp_path, lambda made: made["predicate"].update(measured=FAKE)))
    assert only_failure(found)[0] == "measured error rates"
    other = audit(resigned(case, tmp_path, lambda made: made["predicate"]["versions"].update(uapfast="9")))
    assert only_failure(other)[1].argument == "verdict.settings.versions"  # type: ignore[attr-defined]


def test_an_older_statement_is_held_against_what_its_version_shipped(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is 9.9.9, whose rates were measured anew; the statement is of a version before it."""
    now = rates.error_rates()
    anew = now | {"rows": [row | {"accused": "0.5000"} for row in now["rows"]]}
    mine = read_statement(case.files.statement).predicate["versions"]["uapfast"]
    monkeypatch.setattr(content, "__version__", "9.9.9")
    monkeypatch.setattr(content, "table_of", lambda version: {mine: now}.get(version))
    monkeypatch.setattr(rates, "error_rates", lambda: anew)
    found = audit(case.files)
    assert found.holds and found.exit_code == 0
    said = [(c.state, c.said) for c in found.checks if c.what == "measured error rates"]
    assert said[0] == ("ok", f"those that uapfast {mine} shipped")
    assert said[1][0] == "note" and "measured anew since" in said[1][1]
    # the rates of the auditor's own version, under the number of the older one
    verdict = read_statement(case.files.statement).predicate["verdict"]
    files = resigned(
        case, tmp_path, lambda made: made["predicate"].update(measured=measured_error_rates(verdict, anew))
    )
    assert only_failure(audit(files))[0] == "measured error rates"


def test_a_statement_of_another_format_says_which_version_is_needed(case: Case, tmp_path: Path) -> None:
    files = resigned(case, tmp_path, by_version("0.0.9", reference__format=5))
    name, error = only_failure(audit(replace(files, reference=files.record)))
    assert name == "reference" and "format 5" in str(error) and "uapfast 0.0.9" in str(error)

    def newer(made: dict[str, Any]) -> None:
        made["predicateType"] = "urn:uapfast:verdict:v2"

    name, error = only_failure(audit(resigned(case, tmp_path, newer)))
    assert name == "statement" and "urn:uapfast:verdict:v1" in str(error) and "v2" in str(error)


# -- levels ----------------------------------------------------------------------------------------
def stated_at(case: Case, folder: Path, alpha: str, commitment: Path | None = None) -> Path:
    """A statement of the copy's recorded answers at a level."""
    out = folder / f"s{alpha}.json"
    asked = ["verify", str(case.world.ref), "--answers", str(case.files.record), "--alpha", alpha]
    asked += ["--statement", str(out), "--key", str(case.key)]
    assert main([*asked, *([] if commitment is None else ["--commitment", str(commitment)])]) == 1
    return out


def test_a_level_that_was_raised_afterwards_is_said_everywhere(case: Case, tmp_path: Path) -> None:
    out = stated_at(case, tmp_path, "0.05")
    reasons = read_statement(out).predicate["reasons"]
    assert "it was judged at level 0.05, looser than the default 0.001" in reasons
    raised = (
        "the level was raised after the answers had come: they were requested at 0.001, and judged at 0.05"
    )
    assert raised in reasons
    found = audit(Files(out, case.world.ref, case.files.record, any_key=True))
    assert found.holds, found.sentence
    said = "level 0.05 was used, none was committed to, the default is 0.001"
    assert next((c.state, c.said) for c in found.checks if c.what == "level") == ("note", said)
    assert said in json.dumps(make_bom([stated(out)]))
    usual = audit(case.files)
    said = "level 0.001 was used, 0.001 was committed to, the default is 0.001"
    assert next((c.state, c.said) for c in usual.checks if c.what == "level") == ("ok", said)
    assert said in json.dumps(make_bom([stated(case.files.statement)]))


def test_a_loose_level_that_was_committed_to_is_said(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loose = tmp_path / "loose.json"
    asked = ["commit", str(case.world.ref), "--key", str(case.key), "--out", str(loose), "--alpha", "0.05"]
    assert main(asked) == 0
    assert "level 0.05, looser than the default 0.001" in capsys.readouterr().out
    out = stated_at(case, tmp_path, "0.05", loose)
    reasons = read_statement(out).predicate["reasons"]
    assert "the level 0.05 is the one that was committed to; the default is 0.001" in reasons
    files = Files(out, case.world.ref, case.files.record, loose, any_key=True)
    found = audit(files)
    assert found.holds, found.sentence
    said = "level 0.05 was used, 0.05 was committed to, the default is 0.001"
    assert next((c.state, c.said) for c in found.checks if c.what == "level") == ("note", said)
    assert said in json.dumps(make_bom([stated(out)]))
    # without the commitment nobody knows; its reasons alone are let pass, and nothing holds
    blind = audit(replace(files, commitment=None))
    assert not blind.failed and blind.exit_code == 3


def test_a_looser_level_than_committed_fails(case: Case, tmp_path: Path) -> None:
    """A statement at 0.05 that cites the commitment to 0.001, made by whoever changed the tool."""
    out = stated_at(case, tmp_path, "0.05")
    key, cited = load_private(case.key), read_statement(case.files.statement).predicate["commitment"]
    made = read_statement(out).statement
    for told in (made["predicate"], made["predicate"]["verdict"]["settings"]):
        told["commitment"] = cited
    out.write_bytes(bundled(*sign(made, key), key, None))
    found = audit(replace(case.files, statement=out))
    assert [check.what for check in found.failed][0] == "level" and found.exit_code == 1
    assert "at most 0.001, as committed, got 0.05" in found.failed[0].said
    made["predicate"]["commitment"] = None  # and one that hides the commitment in its settings
    out.write_bytes(bundled(*sign(made, key), key, None))
    assert only_failure(audit(replace(case.files, statement=out, commitment=None)))[0] == "what is stated"


@pytest.mark.parametrize("level", ["0.7", "1e999", "-0.001", "0"])
def test_a_level_that_is_none_is_a_failed_check(case: Case, tmp_path: Path, level: str) -> None:
    def change(made: dict[str, Any]) -> None:
        made["predicate"]["level"] = made["predicate"]["verdict"]["alpha"] = level

    found = audit(resigned(case, tmp_path, change))
    assert not found.holds and any(isinstance(c.error, RecordError | EvidenceError) for c in found.failed)


def test_true_is_not_one_in_a_commitment(case: Case, tmp_path: Path) -> None:
    key, out = load_private(case.key), tmp_path / "c.json"
    made = commit(case.world.ref, key, out).signed.statement
    assert made["predicate"]["settings"]["looks"]["costly"][0] == 1
    made["predicate"]["settings"]["looks"]["costly"][0] = True
    out.write_bytes(bundled(*sign(made, key), key, None))
    with pytest.raises(EvidenceError, match="looks must be as committed"):
        check_committed(read_commitment(out), read_commitment(out).value, case.world.reference, 0.001)


# -- a reference that convicts nobody ----------------------------------------------------------------
def test_a_reference_that_convicts_nobody_says_so_before_it_is_used(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, ref = str(case.key), case.world.reference
    assert convicts_nobody(ref, 0.001) is None
    asked = ["commit", str(case.world.ref), "--key", key]
    assert main([*asked, "--out", str(tmp_path / "0.json")]) == main(["info", str(case.world.ref)]) == 0
    assert "convicts nobody at 0.001" not in capsys.readouterr().out
    # finer than its pairs allow: no limit of the reference says so
    assert not ref.limits and main([*asked, "--out", str(tmp_path / "1.json"), "--alpha", "0.0005"]) == 0
    honest = len(ref.innocents)  # 14 or 15, as the machine's last bits have it
    pairs = f"8 twins and {honest} honest models make {9 * (honest + 1)} pairs"
    said = f"This reference convicts nobody at 0.0005: {pairs}"
    assert said in capsys.readouterr().out and convicts_nobody(ref, 0.0005).startswith(said)  # type: ignore[union-attr]
    twinned = f"This reference convicts nobody at 0.0001: {pairs}"
    assert main(["info", str(case.world.ref)]) == 0 and twinned in capsys.readouterr().out
    # one that was found wanting
    limited = dataclasses.replace(
        ref, settings={**ref.settings, "limits": ["it knows too little"]}, _cache={}
    )
    limited.save(tmp_path / "limited.uapref")
    said = "This reference convicts nobody at 0.001: it knows too little"
    assert main(["info", str(tmp_path / "limited.uapref")]) == 0
    assert capsys.readouterr().out.startswith(said)
    assert (
        main(["commit", str(tmp_path / "limited.uapref"), "--key", key, "--out", str(tmp_path / "2.json")])
        == 0
    )
    assert said in capsys.readouterr().out.splitlines()
    lines = reference_lines(reference_summary(limited), "REF")
    assert lines[0] == said and "nobody" in next(line for line in lines if "convicts" in line[:20])
