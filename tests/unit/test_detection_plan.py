"""The detection zoo's plan holds what the benchmark claims, and its measures say what they should."""

from __future__ import annotations

import sys
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import torch

from benchmarks.detection.__main__ import app, commands
from benchmarks.detection.access import ACCESS
from benchmarks.detection.levels import SETTINGS, draw, simulate
from benchmarks.detection.make import HOW, foreign_images
from benchmarks.detection.measures import auc, auc_interval, share, tpr
from benchmarks.detection.plan import GROUPS, SIZES, all_items, innocents, piracy
from uapfast.method.decision import decide
from uapfast.method.standing import assessment


@pytest.mark.parametrize("kind", SIZES)
def test_plan_is_as_wide_as_it_says(kind: str) -> None:
    size = SIZES[kind]
    assert len(size.epochs) >= 3
    items = all_items(size)
    assert len({i.name for i in items}) == len(items) == len({i.seed for i in items})
    assert {i.how for i in items} == set(HOW)
    for victim in size.epochs:
        own = piracy(size, victim)
        assert len(own) >= 40
        assert {i.group for i in own} == set(GROUPS) - {"innocent"}
        students = [i for i in own if i.group in ("soft", "hard")]
        assert {i.settings["images"] for i in students} == set(size.budgets)
        assert len({i.arch for i in students}) >= 4
    if kind != "small":
        assert size.twins >= 16
        assert size.innocents >= 60


def test_innocents_vary_in_everything_independently() -> None:
    found = innocents(SIZES["full"])
    for key in ("images", "share", "epochs", "recipe"):
        assert len({str(i.settings[key]) for i in found}) >= 2
        for arch in {i.arch for i in found}:
            assert len({str(i.settings[key]) for i in found if i.arch == arch}) >= 2, (key, arch)
    assert min(Counter(i.arch for i in found).values()) >= 10


def test_measures_on_known_scores() -> None:
    thieves, honest = np.array([3.0, 4.0, 1.5]), np.array([0.0, 1.0, 2.0, -1.0])
    assert auc(thieves, honest) == pytest.approx(11 / 12)
    assert tpr(thieves, honest, 0.0) == pytest.approx(2 / 3)
    assert tpr(thieves, honest, 0.25) == 1.0
    low, high = auc_interval(thieves, honest)
    assert 0.5 <= low <= 11 / 12 <= high <= 1.0
    rate, low, high = share(0, 100)
    assert rate == 0.0 == pytest.approx(low)
    assert 0.03 < high < 0.05


def test_access_hides_what_it_says() -> None:
    p = torch.rand(50, 10, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert torch.equal(ACCESS["labels"](p).argmax(-1), p.argmax(-1))
    assert bool(((ACCESS["top 3"](p) > 0).sum(-1) == 3).all())
    assert float((ACCESS["two digits"](p) - p).abs().max()) <= 0.005 + 1e-6
    refused = ACCESS["refuses half"](p)
    assert torch.equal(refused[1::2], p[1::2])
    assert bool((refused[::2] == refused[0, 0]).all())


@pytest.mark.parametrize("side", [8, 28])
def test_foreign_images_are_images_and_follow_the_seed(side: int) -> None:
    x = foreign_images(12, side, 3)
    assert x.shape == (12, 1, side, side)
    assert 0.0 <= float(x.min()) <= float(x.max()) <= 1.0
    assert torch.equal(x, foreign_images(12, side, 3))
    assert not torch.equal(x, foreign_images(12, side, 4))


@pytest.mark.parametrize("name", ["normal scores, 16 twins", "central victim, 3 noise deviations"])
def test_simulated_level_holds_where_one_side_fails(name: str) -> None:
    p = simulate(400, name)
    assert p.shape == (400,)
    assert (p <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 / 400)
    assert (p <= 0.01).mean() <= 0.01 + 3 * np.sqrt(0.01 / 400)


def test_simulation_makes_a_central_victim_that_each_side_alone_would_or_would_not_catch() -> None:
    rng = np.random.default_rng(0)
    found = [assessment(*draw(SETTINGS["central victim, 3 noise deviations"], rng)) for _ in range(100)]
    first = [decide(a, 0.05).rank == 1 for a in found]
    assert np.mean(first) > 0.5  # nominal 1/17: the candidate side alone would accuse


def test_every_command_is_found_by_its_module() -> None:
    found = commands()
    assert {"run", "zoo", "few-twins", "query-log"} <= found.keys() and all(found.values())
    assert not {"table", "options"} & found.keys()


def test_a_command_gets_what_stands_after_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, mock.patch.object(sys, "argv", ["x"]):
        app(["levels", "--runs", "many"])
    said = capsys.readouterr().err
    assert (
        end.value.code == 2
        and "benchmarks.detection levels: error" in said
        and "invalid int value: 'many'" in said
    )
