"""What tables say is what they are: rows as ``verify`` has them, names, files of any name, logs."""

from __future__ import annotations

import copy
import logging
import os
import pickle

import pyarrow.parquet as pq
import pytest

import uapfast
from tests.api.screen_world import MLP, World
from uapfast.cli import main
from uapfast.errors import InputError, ManifestError
from uapfast.models.checkpoint import load_model
from uapfast.screening.table.rows import VERDICT_FIELDS

QUICK = ("victim-1", "honest-0")


def some(world: World, *names: str) -> list[uapfast.Entry]:
    return [world.suspect(n) for n in names or QUICK]


# -- early stopping ---------------------------------------------------------------------------------


def test_who_is_convicted_has_the_numbers_of_verify_and_p_is_the_largest_side(world):
    with uapfast.screen(world.references, world.suspects, alpha=0.01, fdr=1.0) as screening:
        screening.finish()
        rows = list(screening.rows())
    convicted = [r for r in rows if r.decision == "piracy"]
    assert {(r.reference, r.name) for r in convicted} >= {("first", "victim-1"), ("second", "victim-2")}
    for row in convicted:
        verdict = world.verify(row.reference, row.name, 0.01).to_dict()
        for field in set(VERDICT_FIELDS) - {"reasons"}:
            want = verdict[field]
            # batches are cut at the looks, which may move a float's last bits
            assert getattr(row, field) == (pytest.approx(want) if isinstance(want, float) else want), field
    for row in rows:
        if row.p_value is not None:
            assert row.p_value == max(
                p for p in (row.p_candidate, row.p_suspect, row.p_joint) if p is not None
            )
    assert any(r.queries_used < r.queries_full for r in rows)


# -- a screen's life -------------------------------------------------------------------------------


def test_rows_can_be_asked_for_after_finish_inside_the_block_and_say_why_not_outside(world):
    with uapfast.screen(world.references["first"], some(world)) as screening:
        with pytest.raises(InputError, match="after the last suspect"):
            screening.rows()
        summary = screening.finish()
        assert [r.name for r in screening.rows()] == list(QUICK) == [r.name for r in screening.rows()]
    for ask in (screening.rows, lambda: list(screening)):
        with pytest.raises(InputError, match=r"screening must be open while .* got a closed one"):
            ask()
    assert screening.finish() == summary  # is known, so it is said
    alone = uapfast.screen(world.references["first"], some(world))
    alone.finish()
    with pytest.raises(InputError, match="closed one"):
        alone.rows()
    unfinished = uapfast.screen(world.references["first"], some(world))
    unfinished.close()
    with pytest.raises(InputError, match="closed one"):
        unfinished.finish()


def test_a_bad_manifest_leaves_the_old_rows_alone(world, tmp_path):
    out, bad = tmp_path / "t.parquet", tmp_path / "bad.csv"
    uapfast.screen(world.references["first"], some(world), out=out).finish()
    bad.write_text(f"path,arch\n{world.suspect('honest-1').path},{MLP}\nx.pt,{MLP},too many\n")
    with pytest.raises(ManifestError, match="on every line"):
        uapfast.screen(world.references["first"], bad, out=out, resume=False)
    asked = []
    again = uapfast.screen(
        world.references["first"], some(world), out=out, progress=lambda *a: asked.append(a)
    )
    assert again.finish().rows == 2 and asked[0][:2] == (2, 2)  # both were there
    fresh = []
    uapfast.screen(
        world.references["first"], some(world), out=out, resume=False, progress=lambda *a: fresh.append(a)
    ).finish()
    assert fresh[0][:2] == (0, 2)


# -- names -----------------------------------------------------------------------------------------


def test_references_of_one_name_are_all_asked(world, tmp_path):
    paths = [tmp_path / "a-3.uapref", tmp_path / "p" / "a.uapref", tmp_path / "q" / "a.uapref"]
    third = copy.copy(world.references["first"])
    vars(third).update(settings=third.settings | {"note": "third"}, _cache={})
    for path, reference in zip(paths, (*world.references.values(), third), strict=True):
        path.parent.mkdir(exist_ok=True)
        reference.save(path)
    with uapfast.screen(paths, some(world, "honest-0")) as screening:
        screening.finish()
        named = {r.reference: r.reference_sha256 for r in screening.rows()}
    first, second = world.references.values()
    assert named == {"a-3": first.sha256, "a": second.sha256, "a-2": third.sha256}


