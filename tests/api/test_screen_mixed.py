"""A screen over suspects of every kind: each row is what ``verify`` says of the same suspect."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import uapfast
from tests.api.http_servers import Served, Server, oip
from tests.api.screen_world import CNN, MLP, RESIDUAL, World
from tests.api.test_screen_remote import Threads, make  # noqa: F401
from tests.security.onnx_forge import classifier
from uapfast.errors import ManifestError
from uapfast.models.checkpoint import load_model, read_weights
from uapfast.models.registry import resolve_arch
from uapfast.screening.collection import Skipped, from_folder
from uapfast.screening.entry import Defaults
from uapfast.screening.judge import failed_rows
from uapfast.screening.local import run as run_local
from uapfast.screening.panel import Panel, Settings
from uapfast.screening.remote import pack
from uapfast.screening.rows import Row
from uapfast.screening.scheduler import Scheduler
from uapfast.screening.supervisor import Supervisor
from uapfast.suspects.folder import open_folder
from uapfast.suspects.http import open_http
from uapfast.suspects.onnx import open_onnx

State = dict[str, Tensor]
ARCHS = (CNN, MLP, RESIDUAL)
NUMBERS = ("decision", "p_value", "similarity", "z", "agreement", "queries_used", "output")


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library whose networks are ours."""

    def create_model(name: str, **_: Any) -> nn.Module:
        made: Any = resolve_arch(f"uapfast:{name}-small?size=8")()
        made.num_classes, made.in_chans, made.pretrained_cfg = 10, 1, {}
        return made

    fake = types.SimpleNamespace(is_model=lambda name: True, create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", fake)  # type: ignore[arg-type]


def state(world: World, name: str) -> State:
    return dict(read_weights(world.suspect(name).path))


def config(folder: Path, arch: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    about = {"input_size": [1, 8, 8], "mean": [0.0], "std": [1.0]}
    told = {"architecture": arch, "num_classes": 10, "pretrained_cfg": about}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def prefixed(tensors: State, prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def sharded(folder: Path, tensors: State, suffix: str) -> None:
    folder.mkdir(parents=True)
    names, where = list(tensors), {}
    for number in range(2):
        part = {n: tensors[n] for n in names[number::2]}
        file = f"model-{number + 1:05d}-of-00002.{suffix}"
        if suffix == "bin":
            torch.save(part, folder / file)
        else:
            safetensors.torch.save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / f"model.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def write_weights(top: Path, world: World) -> dict[str, str]:
    """Weights files in the layouts that people have; name to the suspect of the world that it is."""
    victim, cnn, residual = (state(world, n) for n in ("victim-1", "honest-1", "honest-2"))
    safetensors.torch.save_file(victim, top / "plain.safetensors")
    torch.save(victim, top / "plain.pt")
    torch.save(prefixed(victim, "module."), top / "ddp.pth")
    torch.save(prefixed(victim, "_orig_mod."), top / "compiled.pt")
    lightning = {"state_dict": prefixed(victim, "model."), "hyper_parameters": {"lr": 0.1}, "epoch": 3}
    torch.save(lightning, top / "lightning.ckpt")
    torch.save({"model": victim, "optimizer": {"state": {}}, "epoch": 1}, top / "trainer.pt")
    torch.save({"state_dict": victim, "state_dict_ema": cnn}, top / "with_ema.pth.tar")
    torch.save(victim, top / "legacy.pth", _use_new_zipfile_serialization=False)
    np.savez(top / "arrays.npz", **{name: tensor.numpy() for name, tensor in victim.items()})
    averaged = {"n_averaged": torch.tensor(5)} | prefixed(victim, "module.")
    torch.save(averaged, top / "averaged.pt")
    half = {n: t.half() if t.is_floating_point() else t for n, t in victim.items()}
    safetensors.torch.save_file(half, top / "half.safetensors")
    brain = {n: t.bfloat16() if t.is_floating_point() else t for n, t in victim.items()}
    torch.save(brain, top / "brain.pt")
    sharded(top / "sharded", victim, "safetensors")
    sharded(top / "old_sharded", victim, "bin")
    torch.save(victim, top / "no_suffix")
    torch.save(cnn, top / "cnn.pth")
    (top / "deep" / "er").mkdir(parents=True)
    safetensors.torch.save_file(residual, top / "deep" / "er" / "residual.safetensors")
    copies = (
        "plain.safetensors plain.pt ddp.pth compiled.pt lightning.ckpt trainer.pt with_ema.pth.tar legacy.pth"
    )
    copies += " arrays.npz averaged.pt half.safetensors brain.pt no_suffix"
    copies += " sharded/model.safetensors.index.json old_sharded/model.bin.index.json"
    return dict.fromkeys(copies.split(), "victim-1") | {
        "cnn.pth": "honest-1", "deep/er/residual.safetensors": "honest-2"
    }  # fmt: skip


def write_others(top: Path, world: World) -> dict[str, str]:
    """Hub folders and ONNX files."""
    victim, cnn = state(world, "victim-1"), state(world, "honest-1")
    safetensors.torch.save_file(victim, config(top / "hub", "mlp") / "model.safetensors")
    torch.save(victim, top / "hub" / "pytorch_model.bin")
    torch.save({"state": {}}, top / "hub" / "optimizer.pt")
    (top / "hub" / "preprocessor_config.json").write_text("{}")
    safetensors.torch.save_file(cnn, config(top / "two", "cnn") / "model.safetensors")
    safetensors.torch.save_file(cnn, top / "two" / "ema.safetensors")
    cache = top / "models--owner--net"
    snapshot, blobs = cache / "snapshots" / "abc123", cache / "blobs"
    blobs.mkdir(parents=True)
    shutil.move(config(top / "made", "mlp") / "config.json", blobs / "c0ffee")
    safetensors.torch.save_file(victim, blobs / "beef")
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/c0ffee")
    (snapshot / "model.safetensors").symlink_to("../../blobs/beef")
    for name, file in (("victim-1", "victim.onnx"), ("honest-0", "honest.onnx")):
        module = load_model(MLP, world.suspect(name).path).module
        assert isinstance(module, nn.Module)
        (top / file).write_bytes(classifier(module, [1, 8, 8]))
    return {
        "hub": "victim-1", "hub/pytorch_model.bin": "victim-1",
        "two": "honest-1", "two/ema.safetensors": "honest-1",
        "models--owner--net/snapshots/abc123": "victim-1",
        "victim.onnx": "victim-1", "honest.onnx": "honest-0",
    }  # fmt: skip


def rows_of(world: World, suspects: Any, **given: Any) -> list[Row]:
    with uapfast.screen(world.references["first"], suspects, **given) as screening:
        return list(screening)


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def write_refused(top: Path, world: World) -> dict[str, str]:
    """What gets a row with an error; name to what the row says."""
    torch.save({"w": torch.zeros(2)} | state(world, "victim-1"), top / "foreign.pt")
    torch.save(Runs(), top / "program.pt")
    (top / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    (top / "broken.onnx").write_bytes(b"\x08\x07\x12\x00" + bytes(9))
    (top / "empty.pth").touch()
    torch.jit.script(nn.Linear(2, 2)).save(str(top / "script.pt"))
    safetensors.torch.save_file(state(world, "victim-1"), config(top / "code", "mlp") / "model.safetensors")
    told = json.dumps({"architectures": ["OwnForImageClassification"], "auto_map": {"AutoModel": "net.Own"}})
    (top / "code" / "config.json").write_text(told)
    return {
        "foreign.pt": f"{MLP} is nearest, with 1 of", "program.pt": "print", "keras.h5": "HDF5",
        "broken.onnx": "ONNX", "empty.pth": "weights", "script.pt": "torch.onnx.export", "code": "auto_map",
    }  # fmt: skip


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


def numbers(found: Any) -> list[Any]:
    return [getattr(found, name) for name in NUMBERS]


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


@pytest.fixture
def served(world: World) -> Iterator[Server]:
    module = load_model(MLP, world.suspect("victim-1").path).module
    assert isinstance(module, nn.Module)
    with Server(oip, Served(module)) as server:
        yield server


def as_manifest(folder: Path, *lines: dict[str, str]) -> Path:
    path = folder / "list.csv"
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, dict.fromkeys(key for line in lines for key in line), restval="")
        writer.writeheader()
        writer.writerows(lines)
    return path


@pytest.mark.needs("httpx2")
def test_an_endpoint_of_a_manifest(world: World, served: Server, tmp_path: Path) -> None:
    url = f"{served.url}/v2/models/digits"
    listed = as_manifest(tmp_path, {"path": url, "kind": "endpoint", "name": "theirs"})
    with pytest.raises(ManifestError, match="--endpoints"):
        uapfast.screen(world.references["first"], listed)
    (row,) = uapfast.screen(world.references["first"], listed, endpoints=True, fdr=1.0)
    with open_http(url) as suspect:
        verdict = uapfast.verify(world.references["first"], suspect)
    assert (row.decision, row.kind, row.path, row.sha256) == ("piracy", "endpoint", url, None)
    assert row.z == pytest.approx(verdict.z) and row.queries_used == verdict.queries_used


@pytest.mark.needs("httpx2")
def test_an_endpoint_that_is_away_is_asked_again(world: World, served: Server, tmp_path: Path) -> None:
    listed = as_manifest(
        tmp_path,
        {"path": f"{served.url}/v2/models/digits", "name": "theirs"},
        {"path": world.suspect("honest-0").path, "name": "file", "arch": MLP},
    )
    given: dict[str, Any] = {"out": tmp_path / "t.parquet", "endpoints": True, "fdr": 1.0}
    conduct = {"cache": str(tmp_path / "answers"), "budget": 100}
    rows = {row.name: row for row in rows_of(world, listed, conduct=conduct, **given)}
    assert rows["theirs"].decision == "unavailable" and rows["file"].decision != "unavailable"
    sent = served.served.images
    assert 0 < sent <= 100
    again = uapfast.screen(world.references["first"], listed, conduct=conduct | {"budget": None}, **given)
    with again:
        (row,) = again  # and not the file
    assert (row.name, row.decision) == ("theirs", "piracy") and again.summary is not None
    assert again.summary.decisions["piracy"] == 1 and again.summary.exit_code == 1


def test_an_address_that_nobody_answers(world: World, tmp_path: Path) -> None:
    entry = uapfast.Entry("http://127.0.0.1:9/v2/models/digits", kind="endpoint", name="gone")
    conduct = {"attempts": 1, "timeout": 1.0}
    screening = uapfast.screen(world.references["first"], [entry], conduct=conduct)
    with screening:
        (row,) = screening
    assert row.decision == "unavailable" and screening.summary is not None
    assert screening.summary.exit_code == 5


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
        ({"path": "x", "kind": "folder", "arch": MLP}, "left empty with kind folder"),
        ({"path": "x", "kind": "folder", "mean": "0.5", "std": "1"}, "mean"),
        ({"path": "m.onnx", "kind": "onnx", "key": "ema"}, "key"),
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
    make: Any,  # noqa: F811
) -> None:
    top, same, refused = tree
    panel = Panel.of({"first": world.references["first"]}, Settings(0.01, workers=1))
    entries = [(e, e.stamp()) for e in from_folder(top, Defaults(ARCHS))]
    local = [row for one in run_local(panel, iter(entries), lambda s, h: None) for row in one.rows]
    scheduler = Scheduler(iter(entries), lambda s, h: None, lambda s, e, h: failed_rows(panel, s, e, h))
    backend = Threads(make, pack(panel))
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


# -- what somebody may hide --------------------------------------------------------------------------


def names(top: Path) -> tuple[set[str], Skipped]:
    skipped = Skipped()
    return {entry.name for entry in from_folder(top, Defaults(ARCHS), skipped=skipped)}, skipped


def test_nothing_is_hidden_by_folders_that_look_like_a_cache(world: World, tmp_path: Path) -> None:
    victim = state(world, "victim-1")
    for name in ("snapshots", "blobs", "refs", "others"):
        (tmp_path / name).mkdir()
        safetensors.torch.save_file(victim, tmp_path / name / f"{name}.safetensors")
    assert names(tmp_path)[0] == {f"{n}/{n}.safetensors" for n in ("snapshots", "blobs", "refs", "others")}


def test_nothing_is_hidden_in_a_hub_folder(world: World, tmp_path: Path, timm: None) -> None:
    victim = state(world, "victim-1")
    hub = config(tmp_path / "hub", "mlp")
    for file in ("model", "pytorch_model", "stolen", "optimizer_net", "whole-00001-of-00002"):
        safetensors.torch.save_file(victim, hub / f"{file}.safetensors")
    told = {
        "weight_map": dict.fromkeys(victim, "stolen.safetensors") | {"x": "whole-00001-of-00002.safetensors"}
    }
    (hub / "other.safetensors.index.json").write_text(json.dumps(told))
    found, _ = names(tmp_path)
    assert found == {
        "hub", "hub/pytorch_model.safetensors", "hub/stolen.safetensors", "hub/optimizer_net.safetensors",
        "hub/other.safetensors.index.json",
    }  # fmt: skip


def test_what_cannot_be_read_or_is_a_link_is_counted(world: World, tmp_path: Path) -> None:
    safetensors.torch.save_file(state(world, "victim-1"), tmp_path / "a.safetensors")
    (tmp_path / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    found, skipped = names(tmp_path)
    assert found == {"a.safetensors"} and skipped.names == ["elsewhere"]


def test_a_trainers_own_configuration_is_no_hub_folder(world: World, tmp_path: Path) -> None:
    safetensors.torch.save_file(state(world, "honest-1"), tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "lr": 0.1}))
    assert names(tmp_path)[0] == {"a.safetensors"}


def test_the_victims_own_weights_are_never_cleared(world: World, tmp_path: Path) -> None:
    victim = world.suspect("victim-1")
    for mean, std in ((0.5, 1.0), (0.5, 2.0), (0.4, 2.0), (0.0, 1.0)):
        entry = uapfast.Entry(victim.path, MLP, mean=(mean,), std=(std,))
        (row,) = rows_of(world, [entry], fdr=1.0)
        assert row.decision != "independent" and "byte for byte" in row.reasons[0], (mean, std, row)


def test_a_manifests_endpoint_reads_no_secret(
    world: World, served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", "s3cret")
    url = f"{served.url}/v2/models/digits"
    (tmp_path / "m.toml").write_text(f'url = "{url}"\n[headers]\nX-Trace = "${{TOKEN_OF_MINE}}"\n')
    listed = as_manifest(tmp_path, {"path": "m.toml", "kind": "endpoint"})
    (row,) = rows_of(world, listed, endpoints=True)
    assert row.error_class == "EndpointError" and "--secret" in str(row.error_message)
    assert not served.served.headers
    (row,) = rows_of(world, listed, endpoints=True, conduct={"secrets": ["TOKEN_OF_MINE"]})
    assert row.error_class is None and "s3cret" not in row.to_json()


def test_a_pipe_is_no_description_of_an_endpoint(world: World, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.toml")
    (row,) = rows_of(world, [tmp_path / "m.toml"])
    assert row.error_class == "EndpointError" and "regular file" in str(row.error_message)
