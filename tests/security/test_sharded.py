"""An index and its shards have one reading; an index opens nothing but plain files of its own folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from uapfast.errors import (
    CorruptFileError,
    ModelError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedFileError,
    WeightsFileError,
)
from uapfast.models.checkpoint import load_model, read_weights
from uapfast.models.model import tensors_sha256
from uapfast.models.registry import resolve_arch
from uapfast.models.state import state_sha256
from uapfast.safeload import Limits, open_checkpoint
from uapfast.screening.asking.reader import HostBuffer, read_checkpoint
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.networks.skeletons import Skeletons

SPEC = "uapfast:resnet-small?size=8&classes=3"
torch.manual_seed(0)
MODULE = resolve_arch(SPEC)().eval()
STATE = {k: v.clone() for k, v in MODULE.state_dict().items()}
INDEX = "model.safetensors.index.json"


def write(folder: Path, suffix: str = "safetensors", count: int = 3) -> Path:
    """A model in ``count`` shards, names dealt out in turn, as transformers and timm write it."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    for i, (name, tensor) in enumerate(STATE.items()):
        shards[i % count][name] = tensor
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"{stem}-{i + 1:05d}-of-{count:05d}.{suffix}"
        if suffix == "safetensors":
            safetensors.torch.save_file(shard, folder / file, metadata={"format": "pt"})
        else:
            torch.save(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    path = folder / f"{stem}.{suffix}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_one_model(tmp_path: Path, suffix: str) -> None:
    """In ``load_model`` and in ``screen``; the digest is that of one file."""
    path = write(tmp_path, suffix)
    model = load_model(SPEC, path)
    assert model.sha256 == tensors_sha256(MODULE) and model.notes == ()
    with open_checkpoint(path) as found:
        assert found.kind == "sharded" and found.sha256() == tensors_sha256(MODULE)
        assert set(found.tensors) == set(STATE)
    skeletons, slot, suspect = Skeletons(), HostBuffer(), Entry(str(path), SPEC)
    loaded = read_checkpoint(suspect, slot, skeletons.shapes)
    assert loaded.sha256 == tensors_sha256(MODULE)
    assert all(torch.equal(loaded.tensors[k], v) for k, v in STATE.items())
    before = suspect.stamp()
    shard = next(tmp_path.glob(f"*00002*.{suffix}"))
    os.utime(shard, (1, 1))
    assert suspect.stamp() != before, "a shard that was replaced must be seen by a resumed screen"


def test_the_cache_of_a_hub(tmp_path: Path) -> None:
    """Snapshots are links into blobs, index and shards alike; a link to any other place is not followed."""
    made = write(tmp_path / "made")
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0123", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(sorted(made.parent.iterdir())):
        shutil.copy(file, blobs / f"{i:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i:064x}")
    assert load_model(SPEC, snapshot / INDEX).sha256 == tensors_sha256(MODULE)
    shard = snapshot / "model-00001-of-00003.safetensors"
    shard.unlink()
    shard.symlink_to(tmp_path / "made" / shard.name)
    with pytest.raises(UnsafeFileError, match=r"got a link out of it, model-00001"):
        read_weights(snapshot / INDEX)


def rename(to: Any) -> Callable[[Path, dict[str, Any]], Any]:
    def change(folder: Path, index: dict[str, Any]) -> Any:
        index["weight_map"][next(iter(STATE))] = to
        return index

    return change


def shard(index: dict[str, Any], i: int) -> str:
    return sorted(set(index["weight_map"].values()))[i]


def drop(folder: Path, index: dict[str, Any]) -> Any:
    (folder / shard(index, 1)).unlink()
    return index


def link(folder: Path, index: dict[str, Any]) -> Any:
    outside = folder.parent / "outside.safetensors"
    (folder / shard(index, 0)).rename(outside)
    (folder / shard(index, 0)).symlink_to(outside)
    return index


def fifo(folder: Path, index: dict[str, Any]) -> Any:
    (folder / shard(index, 0)).unlink()
    os.mkfifo(folder / shard(index, 0))
    return index


def extra(folder: Path, index: dict[str, Any]) -> Any:
    del index["weight_map"][list(STATE)[3]]
    return index


def absent(folder: Path, index: dict[str, Any]) -> Any:
    index["weight_map"]["head.weight"] = shard(index, 2)
    return index


def double(folder: Path, index: dict[str, Any]) -> Any:
    path = folder / shard(index, 2)
    state = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**state, next(iter(STATE)): torch.zeros(1)}, path)
    return index


def text(value: str) -> Callable[[Path, dict[str, Any]], Any]:
    return lambda folder, index: value


