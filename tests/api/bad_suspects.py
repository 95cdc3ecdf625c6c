"""Suspects that a screen cannot use: one row each, and the run goes on."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.api.screen_world import MLP, World
from uapfast.screening.listing.entry import Entry


def bad_suspects(world: World, folder: Path) -> list[Entry]:
    good = load_file(world.suspect("honest-0").path)
    nan = {k: v.clone() for k, v in good.items()}
    nan["1.weight"][3, 4] = float("nan")
    wide = good | {"1.weight": torch.zeros(128, 65)}
    files = {
        "nan": nan, "overflow": {k: v.double() * 1e300 for k, v in good.items()}, "wide": wide,
        "missing": {k: v for k, v in good.items() if k != "3.bias"}, "more": good | {"x": torch.zeros(3)},
    }  # fmt: skip
    for name, tensors in files.items():
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")
    whole = Path(world.suspect("honest-0").path).read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-10])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "noise.safetensors").write_bytes(bytes(range(256)) * 20)
    (folder / "folder.safetensors").mkdir()
    (folder / "loop.safetensors").symlink_to(folder / "loop.safetensors")
    os.mkfifo(folder / "pipe.safetensors")
    names = [*files, "cut", "empty", "noise", "folder", "loop", "pipe", "absent"]
    found = [Entry(str(folder / f"{n}.safetensors"), MLP, n) for n in names]
    path = world.suspect("honest-0").path
    return [
        *found,
        Entry(path, "uapfast:none-such", "arch"),
        Entry(path, "uapfast:mlp-small?size=8&classes=7", "classes"),
        Entry(path, f"{folder / 'exits.py'}:net", "exits"),
        Entry(path, f"{folder / 'fails.py'}:net", "fails"),
        Entry("nul\0byte", MLP, "nul"),
    ]
