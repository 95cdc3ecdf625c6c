"""Designated twins: the draw, its record, the pool that is made of it, and who may be its victim."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

import uapfast
from tests.api.mlp import train
from uapfast.cli import main as run
from uapfast.data import Dataset
from uapfast.errors import InputError, PoolError, PoolWarning
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.pool import draw as drawing
from uapfast.pool.build import build_pool
from uapfast.pool.draw import designate, read_draw
from uapfast.pool.manifest import load_pool

CONFIG = uapfast.GenerateConfig(points=40, views=10, ray=(0.0,), uap_images=100, eps=0.2, min_fooling=0.0)
NET = """
from torch import nn


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
"""
SMALL: dict[str, Any] = {
    "init": "random", "surrogates": 0, "homologous": 8, "epochs": 4,
    "other_archs": ("uapfast:mlp-small?size=8", "uapfast:cnn-small?size=8"),
}  # fmt: skip


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("owner")
    (folder / "net.py").write_text(NET)
    x, y = images()
    for seed in range(5):
        save_weights(train(x[:700], y[:700], seed), folder / f"model-{seed}.safetensors")
    return folder


def images() -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    return torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)


def arch(owner: Path) -> str:
    return f"{owner}/net.py:make"


def files(owner: Path) -> list[Path]:
    return sorted(owner.glob("model-*.safetensors"))


def data() -> Dataset:
    x, y = images()
    return Dataset(x[:700], y[:700], "digits", 10)


def build(owner: Path, victim: Path, out: Path, record: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pool should hold", PoolWarning)
        return build_pool(arch(owner), victim, data(), out, designated=record, **SMALL)


@pytest.fixture(scope="module")
def record(owner: Path) -> Path:
    out = owner / "draw.json"
    designate(arch(owner), files(owner), out)
    return out


def test_the_record_holds_every_model_and_its_own_hash(owner: Path, record: Path) -> None:
    found, draw = json.loads(record.read_text()), read_draw(record)
    hashes = {f.stem: load_model(arch(owner), f).sha256 for f in files(owner)}
    assert {m["name"]: m["sha256"] for m in found["models"]} == hashes == draw.sha256s
    assert found["drawn"] == draw.drawn in hashes and draw.drawn_sha256 == hashes[draw.drawn]
    assert found["time"].endswith("+00:00") and draw.sha256 == found["sha256"]
    assert [f.stem for f in draw.others] == [name for name in sorted(hashes) if name != draw.drawn]


def test_the_draw_is_uniform(owner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system's randomness is asked once, for one of all of them."""
    asked: list[list[str]] = []

    def choice(models: list[dict[str, str]]) -> dict[str, str]:
        asked.append([m["name"] for m in models])
        return models[2]

    monkeypatch.setattr(drawing.secrets, "choice", choice)
    made = designate(arch(owner), files(owner), tmp_path / "draw.json")
    assert asked == [[f.stem for f in files(owner)]] and made["drawn"] == "model-2"


def test_a_draw_is_made_once(owner: Path, record: Path) -> None:
    before = record.read_bytes()
    with pytest.raises(PoolError, match=r"out must be a new file \(a draw is made once\)"):
        designate(arch(owner), files(owner), record)
    assert record.read_bytes() == before


def test_what_cannot_be_drawn_from(owner: Path, tmp_path: Path) -> None:
    first = files(owner)[0]
    with pytest.raises(PoolError, match="at least 2 models, trained in the same way, got 1"):
        designate(arch(owner), [first], tmp_path / "draw.json")
    other = tmp_path / "other.safetensors"
    other.write_bytes(first.read_bytes())
    with pytest.raises(PoolError, match=r"different names and different weights, got .*other\.safetensors"):
        designate(arch(owner), [first, other], tmp_path / "draw.json")
    assert not (tmp_path / "draw.json").exists()


@pytest.mark.parametrize("field", ["drawn", "time", "models"])
def test_a_changed_record_is_refused(owner: Path, record: Path, tmp_path: Path, field: str) -> None:
    found = json.loads(record.read_text())
    names = [m["name"] for m in found["models"] if m["name"] != found["drawn"]]
    found[field] = {"drawn": names[0], "time": "2020-01-01T00:00:00+00:00", "models": found["models"][::-1]}[
        field
    ]
    (tmp_path / "draw.json").write_text(json.dumps(found))
    with pytest.raises(PoolError, match="as it was written"):
        read_draw(tmp_path / "draw.json")
    (tmp_path / "draw.json").write_text("{}")
    with pytest.raises(PoolError, match="a record that uapfast designate wrote, got KeyError"):
        read_draw(tmp_path / "draw.json")


def test_from_the_draw_to_a_verdict(owner: Path, record: Path, tmp_path: Path) -> None:
    draw = read_draw(record)
    victim = owner / f"{draw.drawn}.safetensors"
    manifest = build(owner, victim, tmp_path, record)
    pool = load_pool(manifest)
    assert [m.model.sha256 for m in pool.twins] == [draw.sha256s[f.stem] for f in draw.others], (
        "the others, as they are"
    )
    assert pool.made is not None and pool.made["draw_sha256"] == draw.sha256
    x, _ = images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model(arch(owner), victim)
        reference = uapfast.generate(model, x[700:], pool=pool, config=CONFIG)
    assert reference.settings["twins"]["models"] == 5
    reasons = uapfast.verify(reference, model).reasons
    assert any("drawn at random from 5 models" in r and draw.sha256 in r for r in reasons)
    other = load_model(arch(owner), draw.others[0])
    own = tuple(m for m in pool.models if m.relation != "victim")
    with pytest.raises(PoolError, match="victim must be the model that was drawn from its twins"):
        uapfast.generate(other, x[700:], pool=replace(pool, models=own), config=CONFIG)


def test_another_victim_than_the_drawn_one_makes_no_pool(owner: Path, record: Path, tmp_path: Path) -> None:
    draw = read_draw(record)
    with pytest.raises(PoolError, match=f"victim must be the model that was drawn, {draw.drawn} "):
        build(owner, draw.others[0], tmp_path / "pool", record)
    with pytest.raises(InputError, match="branch must be left out with designated"):
        build_pool(
            arch(owner), draw.others[0], data(), tmp_path / "pool", designated=record, branch=record, **SMALL
        )
    assert not (tmp_path / "pool").exists()


def test_the_commands(owner: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "draw.json"
    code = run(["designate", *map(str, files(owner)), "--arch", arch(owner), "--out", str(out)])
    said = capfd.readouterr().out
    found = json.loads(out.read_text())
    assert code == 0 and f"drawn: {found['drawn']} of 5" in said and found["sha256"] in said
    assert run(["plan", "--twins", "2,5", "--victim-hours", "2"]) == 0
    said = capfd.readouterr().out
    assert "2 twins, 40 homologous models" in said and "not measured" in said and "convicted   28%" in said
    assert run(["plan", "--twins", "4", "--branch-at", "0.5", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["pools"][0]["trainings"]["twins"] == 2
