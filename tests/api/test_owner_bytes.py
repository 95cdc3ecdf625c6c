"""Owners whose images are bytes: what is kept, and that nothing depends on how they were given."""

from __future__ import annotations

import pathlib
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import uapfast
from uapfast.data import ImageFiles, load_data
from uapfast.data.pictures import Framing
from uapfast.errors import PoolError

CONFIG = uapfast.GenerateConfig(points=10, views=4, ray=(0.0,), seed=1)


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 3))
    with torch.no_grad():
        made[4].weight.mul_(50)
    return made.eval()


def made(images: object) -> uapfast.Reference:
    pool = uapfast.Pool.from_models(
        twins=[net(10 + i) for i in range(2)], homologous=[net(20 + i) for i in range(12)]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return uapfast.generate(net(1), images, pool=pool, config=CONFIG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    image = pytest.importorskip("PIL.Image")
    path, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(60):
        place = path / f"class-{i % 3}"
        place.mkdir(exist_ok=True)
        image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return path


def test_the_reference_of_bytes_floats_and_files_is_one(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data(str(folder))
    monkeypatch.setattr("uapfast.data.folder.HELD", 10_000)
    files = load_data(str(folder), Framing()).images
    assert isinstance(files, ImageFiles)
    found = [made(data.images), made(data.x()), made(files)]
    assert len({reference.sha256 for reference in found}) == 1
    first = found[0]
    assert first.plan.points.dtype == torch.uint8 and first.points.dtype == torch.float32
    first.save(tmp_path / "r.uapref")
    back = uapfast.load(tmp_path / "r.uapref")
    assert back == first and torch.equal(back.points, first.points)
    assert (tmp_path / "r.uapref").stat().st_size < first.points.nbytes
    assert uapfast.verify(back, net(1)).z == uapfast.verify(first, net(1)).z


def test_too_few_innocents_and_what_helps() -> None:
    pool = uapfast.Pool.from_models(twins=[net(10), net(11)], homologous=[net(20), net(21)])
    with pytest.raises(PoolError, match=r"what helps: 3 more: public models .* trainings, even on a tenth"):
        uapfast.generate(net(1), torch.rand(60, 3, 16, 16), pool=pool, config=CONFIG)
