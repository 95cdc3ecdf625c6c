"""Queries handed out: every one once, their ids say nothing, and what is written is whole."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import uapfast
from tests.api.recorded_world import World, same
from uapfast.errors import StorageError
from uapfast.verbs.queries import numbered, write_queries
from uapfast.verbs.recorded import verify_recorded


@pytest.fixture(scope="session")
def world(recorded_world: World) -> World:
    return recorded_world


def test_every_query_and_probe_is_there_once(world):
    plan = world.reference.plan
    wanted = torch.cat([*plan.chunks(), world.reference.probe_images])
    assert {i.tobytes() for i in world.queries["x"]} == {i.numpy().tobytes() for i in wanted}
    ids = world.queries["id"]
    assert len(np.unique(ids)) == len(ids) == len({i.numpy().tobytes() for i in wanted})
    assert world.queries["x"].dtype == np.float32 and ids.dtype == np.int64 and ids.min() >= 0
    assert ids.max() < 2**53  # what JSON's readers keep


def test_ids_tell_nothing_of_the_order(world):
    made = numbered(world.reference)
    place = np.argsort(np.argsort(made.ids.ravel())).reshape(made.ids.shape)
    for axis in range(3):  # views, blocks, points: mean places differ by chance alone
        rest = tuple(a for a in range(3) if a != axis)
        means = place.mean(rest)
        chance = place.size / np.sqrt(12 * place.size / place.shape[axis])
        assert np.abs(means - means.mean()).max() < 4.5 * chance
    assert np.abs(np.corrcoef(place.ravel(), np.arange(place.size))[0, 1]) < 0.2
    assert list(world.queries["id"]) == sorted(world.queries["id"])


def test_ids_belong_to_the_reference_and_are_not_made_of_its_public_hash(world):
    again = uapfast.load(world.folder / "r.uapref")
    assert np.array_equal(numbered(again).ids, numbered(world.reference).ids)
    other = dataclasses.replace(again, answers=again.answers.flip(0), _cache={"sha256": again.sha256})
    assert not np.isin(numbered(other).ids, numbered(again).ids).any()


def test_equal_queries_have_one_id_and_work(world, tmp_path):
    plan = world.reference.plan
    points = world.reference.points.clone()
    points[3], points[40] = points[0], points[0]
    double = dataclasses.replace(world.reference, plan=dataclasses.replace(plan, points=points), _cache={})
    write_queries(double, tmp_path / "out")
    with np.load(tmp_path / "out" / "queries.npz") as found:
        ids, x = found["id"], found["x"]
    assert len(ids) == len(world.queries["id"]) - 2 - sum(
        int(plan.assign[1, i] == plan.assign[1, 0]) for i in (3, 40)
    )
    np.savez(tmp_path / "a.npz", id=ids, logits=world.answers(world.victim, x))
    same(verify_recorded(double, tmp_path / "a.npz"), uapfast.verify(double, world.victim))


def test_the_owner_is_told_of_probes_and_the_other_side_is_not(world, tmp_path):
    found = write_queries(world.reference, tmp_path / "out")
    probes = len(world.reference.probe_images)
    assert found.asked == world.reference.plan.queries == 400 and found.probes == probes > 0
    assert f"{found.queries} images [1, 8, 8], float32: 400 queries and {probes} probes" in found.lines()[0]
    assert (found.queries < 400 + probes) == ("occur twice" in found.lines()[0])
    handed = (tmp_path / "out" / "queries.json").read_text() + (tmp_path / "out" / "README.txt").read_text()
    assert "probes" not in handed and "asked" not in handed


def test_pictures_and_what_is_said_of_them(world):
    out = world.folder / "out"
    assert len(list((out / "png").iterdir())) == len(world.queries["id"])
    worst = 0.0
    for id_, x in zip(world.queries["id"], world.queries["x"], strict=True):
        with Image.open(out / "png" / f"{id_}.png") as image:
            assert image.mode == "L"
            worst = max(worst, float(np.abs(np.asarray(image) / 255.0 - x[0]).max()))
    about = json.loads((out / "queries.json").read_text())
    assert about["png_rounds"] == pytest.approx(worst, abs=1e-6) and about["dtype"] == "float32"
    assert f"{about['png_rounds']:.2g}" in (out / "README.txt").read_text()
    assert sorted(p.name for p in out.iterdir()) == ["README.txt", "png", "queries.json", "queries.npz"]


@pytest.mark.parametrize("channels", [2, 3])
def test_queries_on_the_grid_are_bytes(world, tmp_path, channels):
    plan = world.reference.plan
    points = (world.reference.points * 255).round().expand(-1, channels, -1, -1) / 255
    points = points * torch.linspace(0, 1, channels).view(1, -1, 1, 1)
    points = (points * 255).round() / 255
    grid = dataclasses.replace(
        plan, points=points, uaps=plan.uaps.expand(-1, channels, -1, -1), wire_safe=True
    )
    made = dataclasses.replace(world.reference, plan=grid, probes=None, probe_labels=None, _cache={})
    found = write_queries(made, tmp_path / "out")
    assert found.dtype == "uint8" and found.png_rounds == 0.0
    with np.load(tmp_path / "out" / "queries.npz") as file:
        ids, x = file["id"], file["x"]
    wanted = {(i * 255).round().byte().numpy().tobytes() for i in torch.cat([*grid.chunks()])}
    assert x.dtype == np.uint8 and {i.tobytes() for i in x} == wanted
    if channels == 3:
        with Image.open(tmp_path / "out" / "png" / f"{ids[5]}.png") as image:
            assert image.mode == "RGB" and np.array_equal(np.asarray(image), x[5].transpose(1, 2, 0))
    else:
        assert found.png == 0 and not (tmp_path / "out" / "png").exists() and "2 channels" in found.lines()[1]


def test_written_whole_or_not_at_all(world, tmp_path, monkeypatch):
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine").write_text("x")
    with pytest.raises(StorageError, match="empty"):
        write_queries(world.reference, used)
    with pytest.raises(StorageError, match="existing"):
        write_queries(world.reference, tmp_path / "no" / "where")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match="No space"):
        write_queries(world.reference, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["used"]
