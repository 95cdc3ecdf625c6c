"""A verdict on a hub folder is that on the network in it."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import uapfast
from tests.api.screen_world import World
from uapfast.models.checkpoint import read_weights
from uapfast.models.registry import resolve_arch
from uapfast.suspects.folder import open_folder

NUMBERS = ("decision", "p_value", "similarity", "z", "agreement", "queries_used", "output", "suspect_sha256")


@pytest.mark.parametrize("name", ["pruned-1", "honest-0"])
def test_a_timm_folder_gets_the_verdict_of_its_weights(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    suspect = world.suspect(name)
    safetensors.torch.save_file(dict(read_weights(suspect.path)), tmp_path / "model.safetensors")
    about = {"input_size": [1, 8, 8], "mean": [0.0], "std": [1.0], "interpolation": "bicubic"}
    config = {"architecture": "net", "num_classes": 10, "pretrained_cfg": about}
    (tmp_path / "config.json").write_text(json.dumps(config))

    def create_model(name: str, **_: Any) -> torch.nn.Module:
        made = resolve_arch(suspect.arch)()
        made.num_classes, made.in_chans, made.pretrained_cfg = 10, 1, {}  # type: ignore[assignment]
        return made

    fake = types.SimpleNamespace(is_model=lambda name: True, create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", fake)  # type: ignore[arg-type]
    ours = uapfast.verify(world.references["first"], open_folder(tmp_path))
    known = world.verify("first", name)
    assert [getattr(ours, n) for n in NUMBERS] == [getattr(known, n) for n in NUMBERS]
    assert any("8 x 8" in reason for reason in ours.reasons), "what is done to images is said"


def test_a_folder_with_more_classes_needs_a_class_order(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspect = world.suspect("pruned-1")
    state = dict(read_weights(suspect.path))
    places = list(range(12, 2, -1))
    last = [n for n, t in state.items() if t.shape[:1] == (10,)]  # weight and bias of the last layer
    for name in last:
        rows = torch.full((14, *state[name].shape[1:]), -9.0 if state[name].ndim == 1 else 0.0)
        rows[places] = state[name]
        state[name] = rows
    assert len(last) == 2
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    about = {"input_size": [1, 8, 8], "mean": [0.0], "std": [1.0]}
    config = {"architecture": "net", "num_classes": 14, "pretrained_cfg": about}
    (tmp_path / "config.json").write_text(json.dumps(config))

    def create_model(name: str, **_: Any) -> torch.nn.Module:
        made = resolve_arch(f"{suspect.arch}&classes=14")()
        made.num_classes, made.in_chans, made.pretrained_cfg = 14, 1, {}  # type: ignore[assignment]
        return made

    fake = types.SimpleNamespace(is_model=lambda name: True, create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", fake)  # type: ignore[arg-type]
    reference, opened = world.references["first"], open_folder(tmp_path)
    refused = uapfast.verify(reference, opened)
    assert refused.decision == "invalid" and "class order says which" in refused.reasons[0]
    ours, known = uapfast.verify(reference, opened, class_order=places), world.verify("first", "pruned-1")
    assert ours.decision == known.decision and ours.z == pytest.approx(known.z, abs=1e-3)


@pytest.mark.needs("transformers")
def test_a_transformers_folder_gets_the_verdict_of_its_network(world: World, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    settings = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8,
        patch_size=4, num_channels=1, num_labels=10, initializer_range=1.0,
    )  # fmt: skip
    network = transformers.ViTForImageClassification(settings).eval()
    network.save_pretrained(tmp_path)
    processor = {"do_resize": False, "do_rescale": True, "image_mean": [0.5], "image_std": [0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    ours = uapfast.verify(world.references["first"], open_folder(tmp_path))
    known = uapfast.verify(world.references["first"], lambda x: network((x - 0.5) / 0.5).logits.detach())
    assert (ours.decision, ours.queries_used) == (known.decision, known.queries_used)
    assert ours.similarity == pytest.approx(known.similarity, abs=1e-3)
