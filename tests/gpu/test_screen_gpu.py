"""``screen`` on a GPU: the verdicts of the CPU, in every order in which streams happen to run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import uapfast
from tests.api.screen_rows import bare, table
from tests.api.screen_world import MLP, World, make_world
from tests.api.test_screen_device import population
from tests.unit.test_screen_device import (
    NETS,
    RESIDUAL,
    ask_all,
    equal,
    expected,
    queries,
    same,
    saved,
    state,
    through_the_ring,
)
from tests.unit.test_screen_device import population as weights
from uapfast.screening.asking.device import DeviceLoader
from uapfast.screening.asking.panel import Settings
from uapfast.screening.listing.entry import Entry
from uapfast.streams.cuda import Cuda, CudaStream
from uapfast.suspects.networks.device import DeviceSkeleton
from uapfast.suspects.networks.skeletons import Skeleton

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("screen"))


# -- the ring and the skeletons -----------------------------------------------------------------------


def test_every_checkpoint_arrives_whole(tmp_path) -> None:
    found = through_the_ring(tmp_path, Cuda("cuda"), count=40)
    there = [{k: t.cpu() for k, t in one.items()} for one in found]
    assert equal(there, expected(40))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_answers_and_errors_are_those_of_a_plain_skeleton(precision) -> None:
    suspect = Entry("x", MLP)
    want = ask_all(Skeleton(suspect, "cuda", precision), weights(), (100, 300, 700))
    got = ask_all(DeviceSkeleton(suspect, precision, Cuda("cuda")), weights(), (100, 300, 700))
    assert sum(isinstance(w, tuple) for w in want) == 5
    assert same(want, got)


def test_weights_change_under_one_graph_a_shape(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        skeleton = DeviceSkeleton(Entry("x", RESIDUAL, mean=(0.5,), std=(0.2,)), "float32", Cuda("cuda"))
        suspects = [state(s, RESIDUAL) for s in range(5)]
        got = ask_all(skeleton, suspects, (64, 300))
    assert not caplog.text and all(f is not None and f.run.recorded for f in skeleton._forwards.values())
    plain = Skeleton(Entry("x", RESIDUAL, mean=(0.5,), std=(0.2,)), "cuda")
    assert same(ask_all(plain, suspects, (64, 300)), got)
    zero = {k: torch.zeros_like(v) for k, v in suspects[0].items()}
    assert not bool(ask_all(skeleton, [zero], (64,))[0][0].any())  # the graph reads the weights, not a copy


@pytest.mark.parametrize("name", ["Counts", "Writes", "Lists", "Short", "Fails", "Hooked", "Alternates"])
def test_networks_that_go_their_own_way(tmp_path, name) -> None:
    (tmp_path / "net.py").write_text(NETS)
    suspect = Entry("x", f"{tmp_path / 'net.py'}:{name}")
    plain = Skeleton(suspect, "cuda")
    suspects = []
    for seed in range(4):
        torch.manual_seed(seed)
        suspects.append({k: torch.rand(s) * 0.1 for k, s in plain.shapes.items()})
    want = ask_all(plain, suspects, (40, 300))
    got = ask_all(DeviceSkeleton(suspect, "float32", Cuda("cuda")), suspects, (40, 300))
    assert name == "Alternates" or same(want, got)
    assert torch.rand(3, device="cuda").isfinite().all()  # a failed capture breaks nothing for others


def test_loading_does_not_wait_for_the_device(tmp_path) -> None:
    """Nor does giving out a forward: the host is back while the stream still sleeps."""
    made = DeviceLoader(Settings(1e-3, device="cuda"))
    slot, skeleton = made.slot(), made.skeleton(Entry("x", MLP))
    assert isinstance(skeleton, DeviceSkeleton) and isinstance(skeleton.stream, CudaStream)
    shapes = skeleton.shapes
    ask_all(skeleton, [state(0), state(1)], (64,))
    loaded = made.read(saved(tmp_path, 2), slot, lambda _: shapes)
    torch.cuda.synchronize()
    skeleton.stream.do(lambda: torch.cuda._sleep(400_000_000))
    skeleton.load(loaded.tensors, "x")
    forward = next(iter(skeleton._forwards.values()))
    assert forward is not None
    forward.run()
    assert not skeleton.stream.raw.query(), "the call waited for the device"
    answers = skeleton.answer(iter(queries(64, 2)), 64, "x")
    plain = Skeleton(Entry("x", MLP), "cuda")
    plain.load(state(2), "x")
    assert torch.equal(answers, plain.answer(iter(queries(64, 2)), 64, "x"))


# -- the screen ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False])
def test_verdicts_are_those_of_the_cpu(world, tmp_path, early) -> None:
    suspects = population(world, tmp_path)
    found = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.parquet"
        uapfast.screen(
            world.references, suspects, out=out, early=early, alpha=0.01, fdr=1.0, device=device
        ).finish()
        found[device] = table(out)
    for key, row in found["cpu"].items():
        other = found["cuda"][key]
        assert (row["decision"], row["rank"], row["error_class"]) == (
            other["decision"], other["rank"], other["error_class"],
        ), key  # fmt: skip
        if row["p_value"] is not None:
            assert other["p_value"] == pytest.approx(row["p_value"], abs=1e-3), key


def many(world: World, folder: Path) -> list[Entry]:
    """Every suspect again and again under other names, so that lanes, slots and graphs change hands."""
    from safetensors.torch import load_file, save_file

    out = []
    for turn in range(12):
        for suspect in world.suspects:
            path = folder / f"{turn}-{suspect.name}.safetensors"
            state = {
                k: v * (1 + 1e-6 * turn) if v.is_floating_point() else v
                for k, v in load_file(suspect.path).items()
            }
            save_file(state, path)
            out.append(Entry(str(path), suspect.arch, path.stem, mean=suspect.mean, std=suspect.std))
    return out


@pytest.mark.parametrize("workers", [1, 4])
def test_many_at_once_are_those_one_by_one(world, tmp_path, workers) -> None:
    suspects = many(world, tmp_path)
    tables = []
    for number in range(2):
        out = tmp_path / f"{number}.parquet"
        given = {
            "early": False,
            "alpha": 0.01,
            "fdr": 1.0,
            "device": "cuda",
            "workers": 1 if number else workers,
        }
        uapfast.screen(world.references, suspects, out=out, **given).finish()
        tables.append({k: v | {"same_as": None} for k, v in bare(table(out)).items()})
    assert tables[0] == tables[1]


def test_verdicts_hold_in_bf16(world, tmp_path) -> None:
    tables = []
    for precision in ("float32", "bf16"):
        out = tmp_path / f"{precision}.parquet"
        uapfast.screen(
            world.references, world.suspects, out=out, alpha=0.01, fdr=1.0, device="cuda", early=False,
            precision=precision,
        ).finish()  # fmt: skip
        tables.append(table(out))
    assert {k: v["decision"] for k, v in tables[0].items()} == {
        k: v["decision"] for k, v in tables[1].items()
    }


def test_on_the_second_device(world, tmp_path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    tables = []
    for device in ("cuda:0", "cuda:1"):
        out = tmp_path / f"{device[-1]}.parquet"
        uapfast.screen(world.references, world.suspects, out=out, device=device, early=False).finish()
        tables.append({k: v | {"settings": ""} for k, v in bare(table(out)).items()})
    assert tables[0] == tables[1] and torch.cuda.current_device() == 0
