"""``inspect``: what a file or folder is, told without a reference and without building anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.security.fuzz_onnx import net
from tests.security.onnx_forge import classifier, graph, model, port
from uapfast.cli import main
from uapfast.errors import InputError
from uapfast.models.state import state_sha256
from uapfast.suspects.inspect import inspect

STATE = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3), "n": torch.zeros((), dtype=torch.int64)}
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 3,
    "label_names": ["a", "b", "c"],
    "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5], "std": [0.5], "interpolation": "bicubic"},
}
VIT = {"architectures": ["ViTForImageClassification"], "image_size": 32, "id2label": {"0": "cat", "1": "dog"}}


def hub(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(STATE, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "net"])
def test_a_weights_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".pt"):
        torch.save(STATE, path)
    else:
        safetensors.torch.save_file(STATE, path, metadata={"format": "pt"})
    found = inspect(path)
    assert (found["kind"], found["format"]) == ("weights", "zip" if name.endswith(".pt") else "safetensors")
    assert (found["tensors"], found["numbers"], found["bytes"]) == (3, 16, 68)
    assert found["types"] == {"F32": 2, "I64": 1}
    assert "fc.weight [3, 4]" in found["begins"] and "--arch" in found["asked"]
    assert found["sha256"] == state_sha256(STATE)


def test_a_reference_is_no_weights(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "a.uapref", metadata={"uapref": "{}"})
    found = inspect(tmp_path / "a.uapref")
    assert found["kind"] == "reference" and found["asked"] is None and "uapfast info" in found["why"]


def test_what_speaks_against_a_file_is_shown_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with what to do."""
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "net.pt"))
    assert main(["inspect", str(tmp_path / "net.pt")]) == 0
    why = inspect(tmp_path / "net.pt")["why"]
    assert len(why) > 200 and why in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "kind", "why"),
    [
        (("x", "y"), "data", "--data"),
        (("x",), "data", "--data"),
        (("id", "x"), "data", "--data"),
        (("id", "logits"), "answers", "verify --answers"),
        (("x", "w"), "weights", None),
        (("fc.weight", "fc.bias"), "weights", None),
    ],
)
def test_an_npz_of_images_or_answers_is_no_weights(
    tmp_path: Path, names: tuple[str, ...], kind: str, why: str | None
) -> None:
    np.savez(tmp_path / "f.npz", **{name: np.zeros((2, 1, 4, 4), np.float32) for name in names})
    found = inspect(tmp_path / "f.npz")
    assert found["kind"] == kind and (found["asked"] is None) == (why is not None)
    assert why is None or why in found["why"]


def test_a_timm_folder(tmp_path: Path) -> None:
    found = inspect(hub(tmp_path / "net", CONFIG))
    assert (found["kind"], found["network"], found["classes"]) == ("timm folder", "resnet18", 3)
    assert found["class_names"] == ["a", "b", "c"] and found["asked"]
    assert any("32 x 32" in said for said in found["input"])
    assert found["weights"]["file"] == "model.safetensors" and found["weights"]["tensors"] == 3
    unsaid = inspect(hub(tmp_path / "other", {"architecture": "resnet18"}))
    assert unsaid["input"] == [
        "its configuration says no input_size, mean, std: timm's own for resnet18 counts"
    ]


def test_a_transformers_folder(tmp_path: Path) -> None:
    found = inspect(hub(tmp_path / "net", VIT))
    assert (found["kind"], found["network"]) == ("transformers folder", "ViTForImageClassification")
    assert found["class_names"] == ["cat", "dog"]
    assert any("nothing of mean and std" in said for said in found["input"])


def test_a_folder_that_would_not_be_asked_says_why(tmp_path: Path) -> None:
    found = inspect(hub(tmp_path / "net", {**VIT, "auto_map": {"AutoModel": "evil.Net"}}))
    assert found["asked"] is None and "auto_map" in found["why"]
    broken = hub(tmp_path / "broken", CONFIG)
    (broken / "model.safetensors").write_bytes(b"\x08")
    found = inspect(broken)
    assert (found["kind"], found["asked"], found["network"]) == ("timm folder", None, "resnet18")
    assert "model.safetensors" in found["why"]


def test_a_folder_of_suspects(tmp_path: Path) -> None:
    hub(tmp_path / "net", CONFIG)
    safetensors.torch.save_file(STATE, tmp_path / "a.safetensors")
    (tmp_path / "b.onnx").write_bytes(classifier(net(), [1, 8, 8]))
    (tmp_path / "notes.txt").write_text("text")
    found = inspect(tmp_path)
    assert (found["kind"], found["weights_files"], found["hub_folders"]) == ("folder", 1, 1)
    assert found["onnx_files"] == 1 and "b.onnx" in found["names"]


def test_an_onnx_model_says_what_it_takes_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "net.bin"
    path.write_bytes(classifier(net(), [1, 8, 8], outputs=("logits", "label"), metadata={"names": "a,b"}))
    found = inspect(path)
    assert found["kind"] == "onnx" and "onnxruntime" in found["asked"] and found["opset"] == 17
    assert found["inputs"] == ["x float32[?, 1, 8, 8]"] and found["class_names"] == ["a", "b"]
    assert found["outputs"] == ["logits float32[?, 10]", "label int64[?]"]
    assert any("logits was taken" in note for note in found["notes"])


def test_an_onnx_model_that_would_not_be_asked_says_why(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\x08\x08\x12\x05forge")
    assert inspect(path)["kind"] == "onnx" and "graph" in inspect(path)["why"]
    nothing = model(graph([], [port("x", ["n", 192])], [port("y", ["n", 4])]))
    path.write_bytes(nothing)
    found = inspect(path)
    assert found["asked"] is None and "x float32[?, 192]" in found["why"] and found["opset"] == 17


@pytest.mark.parametrize("content", [b"", b"# a text\n" * 9, b"\x89HDF\r\n\x1a\n" + bytes(64)])
def test_anything_else_is_unknown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    found = inspect(path)
    assert (found["kind"], found["asked"]) == ("unknown", None) and found["why"]


def test_weights_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-4])
    found = inspect(path)
    assert (found["kind"], found["asked"]) == ("weights", None) and "truncated" in found["why"]


@pytest.mark.parametrize("name", ["missing", "a\0b"])
def test_what_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="an existing file or folder"):
        inspect(tmp_path / name)


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = hub(tmp_path / "net", CONFIG)
    assert main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["network"] == "resnet18"
    assert main(["inspect", str(folder)]) == 0
    assert "timm folder" in capfd.readouterr().out
    assert main(["inspect", str(tmp_path / "missing")]) == 2
