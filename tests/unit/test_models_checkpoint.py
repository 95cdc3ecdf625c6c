"""Weights files: what fits comes back bit for bit; what does not is refused in one typed line."""

from __future__ import annotations

import argparse
import json
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from uapfast.errors import CorruptFileError, ModelError, StorageError, SuspectError
from uapfast.models.checkpoint import fill, load_model, read_weights, save_weights
from uapfast.models.model import tensors_sha256
from uapfast.models.registry import resolve_arch
from uapfast.safeload import Limits
from uapfast.screening.asking.reader import HostBuffer, read_checkpoint
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.networks.skeletons import Skeletons

SPEC = "uapfast:resnet-small?size=8&classes=3"


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return resolve_arch(SPEC)()


def tiny() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.BatchNorm1d(2))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_weights(tiny(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_round_trip_bit_for_bit(tmp_path: Path, layout: torch.memory_format) -> None:
    module = network().to(memory_format=layout)
    save_weights(module, tmp_path / "a.safetensors")
    torch.save(module.state_dict(), tmp_path / "a.pt")
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, tmp_path / "b.pth")
    x = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        right = module.eval()(x)
    for name in ("a.safetensors", "a.pt", "b.pth"):
        model = load_model(SPEC, tmp_path / name)
        assert model.sha256 == tensors_sha256(module), name
        assert torch.allclose(model.answers(x).values, right, atol=1e-6)
    assert model.arch == SPEC and model.name == "b"


def test_a_file_in_the_spec_is_relative_to_its_base(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\nmake = lambda: nn.Linear(2, 2)\n")
    save_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
    assert load_model("net.py:make", tmp_path / "w.safetensors", base=tmp_path, name="x").name == "x"


def test_preprocessing_reaches_the_model(tmp_path: Path) -> None:
    module = network().eval()
    save_weights(module, tmp_path / "a.safetensors")
    x = torch.rand(4, 1, 8, 8)
    model = load_model(SPEC, tmp_path / "a.safetensors", mean=[0.5], std=[0.25])
    with torch.no_grad():
        assert torch.allclose(model.answers(x).values, module((x - 0.5) / 0.25), atol=1e-5)


def test_tied_tensors_are_written(tmp_path: Path) -> None:
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    save_weights(nn.Sequential(a, b), tmp_path / "tied.safetensors")
    state = read_weights(tmp_path / "tied.safetensors")
    assert torch.equal(state["0.weight"], state["1.weight"])


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "w.safetensors"
    save_weights(tiny(), target)
    before = target.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as stream:
            stream.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"w\.safetensors must be writable, got No space left"):
        save_weights(network(), target)
    assert target.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    for name, said in (("none.safetensors", "an existing file, got none"), (".", "not a regular file")):
        with pytest.raises(ModelError, match=said):
            read_weights(tmp_path / name)
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"an ONNX model, .* got a file that is named \.onnx"):
        read_weights(tmp_path / "w.onnx")


def blob_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HOSTILE = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "huge header length": struct.pack("<Q", 2**63) + b"{}",
    "not json": blob_of(b"{nope"),
    "a number": blob_of(5),
    "a list": blob_of([]),
    "not utf-8": blob_of(b'{"\xff": 1}'),
    "deep nesting": blob_of(b"[" * 100_000),
    "duplicate names": blob_of(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"\0" * 4,
    ),
    "offsets beyond the file": blob_of({"a": {**F4, "data_offsets": [0, 400]}}, b"\0" * 4),
    "offsets backwards": blob_of({"a": {**F4, "data_offsets": [4, 0]}}, b"\0" * 4),
    "shape of another size": blob_of({"a": {**F4, "shape": [7]}}, b"\0" * 4),
    "shape overflow": blob_of({"a": {**F4, "shape": [2**62, 2**62]}}, b"\0" * 4),
    "overlap": blob_of({"a": F4, "b": F4}, b"\0" * 4),
    "hole": blob_of({"a": {**F4, "data_offsets": [4, 8]}}, b"\0" * 8),
    "unknown dtype": blob_of({"a": {**F4, "dtype": "F33"}}, b"\0" * 4),
    "no dtype": blob_of({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "trailing bytes": blob_of({"a": F4}, b"\0" * 9),
    "a pickle": b"\x80\x04\x95" + b"a" * 40,
    "too many tensors": blob_of(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_002)}
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_safetensors(tmp_path: Path, name: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ModelError, match="load: weights must be") as caught:
        load_model(SPEC, path)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@given(st.data())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_safetensors_never_raise_anything_else(saved: Path, data: st.DataObject) -> None:
    """Any byte flipped and any tail cut gives a model, or one typed error."""
    blob = bytearray(saved.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(blob)))
    path = saved.with_name("damaged.safetensors")
    path.write_bytes(bytes(blob[: cut if data.draw(st.booleans()) else len(blob)]))
    try:
        fill(tiny(), read_weights(path), path)
    except (ModelError, SuspectError) as exc:
        assert "\n" not in str(exc)


