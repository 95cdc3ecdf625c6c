"""``verify --report`` and the pages of a screen: what they show is what was decided."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

import uapfast
from tests.api.evidence_world import World
from tests.api.owner import MLP
from tests.unit.test_report import read
from uapfast.cli import main
from uapfast.method.decision import Assessment
from uapfast.models.checkpoint import load_model
from uapfast.report.alternatives import alternatives
from uapfast.report.suspect import standing_of
from uapfast.types import Verdict


def verified(world: World, name: str, **how: Any) -> tuple[Verdict, Assessment]:
    seen: list[Assessment] = []
    verdict = uapfast.verify(world.reference, load_model(MLP, world.files[name]), seen=seen.append, **how)
    assert len(seen) == 1
    return verdict, seen[0]


@pytest.mark.parametrize("output", ["auto", "labels"])
@pytest.mark.parametrize("name", ["copy", "honest"])
def test_the_picture_is_what_was_decided(evidence_world: World, name: str, output: str) -> None:
    world, alpha = evidence_world, 0.01
    verdict, assessed = verified(world, name, output=output, alpha=alpha)
    found = standing_of(world.reference, verdict, assessed)
    assert found is not None and found.own == verdict.z
    n, m = len(world.reference.innocents), len(world.reference.candidates) - 1
    assert (len(found.innocents), len(found.pairs), len(found.own_twins)) == (n, n * m, m)
    assert found.innocents == tuple(assessed.innocents)
    assert (verdict.decision == "piracy") == (found.own >= found.threshold and verdict.rank == 1)
    # a row of a table does not tell how the suspect stands with each twin; the pool is then without it
    alone = standing_of(world.reference, verdict, None)
    assert alone is not None and alone.own == found.own and alone.own_twins == ()
    if verdict.output != "labels":
        pool = world.reference.statistic.pool_scores()
        assert np.allclose(alone.innocents, pool.innocent_z) and len(alone.pairs) == n * m


def test_a_reference_that_may_not_convict_draws_no_threshold(evidence_world: World) -> None:
    verdict, assessed = verified(evidence_world, "copy")
    settings = {**evidence_world.reference.settings, "limits": ["its twins are copies"]}
    limited = dataclasses.replace(evidence_world.reference, settings=settings, _cache={})
    found = standing_of(limited, verdict, assessed)
    assert found is not None and found.threshold == float("inf")


def test_what_is_ruled_out_and_what_is_not(evidence_world: World) -> None:
    verdict, _ = verified(evidence_world, "copy")
    assert verdict.decision == "piracy"
    rows = {a.what.partition(":")[0]: a for a in alternatives(evidence_world.reference, verdict)}
    assert rows["The same images in the same order"].status == "open"
    assert rows["The other way round"].status == rows["A common ancestor"].status == "open"
    assert rows["The recipe"].status == "declared" and "8 twins" in rows["The recipe"].by
    assert rows["Chance"].status == rows["An error in the queries"].status == "tested"
    told = {"began": "after", "committedAt": "2026-01-01T00:00:00Z", "stampedAt": None}
    made = "A test made for this suspect"

    def tuned(**changed: Any) -> tuple[str, str]:
        (row,) = (a for a in alternatives(evidence_world.reference, verdict, told | changed)
                  if a.what.startswith(made))  # fmt: skip
        return row.status, row.by

    assert rows[made].status == "open"
    assert tuned()[0] == "declared" and "no authority stamped" in tuned()[1]
    stamped = tuned(stampedAt="2026-01-02T00:00:00Z")  # it may have been at hand before that
    assert stamped[0] == "declared" and "stamped at 2026" in stamped[1] and "available before" in stamped[1]
    assert tuned(began="before")[0] == tuned(began="unknown")[0] == "open"
    start = dataclasses.replace(
        evidence_world.reference, settings={**evidence_world.reference.settings, "init": {"start": "random"}},
        _cache={},
    )  # fmt: skip
    (ancestor,) = (a for a in alternatives(start, verdict) if a.what.startswith("A common ancestor"))
    assert ancestor.status == "declared"
    honest, _ = verified(evidence_world, "honest")
    assert honest.decision != "piracy"
    said = " ".join(a.what for a in alternatives(evidence_world.reference, honest))
    assert "A copy that kept little" in said and "Chance" not in said


@pytest.mark.parametrize("name", ["copy", "honest"])
def test_the_command_writes_a_page(
    evidence_world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    out, record = tmp_path / "page.html", tmp_path / "record.jsonl"
    file = str(evidence_world.files[name])
    given = ["verify", str(evidence_world.ref), file, "--arch", MLP, "--report", str(out), "--json"]
    code = main([*given, "--record", str(record)])
    assert capfd.readouterr().out.count("\n") == 1  # the JSON object and nothing else
    first = out.read_text(encoding="utf-8")
    page = read(first)
    text = " ".join(page.text.split())
    assert ("nearer to this victim's than to its 8 twins'" in text) == (code == 1)
    assert sum(tag == "img" for tag, _ in page.tags) == 4 and "120 images, 120 in a whole" in text
    commands = re.findall(r'<code class="command">(.*?)</code>', first, re.S)
    done = subprocess.run(["bash", "-c", commands[0]], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == 0
    # the record alone gives the same page, but for the suspect's name
    again = tmp_path / "again.html"
    main(["verify", str(evidence_world.ref), "--answers", str(record), "--report", str(again)])
    assert f"wrote {again}" in capfd.readouterr().out
    assert again.read_text(encoding="utf-8").replace(str(record), file) == first


def test_a_page_takes_no_other_files_place(
    evidence_world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.html"
    mine.write_bytes(b"not a page")
    file = str(evidence_world.files["copy"])
    code = main(["verify", str(evidence_world.ref), file, "--arch", MLP, "--report", str(mine)])
    assert code == 2 and "an earlier page" in capfd.readouterr().err and mine.read_bytes() == b"not a page"


def test_a_suspect_with_unusable_weights_has_a_page_without_a_picture(
    evidence_world: World, tmp_path: Path
) -> None:
    bad, out = tmp_path / "bad.safetensors", tmp_path / "page.html"
    tensors = load_file(evidence_world.files["copy"])
    save_file({k: v * float("nan") for k, v in tensors.items()}, bad)
    assert 4 == main(["verify", str(evidence_world.ref), str(bad), "--arch", MLP, "--report", str(out)])
    page = read(out.read_text(encoding="utf-8"))
    assert "nothing is known about its descent" in page.text and not any(t == "img" for t, _ in page.tags)


def test_a_screen_links_to_the_pages_of_its_convicted_rows(
    evidence_world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    world, table = evidence_world, tmp_path / "t.parquet"
    hostile = "<script>alert(1)</script>'&\""
    with open(tmp_path / "list.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "arch", "name"))
        writer.writerow((world.files["copy"], MLP, hostile))
        writer.writerow((world.files["honest"], MLP, "honest"))
    main(["screen", str(world.ref), "--manifest", str(tmp_path / "list.csv"), "--out", str(table)])
    rows = pq.read_table(table).to_pylist()
    paged = [r["name"] for r in rows if r["decision"] in ("piracy", "inconclusive")]
    assert hostile in paged
    out, pages = tmp_path / "report.html", tmp_path / "my pages"
    given = ["report", str(table), "--out", str(out), "--pages", str(pages)]
    assert main(given) == 2 and "given with --reference" in capfd.readouterr().err
    assert main([*given, "--reference", str(world.ref), "--most", "0"]) == 2
    assert main([*given, "--reference", str(world.ref)]) == 0
    assert f"wrote {len(paged)} pages in" in capfd.readouterr().out
    found = sorted(pages.iterdir())
    assert len(found) == len(paged)
    screening = out.read_text(encoding="utf-8")
    links = set(re.findall(r'href="([^"]+)"', screening))
    assert links == {f"my%20pages/{p.name}" for p in found}
    text = found[0].read_text(encoding="utf-8")
    assert "<script" not in text and "one of 2 rows of a screen" in " ".join(read(text).text.split())
    assert main([*given, "--reference", str(world.ref), "--most", "1"]) == 0
    said = capfd.readouterr().out
    assert "wrote 1 pages" in said or "wrote 1 of" in said


def test_the_pages_of_a_screen_link_its_records(
    evidence_world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With commands that work when they are pasted; a record of something else is not linked."""
    world, table, records = evidence_world, tmp_path / "t.parquet", tmp_path / "the records"
    suspects = tmp_path / "suspects"
    suspects.mkdir()
    for name in ("copy", "honest"):
        shutil.copy(world.files[name], suspects / f"{name}.safetensors")
    asked = ["screen", str(world.ref), "--dir", str(suspects), "--arch", MLP, "--out", str(table)]
    assert main([*asked, "--record", str(records)]) == 1
    pages = tmp_path / "pages"
    given = ["report", str(table), "--out", str(tmp_path / "report.html"), "--reference", str(world.ref)]
    assert main([*given, "--record", str(records)]) == 2
    assert "--record must be given with --pages" in capfd.readouterr().err
    assert main([*given, "--pages", str(pages), "--record", str(suspects)]) == 2
    assert "--record must be a folder of records" in capfd.readouterr().err
    assert main([*given, "--pages", str(pages), "--record", str(records)]) == 0
    assert "came of no record" not in capfd.readouterr().out
    row = next(r for r in pq.read_table(table).to_pylist() if r["name"].startswith("copy"))
    (page,) = [p for p in pages.iterdir() if "copy.safetensors" in p.read_text(encoding="utf-8")]
    text = html.unescape(page.read_text(encoding="utf-8"))
    hashes, again = re.findall(r'<code class="command">(.*?)</code>', text, re.S)
    assert "as that of one suspect: the list is not corrected for" in text
    assert "its 8 twins in the victim's place" in " ".join(read(text).text.split())
    monkeypatch.chdir(pages)
    done = subprocess.run(["bash", "-c", hashes], check=False, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == 2, done
    command = shlex.split(again)
    assert command[:2] == ["uapfast", "verify"] and main([*command[1:], "--json"]) == 1
    verdict = json.loads(capfd.readouterr().out)
    assert verdict["p_value"] == row["p_value"] and verdict["suspect_sha256"] == row["sha256"]
    # records that do not hold are not what these rows came of
    other = tmp_path / "other"
    shutil.copytree(records, other)
    for path in other.iterdir():
        recording = path.read_text().replace('"i":0,', '"i":1000000,', 1)
        path.write_text(recording)
    assert main([*given, "--pages", str(pages), "--record", str(other)]) == 0
    assert f"came of no record in {other}" in capfd.readouterr().out
    (hashes,) = re.findall(r'<code class="command">(.*?)</code>', page.read_text(encoding="utf-8"), re.S)
    assert "sha256sum" in hashes
