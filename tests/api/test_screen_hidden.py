"""What somebody may hide from a screen of a folder: it is found, or counted as skipped."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch

import uapfast
from tests.api.mixed_suspects import ARCHS, config, rows_of, state
from tests.api.screen_world import MLP, World
from uapfast.screening.listing.collection import Skipped, from_folder
from uapfast.screening.listing.entry import Defaults


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
