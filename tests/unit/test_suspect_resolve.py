"""What is no suspect is named as what it is, before anything is asked of the user."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from uapfast.errors import InputError, ModelError
from uapfast.models.registry import resolve_arch
from uapfast.suspects.resolve import open_suspect

FILES: dict[str, tuple[bytes, str]] = {
    "net.onnx": (b"hello, this is text\n", "named .onnx and begins with b'hello"),
    "net.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "keras.models.load_model"),
    "net.tflite": (b"\0\0\0\0TFL3" + bytes(64), "tf2onnx"),
    "empty": (b"", "an empty one"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_suspects(tmp_path: Path, name: str) -> None:
    content, said = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        open_suspect(tmp_path / name)
    assert said in str(caught.value) and name in str(caught.value)


def test_nothing_and_a_folder_of_tensorflow(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"an existing file, got none \(.*none.safetensors"):
        open_suspect(tmp_path / "none.safetensors")
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12\0")
    with pytest.raises(
        ModelError, match="config.json in it, or an ONNX file.*tf2onnx.*a TensorFlow SavedModel"
    ):
        open_suspect(tmp_path)


def test_a_program_is_named_as_one_before_an_architecture_is_asked_for(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "net.pt"))
    with pytest.raises(ModelError, match="got a TorchScript program"):
        open_suspect(tmp_path / "net.pt")


def test_a_folder_of_several_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config.json in it, got .*several models in it: uapfast screen"):
        open_suspect(tmp_path, arch="net.py:make")


def test_weights_want_an_architecture(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="--arch must be given for a file of weights alone"):
        open_suspect(tmp_path / "net.safetensors")


@pytest.mark.parametrize("name", ["base_model.model.fc.lora_A.weight", "fc.lora_B.default.weight"])
@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter_is_named_as_what_it_is(tmp_path: Path, name: str, whole: bool) -> None:
    spec = "uapfast:mlp-small?size=8"
    beside = resolve_arch(spec)().state_dict() if whole else {}
    torch.save({name: torch.zeros(4, 8), **beside}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=f"merge_and_unload.*got an adapter: {re.escape(name)}"):
        open_suspect(tmp_path / "a.pt", arch=spec)
