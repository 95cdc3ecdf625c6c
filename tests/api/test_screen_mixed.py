"""A screen over suspects of every kind: each row is what ``verify`` says of the same suspect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import uapfast
from tests.api.mixed_suspects import (
    ARCHS,
    NUMBERS,
    as_manifest,
    config,
    numbers,
    state,
    write_others,
    write_refused,
    write_weights,
)
from tests.api.screen_world import CNN, MLP, World
from tests.api.thread_backend import Threads
from tests.security.onnx_forge import classifier
from uapfast.errors import ManifestError
from uapfast.models.checkpoint import load_model
from uapfast.screening.asking.judge import failed_rows
from uapfast.screening.asking.panel import Panel, Settings
from uapfast.screening.engine.local import run as run_local
from uapfast.screening.engine.remote import pack_panel
from uapfast.screening.engine.scheduler import Scheduler
from uapfast.screening.engine.supervisor import Supervisor
from uapfast.screening.listing.collection import from_folder
from uapfast.screening.listing.entry import Defaults
from uapfast.suspects.folder import open_folder
from uapfast.suspects.onnx import open_onnx


@pytest.fixture
def tree(world: World, tmp_path: Path, timm: None) -> Iterator[tuple[Path, dict[str, str], dict[str, str]]]:
    top = tmp_path / "models"
    top.mkdir()
    (top / "README.md").write_text("# models")
    (top / "endpoint.toml").write_text('url = "http://127.0.0.1:1/never"')
    told = write_weights(top, world) | write_others(top, world)
    yield top, told, write_refused(top, world)


@pytest.mark.needs("onnxruntime")
@pytest.mark.parametrize("early", [True, False])
def test_a_folder_of_thirty_layouts(world: World, tree: tuple[Any, ...], tmp_path: Path, early: bool) -> None:
    top, same, refused = tree
    screening = uapfast.screen(
        world.references["first"], top, arch=ARCHS, out=tmp_path / "t.parquet", early=early, fdr=1.0
    )
    with screening:
        rows = {row.name: row for row in screening}
    assert rows.keys() == same.keys() | refused.keys() and len(rows) == 31
    for name, told in refused.items():
        assert rows[name].decision == "invalid" and told in str(rows[name].error_message), rows[name]
    for name, suspect in same.items():
        known, row = world.verify("first", suspect), rows[name]
        if suspect == "victim-1":
            assert row.decision == known.decision == "piracy", (name, row)
        elif early:
            assert row.decision != "piracy", (name, row)
        else:
            exact = row.kind != "onnx"
            for number in NUMBERS:
                ours, theirs = getattr(row, number), getattr(known, number)
                close = exact or isinstance(theirs, str) or theirs is None
                assert ours == (theirs if close else pytest.approx(theirs, rel=1e-3)), (name, number)
    kinds = {name: row.kind for name, row in rows.items()}
    assert kinds["hub"] == kinds["two/ema.safetensors"] == "folder" and kinds["victim.onnx"] == "onnx"
    assert rows["cnn.pth"].arch == CNN and rows["hub"].arch == "timm:mlp" and not rows["honest.onnx"].arch
    summary = screening.summary
    assert summary is not None and {"README.md", "endpoint.toml"} <= set(summary.skipped_names)
    assert any("module." in reason for reason in rows["ddp.pth"].reasons), "what was cleaned is said"


def test_a_folders_row_is_its_verdict(world: World, tmp_path: Path, timm: None) -> None:
    folder = config(tmp_path / "hub", "cnn")
    safetensors.torch.save_file(state(world, "honest-1"), folder / "model.safetensors")
    (row,) = uapfast.screen(world.references["first"], [folder], early=False)
    verdict = uapfast.verify(world.references["first"], open_folder(folder))
    assert numbers(row) == numbers(verdict) and row.reasons == verdict.reasons
    assert row.sha256 == verdict.suspect_sha256


@pytest.mark.needs("onnxruntime")
def test_an_onnx_files_row_is_its_verdict(world: World, tmp_path: Path) -> None:
    module = load_model(MLP, world.suspect("pruned-1").path).module
    assert isinstance(module, nn.Module)
    file = tmp_path / "m.onnx"
    file.write_bytes(classifier(module, [1, 8, 8]))
    (row,) = uapfast.screen(world.references["first"], [file], early=False)
    with open_onnx(file) as suspect:
        verdict = uapfast.verify(world.references["first"], suspect)
    assert numbers(row) == numbers(verdict) and row.reasons == verdict.reasons


def test_a_key_and_a_class_order(world: World, tmp_path: Path) -> None:
    victim = state(world, "victim-1")
    last = [n for n in victim if victim[n].shape[0] == 10]
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    turned = {n: t[order] if n in last else t for n, t in victim.items()}
    torch.save({"state_dict": state(world, "honest-0"), "state_dict_ema": turned}, tmp_path / "w.pt")
    own = [int(k) for k in torch.argsort(order)]
    text = " ".join(map(str, own))
    listed = as_manifest(
        tmp_path, {"path": "w.pt", "arch": MLP, "key": "state_dict_ema", "class_order": text, "name": "both"},
        {"path": "w.pt", "arch": MLP, "key": "state_dict", "name": "plain"},
    )  # fmt: skip
    rows = {row.name: row for row in uapfast.screen(world.references["first"], listed, fdr=1.0)}
    assert rows["both"].decision == "piracy" and rows["plain"].decision != "piracy"
    given = {"key": "state_dict_ema", "class_order": own, "fdr": 1.0}
    (row,) = uapfast.screen(world.references["first"], [tmp_path / "w.pt"], arch=MLP, **given)
    assert row.decision == "piracy"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"path": "x.pt", "kind": "cloud"}, "'cloud'"),
        ({"path": "x", "kind": "folder", "arch": MLP}, "empty for the kind folder"),
        ({"path": "x", "kind": "folder", "mean": "0.5", "std": "1"}, "mean"),
        ({"path": "m.onnx", "kind": "onnx", "arch": MLP}, "arch"),
        ({"path": "x.pt", "kind": "weights"}, "arch"),
        ({"path": "x.pt", "arch": MLP, "class_order": "1,-2"}, "class_order"),
        ({"path": "http://127.0.0.1:1/"}, "--endpoints"),
    ],
)
def test_lines_that_contradict_themselves(
    world: World, tmp_path: Path, line: dict[str, str], told: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        uapfast.screen(world.references["first"], as_manifest(tmp_path, line))
    assert told in str(caught.value)


@pytest.mark.needs("onnxruntime")
def test_workers_elsewhere_give_what_local_gives(
    world: World,
    tree: tuple[Any, ...],
    make: Any,
) -> None:
    top, same, refused = tree
    panel = Panel.of({"first": world.references["first"]}, Settings(0.01, workers=1))
    entries = [(e, e.stamp()) for e in from_folder(top, Defaults(ARCHS))]
    local = [row for one in run_local(panel, iter(entries), lambda s, h: None) for row in one.rows]
    scheduler = Scheduler(iter(entries), lambda s, h: None, lambda s, e, h: failed_rows(panel, s, e, h))
    backend = Threads(make, pack_panel(panel))
    done = list(Supervisor(backend, scheduler, 2, panel.versions).run())
    backend.pool.shutdown()
    rows = {row.name: row for one in done for row in one.rows}
    assert rows.keys() == same.keys() | refused.keys()
    for row in local:
        own, other = numbers(row), numbers(rows[row.name])
        assert (own, row.arch, row.kind) == (other, rows[row.name].arch, rows[row.name].kind), row.name
    assert {one.suspect.identity for one in done} == {entry.identity for entry, _ in entries}
    # answered by another file with the same tensors: what was cleaned in this one is said all the same
    assert any("module." in reason for reason in rows["ddp.pth"].reasons)
