"""Suspects of every kind for the tests of ``screen``: weights files, hub folders, ONNX files, a manifest."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

import uapfast
from tests.api.screen_world import CNN, MLP, RESIDUAL, World
from tests.security.onnx_forge import classifier
from uapfast.models.checkpoint import load_model, read_weights
from uapfast.screening.table.rows import Row

State = dict[str, Tensor]
ARCHS = (CNN, MLP, RESIDUAL)
NUMBERS = ("decision", "p_value", "similarity", "z", "agreement", "queries_used", "output")


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


def numbers(found: Any) -> list[Any]:
    return [getattr(found, name) for name in NUMBERS]


def as_manifest(folder: Path, *lines: dict[str, str]) -> Path:
    path = folder / "list.csv"
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, dict.fromkeys(key for line in lines for key in line), restval="")
        writer.writeheader()
        writer.writerows(lines)
    return path
