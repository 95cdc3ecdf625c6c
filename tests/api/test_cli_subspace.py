from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from uapfast.cli import main
from uapfast.data import load_data
from uapfast.models.checkpoint import save_weights
from uapfast.models.registry import resolve_arch
from uapfast.pool.manifest import ManifestEntry, write_manifest
from uapfast.pool.recipe import default_recipe

ARCH = "uapfast:mlp-small?size=8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("subspace")
    data = load_data("digits:train")
    entries = []
    for i, (name, relation, candidate) in enumerate(
        [
            ("victim", "victim", None),
            ("copy", "piracy", "victim"),
            ("t0", "twin", None),
            ("h0", "homologous", None),
        ]
    ):
        torch.manual_seed(0 if name == "copy" else i)
        model = default_recipe(resolve_arch(ARCH)(), data.x(), data.labels, i, epochs=3)
        save_weights(model, place / f"{name}.safetensors")
        entries.append(ManifestEntry(f"{name}.safetensors", ARCH, name, relation, candidate))
    write_manifest(place / "manifest.csv", entries)
    return place


def words(folder: Path, *more: str) -> list[str]:
    return [
        "subspace",
        "--arch",
        ARCH,
        "--weights",
        str(folder / "victim.safetensors"),
        "--data",
        "digits:test",
        "--pool",
        str(folder / "manifest.csv"),
        "--per-model",
        "4",
        "--rank",
        "2",
        *more,
    ]


def test_subspace_writes_figures_and_says_what_they_mean(folder, capfd):
    assert main(words(folder, "--out", str(folder / "out"), "--eps", "0.3")) == 0
    shown = capfd.readouterr().out
    assert "piracy" in shown and "AUC" in shown
    found = json.loads((folder / "out" / "subspace.json").read_text())
    assert set(found["captured"]) == {"victim", "copy", "t0", "h0"}
    assert all(0 <= v <= 1 for v in found["captured"].values())
    assert (folder / "out" / "subspace.png").read_bytes().startswith(b"\x89PNG")


def test_bad_settings_are_one_line_and_exit_2(folder, capfd):
    given = words(folder, "--out", str(folder / "bad"))
    given[given.index("--rank") + 1] = "3"
    assert main(given) == 2
    error = capfd.readouterr().err.strip()
    assert "at least twice the rank, 6, got 4" in error and "Traceback" not in error
