"""The ML-BOM: valid CycloneDX 1.7, an accusation under declarations, and only for a conviction."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.screen_table import make_rows, write_table
from tests.unit.test_report import HOSTILE, make_verdict
from uapfast.cli import main
from uapfast.errors import InputError
from uapfast.report.bom import Accused, base_model_line, make_bom, write_bom
from uapfast.report.screened import collect_screen
from uapfast.report.screened_suspects import accused_of


def accused(name: str = "suspect.onnx", **changed: Any) -> Accused:
    verdict = make_verdict("piracy", 2e-4, p_is_bound=True).to_dict() | changed.pop("verdict", {})
    return Accused(name, "victim.uapref", verdict, **changed)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for k, v in value.items():
            yield k
            yield from strings(v)
    elif isinstance(value, list):
        for v in value:
            yield from strings(v)
    elif isinstance(value, str):
        yield value


@pytest.mark.needs("cyclonedx")
@pytest.mark.parametrize("base_model", [None, "acme/classifier"])
def test_the_bill_is_valid(base_model: str | None) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    several = [
        accused(file_sha256="ab" * 32, statement=("statement.json", "cd" * 32)),
        accused(HOSTILE, verdict={"relation": "extraction", "q_value": 0.01, "reasons": [HOSTILE]}),
    ]
    text = json.dumps(make_bom(several, base_model=base_model))
    validator = JsonStrictValidator(SchemaVersion.V1_7)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"claims"', '"clams"')) is not None


def test_it_accuses_and_settles_nothing() -> None:
    bom = make_bom([accused()])
    assert "pedigree" not in bom["components"][0] and "ancestors" not in set(strings(bom))
    (claim,) = bom["declarations"]["claims"]
    suspect, victim = bom["components"]
    assert suspect["type"] == victim["type"] == "machine-learning-model"
    assert claim["target"] == suspect["bom-ref"] and claim["evidence"] and claim["counterEvidence"]
    assert "p at most 2e-4 at level 0.001" in claim["predicate"]
    refs = {c["bom-ref"] for c in bom["components"]} | {e["bom-ref"] for e in bom["declarations"]["evidence"]}
    assert {claim["target"], *claim["evidence"], *claim["counterEvidence"]} <= refs
    against = " ".join(e["description"] for e in bom["declarations"]["evidence"] if e["bom-ref"] in
                       claim["counterEvidence"])  # fmt: skip
    for other in ("same order", "common ancestor", "The other way round", "By rank alone"):
        assert other in against
    text = " ".join(strings(bom)).lower()
    assert not any(word in text for word in ("stolen", "theft", "thief", "probability", "confidence"))


def test_the_verdict_is_in_it_as_it_was() -> None:
    one = accused()
    (found,) = (
        e for e in make_bom([one])["declarations"]["evidence"] if e["propertyName"] == "uapfast:verdict"
    )
    told = json.loads(found["data"][0]["contents"]["attachment"]["content"])
    assert told["p_value"] == one.verdict["p_value"] and told["z"] == one.verdict["z"]
    assert told["reference_sha256"] == one.verdict["reference_sha256"] and "settings" not in told


def test_the_same_input_gives_the_same_bill() -> None:
    assert make_bom([accused()]) == make_bom([accused()])
    assert make_bom([accused()])["serialNumber"] != make_bom([accused("other")])["serialNumber"]


def test_a_hub_gets_a_suggestion_with_its_p_value() -> None:
    line = base_model_line(accused(), "acme/classifier")
    assert line is not None and line.startswith("base_model: acme/classifier  # suggested by uapfast ")
    assert "not settled: p <= 2e-4 at level 0.001" in line
    assert line in set(strings(make_bom([accused()], base_model="acme/classifier")))
    assert base_model_line(accused(verdict={"relation": "extraction"}), "acme/classifier") is None
    assert base_model_line(accused(verdict={"relation": "modification"}), "acme/classifier") == line


@pytest.mark.parametrize("decision", ["independent", "inconclusive", "invalid", "unavailable"])
def test_nobody_is_named_who_is_not_convicted(decision: str) -> None:
    with pytest.raises(InputError, match=f"--bom must be given for a conviction .*got {decision} for honest"):
        make_bom([accused(), accused("honest", verdict={"decision": decision})])


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="--bom must be given for a conviction .*got none"):
        make_bom([])
    for bad in ("a b", "x/y/z", "a\nb", "../x", ""):
        with pytest.raises(InputError, match="--base-model must be a hub's name"):
            make_bom([accused()], base_model=bad)
    other = dataclasses.replace(accused(), victim="another.uapref")
    with pytest.raises(InputError, match="several victims, got 2 victims"):
        make_bom([accused(), other], base_model="acme/classifier")
    assert len(make_bom([accused(), other])["components"]) == 4


def test_a_table_names_whom_one_may_name_alone(tmp_path, capsys):
    rows = make_rows(200)
    caught = [r for r in rows if r["decision"] == "piracy"]
    caught[0] |= {"known_copy": "declared"}
    caught[1] |= {"p_value": 9e-4}  # at or below the level, and far above it once corrected for 200
    for i, row in enumerate(caught[2:], 1):
        row |= {"p_value": i * 1e-7}
    table, out = write_table(tmp_path / "t.parquet", rows), tmp_path / "bom.json"
    convicted = [r["name"] for r in caught[2:]]
    assert convicted
    assert main(["report", str(table), "--bom", str(out), "--base-model", "acme/classifier"]) == 0
    said = capsys.readouterr().out
    assert said.count("base_model: acme/classifier") == len(convicted)
    bom = json.loads(out.read_text())
    names = {c["name"] for c in bom["components"]}
    assert names == {*convicted, "acme/classifier"}, "no known copy, nobody above the corrected level"
    named = accused_of(collect_screen(table))
    assert [a.name for a in named] == [r["name"] for r in sorted(caught[2:], key=lambda r: r["p_value"])]
    assert all("corrected for its whole list by Holm" in a.claim for a in named)
    before = out.read_bytes()
    none = write_table(tmp_path / "none.parquet", [r for r in rows if r["decision"] != "piracy"])
    assert main(["report", str(none), "--bom", str(out)]) == 2
    assert out.read_bytes() == before  # nothing half-written
    assert main(["report", str(table)]) == 2
    assert main(["report", str(table), "--bom", str(table)]) == 2
    assert "got a file of another kind" in capsys.readouterr().err


def test_the_file_is_plain_ascii(tmp_path) -> None:
    write_bom(make_bom([accused("mod\u00e8le \U0001f600")]), tmp_path / "bom.json")
    data = (tmp_path / "bom.json").read_bytes()
    assert data.isascii() and json.loads(data)["components"][0]["name"].startswith("mod\u00e8le")