def test_truncation_is_always_noticed(saved: Path) -> None:
    blob = saved.read_bytes()
    for cut in range(len(blob)):
        saved.write_bytes(blob[:cut])
        with pytest.raises(ModelError):
            read_weights(saved)


class Danger:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/nonexistent/uapfast", "w"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Danger(), "a program that names io.open"),
        ({"a": Danger()}, "a program that names io.open"),
        ([torch.zeros(1)], "a state dict .* got a list without"),
        ({"a": 3}, "a state dict"),
        ({"a": torch.zeros(3).to_sparse()}, "plain dense tensors, got a sparse tensor"),
        ({"a": torch.zeros(3, device="meta")}, "got a meta tensor"),
    ],
)
def test_pickles_that_are_no_state_dict(tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=said) as caught:
        read_weights(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_damaged_pickles(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "w.pt")
    blob = (tmp_path / "w.pt").read_bytes()
    for part in (b"", b"PK", blob[: len(blob) // 2], b"not a zip at all", blob[:-4]):
        (tmp_path / "w.pt").write_bytes(part)
        with pytest.raises(CorruptFileError, match=r"load: weights must be .*w\.pt"):
            read_weights(tmp_path / "w.pt")


def test_a_stretched_tensor_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    """1.5 kB that claim 4 TiB (stride 0); and a modest one, which is copied, but fits no architecture."""
    for size, said in (
        (2**20, "tensors of at most"),
        (2**8, r"of another shape: 1\.weight \[256, 256\] for"),
    ):
        state = {**tiny().state_dict(), "1.weight": torch.zeros(1).as_strided((size, size), (0, 0))}
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(ModelError, match=said):
            fill(tiny(), read_weights(tmp_path / "w.pt"), "w.pt")


def test_a_misfit_lists_a_few_names(tmp_path: Path) -> None:
    save_weights(network(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError) as caught:
        load_model("uapfast:cnn-small?size=8&classes=3", tmp_path / "w.safetensors")
    text = str(caught.value)
    assert "missing: 0.bias" in text and "unexpected: " in text and " more" in text and len(text) < 600
    with pytest.raises(ModelError, match=r"of another shape: .*\[3, 64\] for \[10, 64\]"):
        load_model("uapfast:resnet-small?size=8&classes=10", tmp_path / "w.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["1.weight", "2.running_var"])
def test_weights_that_are_not_finite(bad: float, where: str) -> None:
    state = {k: v.clone() for k, v in tiny().state_dict().items()}
    state[where].view(-1)[1] = bad
    module = tiny()
    with pytest.raises(SuspectError, match=f"weights {where} must be finite"):
        fill(module, state, "w")
    assert tensors_sha256(module) == tensors_sha256(tiny()), "nothing may be half filled"


def test_casts_are_checked() -> None:
    state = tiny().state_dict()
    wide = {k: v.double() for k, v in state.items()}
    module = tiny()
    fill(module, wide, "w")
    assert tensors_sha256(module) == tensors_sha256(tiny())
    wide["1.bias"] = torch.tensor([1e300, 0.0], dtype=torch.float64)
    with pytest.raises(SuspectError, match=r"1\.bias must be finite"):
        fill(tiny(), wide, "w")
    with pytest.raises(ModelError, match=r"1\.bias must be torch\.float32, got torch\.complex64"):
        fill(tiny(), {**state, "1.bias": torch.zeros(2, dtype=torch.complex64)}, "w")


def test_header_limits_are_what_the_file_says(tmp_path: Path) -> None:
    """A file at the limit loads, one tensor more does not."""
    limits = Limits(tensors=3)
    for count, metadata in ((3, {"format": "pt"}), (3, None), (4, {"format": "pt"}), (4, None)):
        path = tmp_path / f"{count}.safetensors"
        state = {f"t{i}": torch.zeros(1) for i in range(count)}
        safetensors.torch.save_file(state, path, metadata=metadata)
        if count == 3:
            assert len(read_weights(path, limits)) == 3
        else:
            with pytest.raises(ModelError, match="at most 3 tensors"):
                read_weights(path, limits)


class AttributeDict(dict[str, Any]):
    """Stands for lightning's, under whose name it is pickled."""


def lightning(monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]) -> dict[str, Any]:
    """What Trainer.save_checkpoint of lightning 2 writes, and the class that older ones kept arguments in."""
    place = "lightning.fabric.utilities.data"
    monkeypatch.setattr(AttributeDict, "__module__", place)
    for i in range(len(place.split("."))):
        name = ".".join(place.split(".")[: i + 1])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules[place], "AttributeDict", AttributeDict, raising=False)
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"model.{k}": v for k, v in state.items()} | {"criterion.weight": torch.ones(3)},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 2}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val_loss'}": {
                "best_model_score": torch.tensor(0.5),
                "best_k_models": {"a.ckpt": torch.tensor(0.5), "b.ckpt": torch.tensor(0.7)},
            }
        },
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict()],
        "hparams_name": "args",
        "hyper_parameters": AttributeDict(lr=0.1, args=argparse.Namespace(a=[1]), best=np.float32(3)),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3),
    }