HOSTILE: dict[str, tuple[type[WeightsFileError], str, Callable[[Path, dict[str, Any]], Any]]] = {
    "climbing": (UnsafeFileError, r"own folder .*\.\./x\.safetensors", rename("../x.safetensors")),
    "absolute": (UnsafeFileError, "/etc/passwd", rename("/etc/passwd")),
    "a folder below": (UnsafeFileError, "sub/x.bin", rename("sub/x.bin")),
    "Windows": (UnsafeFileError, "got", rename("..\\x.bin")),
    "a dot file": (UnsafeFileError, "own folder", rename(".x.bin")),
    "another kind": (UnsafeFileError, "x.py", rename("x.py")),
    "itself": (UnsafeFileError, "index.json", rename(INDEX)),
    "an empty name": (UnsafeFileError, "own folder", rename("")),
    "a long name": (UnsafeFileError, "own folder", rename("x" * 300 + ".bin")),
    "NUL": (UnsafeFileError, r"\\x00", rename("x\0.bin")),
    "a number": (UnsafeFileError, "got 3", rename(3)),
    "a list": (UnsafeFileError, "own folder", rename(["x.bin"])),
    "a lost shard": (CorruptFileError, "no shard model-00002", drop),
    "a link": (UnsafeFileError, "a link out of it", link),
    "a FIFO": (UnsupportedFileError, "a FIFO", fifo),
    "an extra tensor": (CorruptFileError, r"tensor .* of model-00001.*in no map", extra),
    "a missing tensor": (CorruptFileError, r"no tensor head\.weight in model-00003.*1 missing", absent),
    "a tensor twice": (CorruptFileError, "tensor .* of model-00003.*the index has in model-00001", double),
    "a name twice": (CorruptFileError, "twice", text('{"weight_map": {"a": "x.bin", "a": "y.bin"}}')),
    "no map": (CorruptFileError, "a weight_map", text('{"metadata": {}}')),
    "an empty map": (CorruptFileError, "a weight_map", text('{"weight_map": {}}')),
    "a list alone": (CorruptFileError, "a weight_map", text("[]")),
    "no JSON": (CorruptFileError, "no JSON", text("{nope")),
    "NaN": (CorruptFileError, "NaN", text('{"weight_map": {"a": NaN}}')),
    "deep": (CorruptFileError, "no JSON", text("[" * 200_000)),
    "no name to show": (CorruptFileError, "printable", text('{"weight_map": {"a\\nb": "x.bin"}}')),
    "129 shards": (
        TooLargeError,
        "at most 128 shards",
        text(json.dumps({"weight_map": {f"t{i}": f"{i}.bin" for i in range(129)}})),
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_indexes(tmp_path: Path, case: str) -> None:
    error, said, change = HOSTILE[case]
    path = write(tmp_path / "model")
    changed = change(path.parent, json.loads(path.read_text()))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=said) as caught:
        read_weights(path)
    told = str(caught.value)
    assert type(caught.value) is error and told.isprintable() and len(told) < 800
    assert len(os.listdir("/proc/self/fd")) == before
    assert Entry(str(path), SPEC).stamp() != ""
    with pytest.raises(error, match=said):
        read_checkpoint(Entry(str(path), SPEC), HostBuffer(), Skeletons().shapes)


def test_limits_are_for_all_shards_together(tmp_path: Path) -> None:
    path = write(tmp_path)
    total = sum(v.numel() * v.element_size() for v in STATE.values())
    files = sum(p.stat().st_size for p in tmp_path.glob("*.safetensors"))
    exact = Limits(tensor_bytes=total, file_bytes=files, tensors=len(STATE))
    assert len(read_weights(path, exact)) == len(STATE)
    for limits, said in (
        (Limits(tensor_bytes=total - 1), "bytes of tensors in all"),
        (Limits(file_bytes=files - 1), "shards of at most"),
        (Limits(tensors=len(STATE) - 1), "an index of at most"),
        (Limits(header_bytes=200), "an index of at most 200 bytes"),
    ):
        with pytest.raises(TooLargeError, match=said):
            read_weights(path, limits)


def test_only_the_name_makes_an_index(tmp_path: Path) -> None:
    """So that a service that stores what it is sent under a name of its own opens no second file."""
    path = write(tmp_path)
    path.rename(tmp_path / "upload")
    with pytest.raises(UnsupportedFileError, match=r"a JSON file \(an index of shards is named"):
        read_weights(tmp_path / "upload")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_key_takes_a_part_of_all_shards(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix)
    key = next(iter(STATE)).partition(".")[0]
    wanted = {k.removeprefix(f"{key}."): v for k, v in STATE.items() if k.startswith(f"{key}.")}
    found = read_weights(path, key=key)
    assert found.keys() == wanted.keys() and 1 < len(wanted) < len(STATE)
    assert all(torch.equal(found[k], v) for k, v in wanted.items())
    assert found.notes == (f"the state dict under '{key}' was taken, as key= asks",)
    with open_checkpoint(path, key=key) as opened:
        buffers = [memoryview(bytearray(t.nbytes)) for t in opened.tensors.values()]
        opened.read_all_into(buffers)
        for name, buffer in zip(opened.tensors, buffers, strict=True):
            assert bytes(buffer) == wanted[name].numpy().tobytes()
        assert opened.sha256() == state_sha256(wanted)
    with pytest.raises(UnsupportedFileError, match="a file with tensors under key='nowhere'"):
        read_weights(path, key="nowhere")


def test_one_part_alone_is_told_to_be_one(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ModelError, match=r"the file is part 2 of 3: give the index beside it"):
        load_model(SPEC, tmp_path / "model-00002-of-00003.safetensors")
    safetensors.torch.save_file(STATE, tmp_path / "model-00001-of-00001.safetensors")
    assert load_model(SPEC, tmp_path / "model-00001-of-00001.safetensors").sha256 == tensors_sha256(MODULE)
