"""Models of hub folders, with a stand-in for timm."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from uapfast.errors import InputError, MissingDependency, ModelError, SuspectError
from uapfast.models.bounded import BuildBounds, rehearse
from uapfast.models.preprocessing import Preprocessing
from uapfast.models.state import state_sha256
from uapfast.suspects.folder import open_folder
from uapfast.suspects.inspect import inspect

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
CONFIG: dict[str, Any] = {
    "architecture": "tiny",
    "num_classes": 4,
    "label_names": ["ant", "bee", "cat", "dog"],
    "model_args": {"depth": 2},
    "pretrained_cfg": {
        "url": "https://host/weights",
        "hf_hub_id": "owner/net",
        "input_size": [3, 12, 12],
        "mean": MEAN,
        "std": STD,
        "interpolation": "bilinear",
        "crop_pct": 0.9,
    },
}


class Tiny(nn.Module):
    def __init__(self, num_classes: int = 1000, depth: int = 1) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, 3
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(*(nn.Linear(8, 8) for _ in range(depth)))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1:] == (3, 12, 12)
        out: torch.Tensor = self.head(self.blocks(self.stem(x).relu().mean((2, 3))))
        return out


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for timm that knows ``tiny``, and what it was asked for."""
    calls: list[dict[str, Any]] = []

    def create_model(name: str, **given: Any) -> nn.Module:
        calls.append({"name": name, **given})
        overlay = given.pop("pretrained_cfg_overlay")
        made = Tiny(**{k: v for k, v in given.items() if k != "pretrained"})
        made.pretrained_cfg = {"mean": (0.1,), "std": (0.9,), "input_size": (3, 12, 12), **overlay}  # type: ignore
        return made

    fake = types.SimpleNamespace(is_model=lambda name: name == "tiny", create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", fake)  # type: ignore[arg-type]
    return calls


def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny(4, 2).eval()


def make(folder: Path, state: dict[str, torch.Tensor] | None = None, **changed: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changed}))
    safetensors.torch.save_file(state or tiny().state_dict(), folder / "model.safetensors")
    return folder


def test_a_timm_folder_answers_as_its_network(tmp_path: Path, asked: list[dict[str, Any]]) -> None:
    folder = make(tmp_path / "net")
    torch.save({"not": "weights"}, folder / "training_args.bin")
    model, x = open_folder(folder), torch.rand(5, 3, 12, 12)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(model.answers(x, 4).values, tiny()((x - mean) / std).detach())
    assert model.answers(x).kind == "logits"
    assert model.class_names == ("ant", "bee", "cat", "dog") and model.name == "net"
    assert model.sha256 == state_sha256(tiny().state_dict())
    assert [c["pretrained"] for c in asked] == [False, False]
    assert asked[0]["pretrained_cfg_overlay"] == {"input_size": [3, 12, 12], "num_classes": 4}
    said = " ".join(model.notes)
    assert "crop_pct 0.9" in said and "12 x 12" in said and "mean 0.5 0.4 0.3" in said


def test_a_hub_s_cache_is_opened_by_its_links(tmp_path: Path, asked: Any) -> None:
    model = open_folder(as_cache(make(tmp_path / "made"), tmp_path / "models--owner--net"))
    assert model.name == "owner/net" and model.sha256 == state_sha256(tiny().state_dict())