def test_a_checkpoint_of_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = network(3)
    whole = lightning(monkeypatch, module.state_dict())
    torch.save(whole, tmp_path / "w.ckpt")
    model = load_model(SPEC, tmp_path / "w.ckpt")
    assert model.sha256 == tensors_sha256(module)
    assert [n.split(" ")[0] for n in model.notes] == ["The", "Tensors"] and "criterion.weight" in model.notes[
        1
    ]
    whole["current_model_state"] = network(4).state_dict()  # with weight averaging state_dict is the average
    torch.save(whole, tmp_path / "w.ckpt")
    model = load_model(SPEC, tmp_path / "w.ckpt")
    assert model.sha256 == tensors_sha256(module)
    said = "the state dict under 'state_dict' was taken, not what lies under current_model_state (key="
    assert model.notes[0].startswith(said)
    model = load_model(SPEC, tmp_path / "w.ckpt", key="current_model_state")
    assert model.sha256 == tensors_sha256(network(4))


@pytest.mark.parametrize(
    ("plain", "average"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("model", "averages.model")],
)
def test_averages_beside_are_chosen_by_key(tmp_path: Path, plain: str, average: str) -> None:
    one, other = network(1), torch.optim.swa_utils.AveragedModel(network(2))
    *above, last = average.split(".")
    beside: dict[str, Any] = {last: other.state_dict()}
    for part in above:
        beside = {part: beside}
    torch.save({"epoch": 2, **beside, plain: one.state_dict()}, tmp_path / "w.pth")
    model = load_model(SPEC, tmp_path / "w.pth")
    assert model.sha256 == tensors_sha256(one)
    assert f"under '{plain}' was taken, not what lies under {average} (key=" in model.notes[0]
    model = load_model(SPEC, tmp_path / "w.pth", key=average)
    assert model.sha256 == tensors_sha256(other.module)
    said = " ".join(model.notes)
    assert f"under '{average}' was taken, as key= asks" in said and "an average of several" in said
    with pytest.raises(ModelError, match=f"under key='none', got one with .*{average}"):
        load_model(SPEC, tmp_path / "w.pth", key="none")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_numpy_by_name(tmp_path: Path, save: Any) -> None:
    module = network(5)
    arrays = {k: v.numpy() for k, v in module.state_dict().items()}
    changed = {k: np.asfortranarray(v) if v.ndim > 1 else v for k, v in arrays.items()}
    save(tmp_path / "w.npz", **changed)
    model = load_model(SPEC, tmp_path / "w.npz")
    assert model.sha256 == tensors_sha256(module) and model.notes == ()
    assert set(read_weights(tmp_path / "w.npz")) == set(arrays)
    save(tmp_path / "v.npz", **{f"ema.{k}": v for k, v in arrays.items()}, **{"epoch": np.int64(3)})
    assert load_model(SPEC, tmp_path / "v.npz", key="ema").sha256 == tensors_sha256(module)
    save(tmp_path / "u.npz", *arrays.values())
    with pytest.raises(ModelError, match="same shapes, in the same order"):
        load_model(SPEC, tmp_path / "u.npz")


def test_several_sets_in_one_file_say_so_in_screen(tmp_path: Path) -> None:
    torch.save({"model": network(1).state_dict(), "ema": network(2).state_dict()}, tmp_path / "w.pth")
    loaded = read_checkpoint(Entry(str(tmp_path / "w.pth"), SPEC), HostBuffer(), Skeletons().shapes)
    assert (
        loaded.notes == load_model(SPEC, tmp_path / "w.pth").notes and "'model' was taken" in loaded.notes[0]
    )
