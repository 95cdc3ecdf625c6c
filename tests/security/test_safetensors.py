"""The safetensors reader: valid files bit for bit, everything else one typed error."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from uapfast.errors import (
    CorruptFileError,
    InputError,
    ModelError,
    TooLargeError,
    UnsupportedFileError,
    WeightsFileError,
)
from uapfast.models.checkpoint import read_weights
from uapfast.models.model import tensors_sha256
from uapfast.safeload import Checkpoint, LastHeader, Limits, open_checkpoint
from uapfast.safeload import checkpoint as checkpoint_module
from uapfast.safeload.dtypes import DTYPES

F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def blob_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def every_type() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    state = {}
    for name, dtype in DTYPES.items():
        made = torch.randint(0, 2, (3, 5)) if name == "BOOL" else torch.randint(0, 100, (3, 5))
        state[f"of.{name}"] = made.to(getattr(torch, dtype.torch))
    return state | {"scalar": torch.tensor(2.5), "none": torch.zeros(0, 4), "int": torch.tensor([-(2**62)])}


def test_every_type_bit_for_bit(tmp_path: Path) -> None:
    state = every_type()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors", metadata={"made": "here"})
    with open_checkpoint(tmp_path / "w.safetensors") as found:
        assert (found.kind, found.metadata, found.tier) == ("safetensors", {"made": "here"}, "header check")
        assert found.tensors.keys() == state.keys()
        for name, tensor in state.items():
            info = found.tensors[name]
            assert info.shape == tuple(tensor.shape) and info.nbytes == tensor.nbytes, name
            array = found.read(name)
            assert array.shape == info.shape and array.flags.writeable
            assert array.tobytes() == tensor.reshape(-1).view(torch.uint8).numpy().tobytes(), name
        assert found.read("of.BF16").dtype == np.uint16 and found.read("of.F8_E5M2").dtype == np.uint8
    for name, tensor in read_weights(tmp_path / "w.safetensors").items():
        assert tensor.dtype == state[name].dtype and tensor.shape == state[name].shape
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), state[name].reshape(-1).view(torch.uint8))


def test_the_digest_is_that_of_the_module(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(70_000, 9))
    safetensors.torch.save_file(module.state_dict(), tmp_path / "w.safetensors")
    with open_checkpoint(tmp_path / "w.safetensors") as found:
        assert found.sha256() == tensors_sha256(module)
    module[0].bias.data[0] += 1
    assert found.path and tensors_sha256(module) != _digest(tmp_path / "w.safetensors")


def _digest(path: Path) -> str:
    with open_checkpoint(path) as found:
        return found.sha256()


def test_read_into_keeps_to_the_buffer(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.arange(6.0), "b": torch.ones(2)}, tmp_path / "w.safetensors")
    with open_checkpoint(tmp_path / "w.safetensors") as found:
        guarded = np.full(10, 7.0, np.float32)
        found.read_into("a", guarded[2:8])
        assert guarded.tolist() == [7, 7, 0, 1, 2, 3, 4, 5, 7, 7]
        for bad in (guarded, guarded[:5], np.zeros(12, np.float32)[::2], memoryview(b"x" * 24)):
            with pytest.raises(
                InputError, match="read_into: buffer must be writable, contiguous, of 24 bytes"
            ):
                found.read_into("a", bad)
        with pytest.raises(InputError, match="name must be a tensor of the file"):
            found.read("c")
    with pytest.raises(InputError, match="file must be open"):
        found.read("a")
    found.close()


def all_of(found: Checkpoint) -> dict[str, bytes]:
    buffers = {name: memoryview(bytearray(info.nbytes)) for name, info in found.tensors.items()}
    found.read_all_into(buffers.values())
    return {name: bytes(buffer) for name, buffer in buffers.items()}


@pytest.mark.parametrize("vector", [1, 3, 512])
def test_all_at_once_are_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vector: int) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(every_type() | {"none": torch.zeros(0, 3)}, path)
    monkeypatch.setattr(checkpoint_module, "VECTOR", vector)
    with open_checkpoint(path) as found:
        assert all_of(found) == {name: found.read(name).tobytes() for name in found.tensors}
        short = [memoryview(bytearray(max(info.nbytes - 1, 0))) for info in found.tensors.values()]
        with pytest.raises(InputError, match="buffer must be"):
            found.read_all_into(short)
    with pytest.raises(InputError, match="must be open, got a closed one"):
        all_of(found)


def test_all_at_once_sees_what_one_by_one_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    header = {"a": F4, "b": {"dtype": "BOOL", "shape": [1], "data_offsets": [4, 5]}}
    path.write_bytes(blob_of(header, b"\0" * 4 + b"\2"))
    with open_checkpoint(path) as found, pytest.raises(CorruptFileError, match="neither 0 nor 1"):
        all_of(found)
    path.write_bytes(blob_of(header, b"abcd\1"))
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda h, b, o: real(h, [b[0][:2]], o))  # a system that gives less
    with open_checkpoint(path) as found:
        assert all_of(found) == {"a": b"abcd", "b": b"\1"}
        os.truncate(path, path.stat().st_size - 3)
        with pytest.raises(CorruptFileError, match="keeps its length"):
            all_of(found)


def test_a_header_is_parsed_once_and_never_mistaken(tmp_path: Path) -> None:
    last, headers = LastHeader(), []
    for number, (names, data) in enumerate([("a", 1), ("a", 2), ("b", 1), ("a", 1)]):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(blob_of({names: F4}, bytes([data]) * 4))
        with open_checkpoint(path, last=last) as found:
            assert list(found.tensors) == [names] and all_of(found)[names] == bytes([data]) * 4
            headers.append(found.header)
    assert headers[0] is headers[1] and headers[1] is not headers[2] and headers[3] is not headers[2]
    with pytest.raises(TooLargeError):
        open_checkpoint(path, Limits(tensor_bytes=3), last)
    path.write_bytes(path.read_bytes()[:-1])  # the same header, less behind it
    with pytest.raises(CorruptFileError, match="truncated"):
        open_checkpoint(path, last=last)


def test_a_file_that_shrinks_while_open(tmp_path: Path) -> None:
    """A mapping would end in SIGBUS here."""
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(100_000)}, path)
    with open_checkpoint(path) as found:
        os.truncate(path, 5000)
        with pytest.raises(CorruptFileError, match=r"keeps its length.*w\.safetensors"):
            found.read("a")
        with pytest.raises(CorruptFileError):
            found.sha256()


ENTRY = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
BAD: dict[str, tuple[type[WeightsFileError], str, bytes]] = {
    "duplicate name": (
        CorruptFileError, "the name a twice", blob_of(b"{" + ENTRY + b"," + ENTRY + b"}", b"\0" * 4)),
    "duplicate key within a tensor": (
        CorruptFileError, "the name shape twice",
        blob_of(b'{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}', b"\0" * 4)),
    "unknown key": (CorruptFileError, "exactly dtype", blob_of({"a": {**F4, "x": 1}}, b"\0" * 4)),
    "bool as a size": (CorruptFileError, "not sizes", blob_of({"a": {**F4, "shape": [True]}}, b"\0" * 4)),
    "float as a size": (CorruptFileError, "not sizes", blob_of({"a": {**F4, "shape": [1.0]}}, b"\0" * 4)),
    "negative size": (CorruptFileError, "not negative", blob_of({"a": {**F4, "shape": [-1]}}, b"\0" * 4)),
    "minus nothing": (
        CorruptFileError,
        "not negative",
        blob_of(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'),
    ),
    "huge integer": (
        CorruptFileError, "no JSON", blob_of(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}")),
    "zero hides 2^40": (
        TooLargeError, "shape",
        blob_of({"a": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]}})),
    "overflow": (TooLargeError, "shape", blob_of({"a": {**F4, "shape": [2**61, 2**61]}}, b"\0" * 4)),
    "65 dimensions": (TooLargeError, "dimensions", blob_of({"a": {**F4, "shape": [1] * 65}}, b"\0" * 4)),
    "complex": (
        UnsupportedFileError, "C64 .complex.",
        blob_of({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8)),
    "unknown type": (CorruptFileError, "F33", blob_of({"a": {**F4, "dtype": "F33"}}, b"\0" * 4)),
    "type of another type": (
        CorruptFileError, "tensors of type", blob_of({"a": {**F4, "dtype": {}}}, b"\0" * 4)),
    "hole": (CorruptFileError, "a hole", blob_of({"a": {**F4, "data_offsets": [4, 8]}}, b"\0" * 8)),
    "overlap": (CorruptFileError, "an overlap", blob_of({"a": F4, "b": F4}, b"\0" * 4)),
    "tail": (CorruptFileError, "5 bytes after the last", blob_of({"a": F4}, b"\0" * 9)),
    "truncated data": (CorruptFileError, "truncated", blob_of({"a": F4}, b"\0" * 3)),
    "terminal escape": (CorruptFileError, r"printable.*x1b\[2J", blob_of({"\x1b[2J": F4}, b"\0" * 4)),
    "lone surrogate": (
        CorruptFileError, "printable",
        blob_of(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4)),
    "long name": (TooLargeError, "at most 1024 characters", blob_of({"n" * 2000: F4}, b"\0" * 4)),
    "metadata of numbers": (
        CorruptFileError, "__metadata__", blob_of({"__metadata__": {"a": 1}, "a": F4}, b"\0" * 4)),
    "NaN": (CorruptFileError, "NaN", blob_of(b'{"a":NaN}')),
    "utf-16": (CorruptFileError, "opening brace", blob_of('{"a":1}'.encode("utf-16"))),
    "leading space": (CorruptFileError, "opening brace", blob_of(b" {}")),
    "header above the file": (CorruptFileError, "truncated", struct.pack("<Q", 2**40) + b"{}"),
    "deep nesting": (CorruptFileError, "no JSON", blob_of(b'{"a":' * 200_000)),
    "many tensors": (
        TooLargeError, "at most 100000 tensors",
        blob_of({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(200_000)})),
    "pickle under this name": (CorruptFileError, "header", b"\x80\x02}q\x00." + b" " * 30),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_type(tmp_path: Path, case: str) -> None:
    error, said, blob = BAD[case]
    path = tmp_path / "w.safetensors"
    path.write_bytes(blob)
    with pytest.raises(error, match=said) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert type(caught.value) is error and isinstance(caught.value, ModelError)
    assert text.startswith("load: weights must be ") and "w.safetensors" in text
    assert len(text) < 700 and text.isprintable()


def test_a_bool_is_zero_or_one(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(blob_of({"a": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}, b"\0\2\1"))
    with open_checkpoint(path) as found, pytest.raises(CorruptFileError, match="neither 0 nor 1 in tensor a"):
        found.read("a")


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.pt")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "empty.pt").touch()
    cases: dict[str, tuple[type[WeightsFileError], str]] = {
        "fifo.pt": (UnsupportedFileError, "a FIFO, not a regular file"),
        ".": (UnsupportedFileError, "a folder, not a regular file"),
        "saved": (UnsupportedFileError, "TensorFlow SavedModel folder"),
        "loop": (CorruptFileError, "a readable file, got Too many levels"),
        "gone": (CorruptFileError, "an existing file, got none"),
        "x\0y": (CorruptFileError, "null"),
        "n" * 300: (CorruptFileError, "name too long"),
        "empty.pt": (CorruptFileError, "an empty one"),
        "/dev/zero": (UnsupportedFileError, "a character device"),
        "/proc/self/maps": (CorruptFileError, "an empty one"),
    }
    for name, (error, said) in cases.items():
        with pytest.raises(error, match=said) as caught:
            open_checkpoint(tmp_path / name)
        assert str(caught.value).isprintable()
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "w.safetensors")
    with open_checkpoint(tmp_path / "link.safetensors") as found:
        assert found.read("a").tolist() == [1.0]


def test_limits_are_checked_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(100), "b": torch.zeros(100)}, path)
    for limits in (
        Limits(file_bytes=500),
        Limits(tensor_bytes=799),
        Limits(tensors=1),
        Limits(header_bytes=20),
    ):
        with pytest.raises(TooLargeError, match=r"w\.safetensors"):
            open_checkpoint(path, limits)
    with open_checkpoint(path, Limits(tensor_bytes=800, tensors=2)) as found:
        assert found.tensors["a"].nbytes == 400
    for bad in ({"tensors": 0}, {"seconds": float("nan")}, {"file_bytes": 1.5}, {"depth": True}):
        with pytest.raises(InputError, match="Limits: "):
            Limits(**bad)


def test_no_descriptor_is_lost(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "good.safetensors")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(CorruptFileError):
            open_checkpoint(tmp_path / "bad.safetensors")
        open_checkpoint(tmp_path / "good.safetensors")
    assert len(os.listdir("/proc/self/fd")) == before