def in_parts(folder: Path, suffix: str = "safetensors") -> Path:
    """The weights of a folder in three files with an index, as hubs keep large ones."""
    state = tiny().state_dict()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(3):
        part, name = dict(list(state.items())[i::3]), f"{stem}-{i + 1:05d}-of-00003.{suffix}"
        (safetensors.torch.save_file if suffix == "safetensors" else torch.save)(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def as_cache(made: Path, cache: Path) -> Path:
    """A folder as a hub's cache: a snapshot of links into blobs."""
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, path in enumerate(sorted(made.iterdir())):
        path.rename(cache / "blobs" / f"{number:040x}")
        (cache / "snapshots" / "abc" / path.name).symlink_to(f"../../blobs/{number:040x}")
    return cache


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("place", ["folder", "cache"])
def test_weights_in_parts_are_one_model(tmp_path: Path, asked: Any, suffix: str, place: str) -> None:
    folder = in_parts(make(tmp_path / "net"), suffix)
    if place == "cache":
        folder = as_cache(folder, tmp_path / "models--owner--net")
    model = open_folder(folder)
    assert model.sha256 == state_sha256(tiny().state_dict())
    assert not any("not taken" in note for note in model.notes)
    told = inspect(folder)
    assert told["weights"]["sha256"] == model.sha256 and told["weights"]["format"] == "sharded"


@pytest.mark.parametrize("place", ["folder", "cache"])
@pytest.mark.parametrize("kind", ["a link", "a path", "a missing part", "the index is a link"])
def test_parts_lie_in_the_folder_or_nowhere(tmp_path: Path, asked: Any, place: str, kind: str) -> None:
    folder = in_parts(make(tmp_path / "net"))
    if place == "cache":
        folder = as_cache(folder, tmp_path / "models--owner--net") / "snapshots" / "abc"
    index, part = folder / "model.safetensors.index.json", folder / "model-00002-of-00003.safetensors"
    outside = tmp_path / "outside" / part.name
    outside.parent.mkdir()
    if kind == "a path":
        text = index.read_text().replace(part.name, f"../outside/{part.name}")
        index.unlink()
        index.write_text(text)
    elif kind == "the index is a link":
        index.resolve().rename(outside)
        index.unlink(missing_ok=True)
        index.symlink_to(outside)
    else:
        part.resolve().rename(outside)
        part.unlink(missing_ok=True)
        if kind == "a link":
            part.symlink_to(outside)
    with pytest.raises(ModelError):
        open_folder(folder)


def test_images_of_another_size_and_of_one_channel(tmp_path: Path, asked: list[dict[str, Any]]) -> None:
    model, x = open_folder(make(tmp_path / "net")), torch.rand(2, 1, 24, 24)
    small = nn.functional.interpolate(x, (12, 12), mode="bilinear", antialias=True)
    torch.testing.assert_close(model.answers(x).values, model.answers(small.expand(-1, 3, -1, -1)).values)
    with pytest.raises(InputError, match="of 3 channels.*got 2"):
        model.answers(torch.rand(2, 2, 12, 12))


def test_its_own_mean_and_std_are_not_followed_by_the_victim_s(tmp_path: Path, asked: Any) -> None:
    model = open_folder(make(tmp_path / "net"))
    assert model.preprocessing == {"mean": MEAN, "std": STD}
    with pytest.raises(InputError):
        model.with_preprocessing(Preprocessing((0.5,), (0.5,)))


def test_what_a_folder_does_not_say_is_timm_s_own_and_said(tmp_path: Path, asked: Any) -> None:
    model = open_folder(make(tmp_path / "net", pretrained_cfg={"input_size": [3, 12, 12]}))
    assert model.preprocessing == {"mean": [0.1], "std": [0.9]}
    assert any("no mean, std: timm's own for tiny" in note for note in model.notes)


def test_weights_that_do_not_fit(tmp_path: Path, asked: Any) -> None:
    state = tiny().state_dict()
    for change, named in (
        ({"head.bias": None}, "missing: head.bias"),
        ({"more": torch.zeros(2)}, "unexpected: more"),
        ({"head.bias": torch.zeros(5)}, r"of another shape: head.bias \[5\]"),
    ):
        changed = {k: v for k, v in {**state, **change}.items() if v is not None}
        with pytest.raises(ModelError, match=named):
            open_folder(make(tmp_path / "net", changed))
    with pytest.raises(SuspectError, match="NaN"):
        open_folder(make(tmp_path / "net", {**state, "head.bias": torch.full((4,), float("nan"))}))


def test_names_with_the_prefix_of_transformers_wrapper(tmp_path: Path, asked: Any) -> None:
    state = {f"timm_model.{k}": v for k, v in tiny().state_dict().items()}
    x = torch.rand(2, 3, 12, 12)
    plain, wrapped = open_folder(make(tmp_path / "a")), open_folder(make(tmp_path / "b", state))
    torch.testing.assert_close(plain.answers(x).values, wrapped.answers(x).values, rtol=0, atol=0)


def test_weights_that_lie_beside_are_said(tmp_path: Path, asked: Any) -> None:
    folder = make(tmp_path / "net")
    shutil.copy(folder / "model.safetensors", folder / "model_ema.safetensors")
    assert any("not taken: model_ema.safetensors" in note for note in open_folder(folder).notes)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architecture": "huge"}, "a network that timm has"),
        ({"model_args": {"depth": 2, "embed_dim": 8}}, "what timm builds tiny of.*embed_dim"),
        ({"num_classes": None}, "weights"),
        ({"num_classes": 100_000}, "of another shape"),
    ],
)
def test_a_configuration_of_another_network(tmp_path: Path, asked: Any, change: Any, named: str) -> None:
    with pytest.raises(ModelError, match=named):
        open_folder(make(tmp_path / "net", **change))


def test_a_network_far_larger_than_its_weights_is_not_built(tmp_path: Path, monkeypatch: Any) -> None:
    made: list[str] = []

    def create_model(name: str, **_: Any) -> nn.Module:
        net = nn.Linear(100_000, 100_000)
        made.append(net.weight.device.type)
        return net

    fake = types.SimpleNamespace(is_model=lambda name: True, create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", fake)
    with pytest.raises(ModelError, match="a network of at most"):
        open_folder(make(tmp_path / "net"))
    assert not made


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependency, match=r"pip install .*'timm"):
        open_folder(make(tmp_path / "net"))


def test_bounds_count_bytes_and_modules_of_one_build(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rehearse(lambda: nn.Linear(10, 10), 440).weight.device.type == "meta"
    with pytest.raises(ModelError, match="at most 439 bytes"):
        rehearse(lambda: nn.Linear(10, 10), 439)
    with pytest.raises(ModelError, match="at most 439 bytes"):
        rehearse(caught, 439)
    with pytest.raises(ModelError, match="at most 3 tensors"):
        rehearse(lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), tensors=3)
    monkeypatch.setattr("uapfast.models.bounded.MOST_MODULES", 3)
    with pytest.raises(ModelError, match="at most 3 modules"), BuildBounds():
        nn.Sequential(*(nn.Identity() for _ in range(4)))
    nn.Sequential(*(nn.Identity() for _ in range(4)))  # afterwards nothing is counted


def caught() -> nn.Module:
    """A library that goes on after an error."""
    try:
        return nn.Linear(10, 10)
    except ValueError:
        return nn.Identity()