def test_names_of_a_mapping_that_are_one_text_are_refused(world):
    first, second = world.references.values()
    with pytest.raises(InputError, match="names that differ as text, got 1, '1'"):
        uapfast.screen({1: first, "1": second}, some(world))


def test_a_file_name_that_is_no_utf8_is_written_and_reported(world, tmp_path, capfd):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/t\xff.parquet")
    names = "\n".join(f"{s.path},{s.arch}" for s in some(world))
    (tmp_path / "list.csv").write_text(f"path,arch\n{names}\n")
    reference = str(world.folder / "first.uapref")
    code = main(["screen", reference, "--manifest", str(tmp_path / "list.csv"), "--out", odd])
    said = capfd.readouterr()
    assert code in (0, 1, 3) and "t\\udcff.parquet" in said.out, said
    with open(odd, "rb") as stream:
        assert pq.read_table(stream).num_rows == 2
    page = os.fsdecode(os.fsencode(tmp_path) + b"/r\xff.html")
    assert main(["report", odd, "--out", page]) == 0 and os.path.getsize(page) > 10_000


def test_what_a_folder_holds_besides_is_counted_and_named(world, tmp_path, capfd):
    place = tmp_path / "models"
    place.mkdir()
    data = (world.folder / "victim-1.safetensors").read_bytes()
    for name in ("renamed", "copy.0001", "notes.md"):
        (place / name).write_bytes(data if name != "notes.md" else b"# notes")
    reference, out = str(world.folder / "first.uapref"), str(tmp_path / "t.parquet")
    code = main(["screen", reference, "--dir", str(place), "--arch", MLP, "--out", out, "--alpha", "0.01"])
    said = capfd.readouterr().out
    assert code == 1 and "2 suspects" in said
    assert "skipped, no weights by name or first bytes: 1 files (notes.md)" in said
    summary = uapfast.screen(world.references["first"], place, arch=MLP).finish()
    assert summary.skipped == 1 and summary.to_dict()["skipped_names"] == ["notes.md"]


# -- references and verdicts as values -----------------------------------------------------------------


def test_verify_and_encode_take_a_file_and_refuse_anything_else(world):
    suspect = world.suspect("honest-0")
    model = load_model(suspect.arch, suspect.path)
    path = world.folder / "first.uapref"
    for given in (path, str(path)):
        assert uapfast.verify(given, model) == uapfast.verify(world.references["first"], model)
    assert uapfast.encode(path, model).shape == uapfast.encode(world.references["first"], model).shape
    for verb in (uapfast.verify, uapfast.encode):
        with pytest.raises(InputError, match="reference must be a Reference or its file, got int"):
            verb(7, model)
    with pytest.raises(InputError, match="screen: reference must be a Reference or its file, got int"):
        uapfast.screen([7], some(world))


def test_a_reference_is_a_value(world):
    first, second = world.references.values()
    for twin in (pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        assert twin == first and hash(twin) == hash(first) and twin != second and twin != "first"
        model = load_model(MLP, world.suspect("victim-1").path)
        assert uapfast.verify(twin, model) == uapfast.verify(first, model)


def test_a_verdict_can_be_hashed(world):
    verdict, other = world.verify("first", "honest-0"), world.verify("first", "victim-1")
    assert len({verdict, copy.deepcopy(verdict), other}) == 2


# -- logs --------------------------------------------------------------------------------------------


def test_verbs_say_what_they_do_to_the_log(world, caplog):
    with caplog.at_level(logging.DEBUG, logger="uapfast"):
        world.verify("first", "honest-0")
        uapfast.screen(world.references["first"], some(world)).finish()
    said = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert any(level == "INFO" and text.startswith("verify: ") for level, text in said)
    assert any(text.startswith("screen: 2 suspects, 0 of them done") for _, text in said)
    assert (
        sum(
            level == "DEBUG" and text.startswith(("screen: victim-1", "screen: honest-0"))
            for level, text in said
        )
        == 2
    )


def test_debug_shows_the_log_on_stderr(world, tmp_path, capfd):
    suspect = world.suspect("honest-0")
    arguments = [
        "verify",
        str(world.folder / "first.uapref"),
        "--arch",
        suspect.arch,
        "--weights",
        suspect.path,
    ]
    main(arguments)
    assert "info: verify" not in capfd.readouterr().err
    main([*arguments, "--debug", "--json"])
    got = capfd.readouterr()
    assert "info: verify: " in got.err and got.out.startswith("{")
