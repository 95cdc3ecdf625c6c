"""``uapfast.screen`` through the loader of a GPU, on a device that runs things late; and in bf16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import uapfast
from tests.api.screen_rows import bare, table
from tests.api.screen_world import MLP
from tests.lazy import LazyDevice
from uapfast.errors import InputError
from uapfast.screening.asking.device import DeviceLoader
from uapfast.screening.engine import local
from uapfast.screening.listing.entry import Entry


def population(world, folder: Path) -> list[Entry]:
    """The world's suspects, a copy of one, a broken one, one of another architecture."""
    first = world.suspect("victim-1")
    copied, broken, odd = (folder / f"{n}.safetensors" for n in ("copied", "broken", "odd"))
    save_file(load_file(first.path), copied)
    weights = load_file(first.path)
    weights["3.bias"][2] = torch.nan
    save_file(weights, broken)
    save_file({"x": torch.zeros(3)}, odd)
    more = [Entry(str(p), MLP, p.stem) for p in (copied, broken, odd)]
    return [*world.suspects, *more]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("early", [True, False])
def test_the_table_is_that_of_the_plain_way(world, tmp_path, monkeypatch, seed, early):
    suspects = population(world, tmp_path)
    plain, there = tmp_path / "plain.parquet", tmp_path / "there.parquet"
    uapfast.screen(world.references, suspects, out=plain, early=early, alpha=0.01, fdr=1.0).finish()
    device = LazyDevice(seed)
    made: list[DeviceLoader] = []

    def of(settings):
        made.append(DeviceLoader(settings, device))
        return made[-1]

    monkeypatch.setattr(local, "loader_for", of)
    uapfast.screen(
        world.references, suspects, out=there, early=early, alpha=0.01, fdr=1.0, workers=2
    ).finish()
    assert made[0].readers > 1 and device.captures and device.replays
    want, got = bare(table(plain)), bare(table(there))
    assert (
        got["first", "broken"]["decision"] == "invalid" and "NaN" in got["first", "broken"]["error_message"]
    )
    for key in want:
        assert want[key] | {"same_as": None} == got[key] | {"same_as": None}, key


def test_verdicts_hold_in_bf16(world, tmp_path):
    one, other = tmp_path / "float32.parquet", tmp_path / "bf16.parquet"
    for path, precision in ((one, "float32"), (other, "bf16")):
        uapfast.screen(
            world.references, world.suspects, out=path, early=False, alpha=0.01, fdr=1.0, precision=precision
        ).finish()
    want, got = table(one), table(other)
    moved = 0
    for key, row in want.items():
        assert got[key]["decision"] == row["decision"], key
        assert got[key]["z"] == pytest.approx(row["z"], abs=0.3), key
        moved += got[key]["z"] != row["z"]
    assert moved == len(want)  # it was another precision


def test_another_precision_is_another_question(world, tmp_path):
    out = tmp_path / "t.parquet"
    suspects = world.suspects[:2]
    uapfast.screen(world.references, suspects, out=out).finish()
    with uapfast.screen(world.references, suspects, out=out) as again:
        assert list(again) == []
    with uapfast.screen(world.references, suspects, out=out, precision="bf16") as other:
        rows = list(other)
    assert len(rows) == 4 and all('"precision": "bf16"' in row.settings for row in rows)
    with pytest.raises(InputError, match="precision must be float32 or bf16, got 'fp8'"):
        uapfast.screen(world.references, suspects, precision="fp8")
