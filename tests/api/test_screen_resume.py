"""What is known is not asked again: identical tensors, a rerun, a run that was broken off."""

from __future__ import annotations

import shutil

import torch
from safetensors.torch import load_file, save_file

import uapfast
from tests.api.screen_rows import bare, table
from tests.api.screen_world import CNN, MLP, RESIDUAL
from uapfast.screening.asking import judge as judge_module
from uapfast.screening.engine import worker
from uapfast.screening.listing.entry import Entry


def test_identical_tensors_are_asked_once(world, tmp_path, monkeypatch):
    asked = []
    real = judge_module.judge

    def counted(panel, skeletons, found):
        asked.append(found.entry.name)
        return real(panel, skeletons, found)

    monkeypatch.setattr(worker, "judge", counted)
    source = world.suspect("honest-0")
    copies = []
    for i in range(20):
        path = tmp_path / f"{i:02d}.safetensors"
        # another file: metadata and order differ, tensors do not
        save_file(dict(reversed(load_file(source.path).items())), path, metadata={"n": str(i)})
        copies.append(Entry(str(path), MLP))
    shutil.copy(world.suspect("honest-1").path, tmp_path / "other.safetensors")
    other = Entry(str(tmp_path / "other.safetensors"), CNN)
    out = tmp_path / "t.parquet"
    uapfast.screen(world.references, [*copies, other], out=out, workers=2).finish()
    assert len(asked) == 2 and sorted(asked)[1] == "other.safetensors"
    rows = [r for (reference, _), r in table(out).items() if reference == "first"]
    first = next(r for r in rows if r["same_as"] is None and r["name"] != "other.safetensors")
    for row in rows:
        if row["name"] not in (first["name"], "other.safetensors"):
            assert row["same_as"] == first["name"] and row["z"] == first["z"] and row["path"] != first["path"]


def test_what_torch_saved_is_read_too_and_recognised_as_the_same(world, tmp_path):
    state = load_file(world.suspect("honest-5").path)
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    some = [Entry(str(tmp_path / n), RESIDUAL) for n in ("zip.pt", "legacy.bin")]
    with uapfast.screen(world.references["first"], some, early=False, workers=1) as screening:
        a, b = screening
    verdict = world.verify("first", "honest-5")
    assert a.sha256 == b.sha256 == verdict.suspect_sha256 and b.same_as == a.name
    assert a.z == b.z == verdict.z


def test_a_rerun_asks_nothing_and_a_longer_list_only_what_is_new(world, tmp_path, monkeypatch):
    out = tmp_path / "t.parquet"
    uapfast.screen(world.references, world.suspects[:5], out=out).finish()
    before = table(out)
    asked = []
    real = judge_module.judge
    monkeypatch.setattr(
        worker,
        "judge",
        lambda p, s, found: asked.append(found.entry.name) or real(p, s, found),
    )
    uapfast.screen(world.references, world.suspects[:5], out=out).finish()
    assert not asked and table(out) == before
    uapfast.screen(world.references, world.suspects[:7], out=out).finish()
    assert sorted(asked) == sorted(s.name for s in world.suspects[5:7])
    uapfast.screen(world.references, world.suspects[:2], out=out, resume=False).finish()
    assert len(asked) == 4 and len(table(out)) == 4
    uapfast.screen(world.references, world.suspects[:2], out=out, alpha=0.02).finish()
    assert len(asked) == 6  # other settings, other rows


def test_a_broken_off_iteration_is_continued(world, tmp_path):
    out = tmp_path / "t.parquet"
    whole = tmp_path / "whole.parquet"
    uapfast.screen(world.references, world.suspects, out=whole).finish()
    screening = uapfast.screen(world.references, world.suspects, out=out, workers=1)
    for _ in screening:
        break
    screening.close()
    assert not out.exists()
    uapfast.screen(world.references, world.suspects, out=out, workers=2).finish()
    assert bare(table(out)) == bare(table(whole))


def test_references_under_other_names_keep_their_rows(world, tmp_path):
    out = tmp_path / "t.parquet"
    uapfast.screen(world.references, world.suspects[:2], out=out).finish()
    files = [world.folder / "second.uapref", world.folder / "first.uapref"]
    shutil.copy(files[1], tmp_path / "renamed.uapref")
    uapfast.screen([files[0], tmp_path / "renamed.uapref"], world.suspects[:2], out=out).finish()
    assert [k[0] for k in table(out)] == ["second", "second", "renamed", "renamed"]
