"""How a suspect answers never turns a verdict round: cut, rounded, noisy, of another form or size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import uapfast
from tests.api.screen_world import COPY, INNOCENTS, World
from uapfast.errors import OutputError
from uapfast.models.checkpoint import load_model
from uapfast.suspects.callable import open_callable

Way = Callable[[Callable[[Tensor], Tensor], Tensor], Any]
NAMES = tuple(f"digit {k}" for k in range(10))
ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)  # of ours, the suspect's class that means it
WIDE = tuple(2 * k + 1 for k in range(10))  # the same in twenty classes


def top(k: int) -> Way:
    def way(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        p = net(x).softmax(-1)
        return torch.where(p >= p.topk(k).values[:, -1:], p, 0.0)

    return way


def rounded(digits: int) -> Way:
    return lambda net, x: (net(x).softmax(-1) * 10**digits).round() / 10**digits


def clipped(low: float, high: float) -> Way:
    return lambda net, x: net(x).softmax(-1).clamp(low, high)


def noisy(scale: float, where: str) -> Way:
    """Noise that is drawn anew for each question."""
    draw = torch.Generator().manual_seed(7)

    def way(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        values = net(x) if where == "logits" else net(x).softmax(-1)
        values = values + scale * torch.randn(values.shape, generator=draw)
        return (
            values if where == "logits" else values.clamp(min=0) / values.clamp(min=0).sum(-1, keepdim=True)
        )

    return way


def scaled(size: int) -> Way:
    """It brings what it is given to another size, and back to its own."""

    def scale(x: Tensor, to: int) -> Tensor:
        return nn.functional.interpolate(x, (to, to), mode="bilinear", antialias=True, align_corners=False)

    return lambda net, x: net(scale(scale(x, size), 8))


def augmented(far: float) -> Way:
    """The mean over an image and the same moved by ``far`` pixels to each side."""

    def moved(x: Tensor, dx: float, dy: float) -> Tensor:
        where = torch.tensor([[1, 0, dx / 4], [0, 1, dy / 4]]).expand(len(x), 2, 3)
        grid = nn.functional.affine_grid(where, list(x.shape), align_corners=False)
        return nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)

    sides = ((0.0, 0.0), (far, 0.0), (-far, 0.0), (0.0, far), (0.0, -far))
    return lambda net, x: torch.stack([net(moved(x, *side)).softmax(-1) for side in sides]).mean(0)


def renamed(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return net(x)[:, np.argsort(ORDER)]


def wide(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    out = torch.full((len(x), 20), -20.0)
    out[:, list(WIDE)] = net(x)
    return out


def named(net: Callable[[Tensor], Tensor], x: Tensor) -> list[list[dict[str, Any]]]:
    return [
        [{"label": NAMES[k], "score": float(row[k])} for k in row.argsort(descending=True)]
        for row in net(x).softmax(-1)
    ]


FOUND, OPEN = {"piracy"}, {"piracy", "inconclusive"}
CLEAR, UNCLEAR = {"independent"}, {"independent", "inconclusive"}
WORSE = {*UNCLEAR, "invalid"}  # of innocents whose answers have become worse than any of the pool
REFUSED = {"invalid"}
TOLD: dict[str, Any] = {"class_names": NAMES}


# what it does; how it is asked; what may be said of the copy, and of innocents
CONDUCT: dict[str, tuple[Way, dict[str, Any], set[str], set[str]]] = {
    "logits": (lambda net, x: net(x), {}, FOUND, CLEAR),
    "probabilities": (lambda net, x: net(x).softmax(-1), {}, FOUND, CLEAR),
    "percentages": (lambda net, x: net(x).softmax(-1) * 100, {}, FOUND, CLEAR),
    "top 5": (top(5), {}, FOUND, UNCLEAR),
    "top 3": (top(3), {}, OPEN, UNCLEAR),
    "top 1": (top(1), {}, OPEN, UNCLEAR),
    "three digits": (rounded(3), {}, FOUND, UNCLEAR),
    "two digits": (rounded(2), {}, OPEN, UNCLEAR),
    "one digit": (rounded(1), {}, OPEN, UNCLEAR),
    "clipped to 0..0.9": (clipped(0.0, 0.9), {"output": "probabilities"}, OPEN, UNCLEAR),
    "noise of 0.1 on logits": (noisy(0.1, "logits"), {}, OPEN, UNCLEAR),
    "noise of 1 on logits": (noisy(1.0, "logits"), {}, OPEN, WORSE),
    "noise of 0.01 on probabilities": (noisy(0.01, "probabilities"), {}, OPEN, UNCLEAR),
    "scaled up": (scaled(24), {}, OPEN, WORSE),
    "moved by a quarter of a pixel": (augmented(0.25), {}, OPEN, WORSE),
    "moved by half a pixel": (augmented(0.5), {}, OPEN, WORSE),
    "fp16": (lambda net, x: net(x.half().float()).half(), {}, FOUND, CLEAR),
    "bf16": (lambda net, x: net(x.bfloat16().float()).bfloat16(), {}, FOUND, UNCLEAR),
    "labels": (lambda net, x: net(x).argmax(-1), {}, OPEN, UNCLEAR),
    "label strings": (lambda net, x: [NAMES[k] for k in net(x).argmax(-1)], TOLD, OPEN, UNCLEAR),
    "labels with scores": (named, TOLD, FOUND, CLEAR),
    "another order of classes, told": (renamed, {"class_order": ORDER}, FOUND, CLEAR),
    "another order of classes, untold": (renamed, {}, REFUSED, REFUSED),
    "twenty classes, told": (wide, {"class_order": WIDE}, FOUND, CLEAR),
    "twenty classes, untold": (wide, {}, REFUSED, REFUSED),
}


def decision(world: World, name: str, way: Way, how: dict[str, Any]) -> str:
    suspect = world.suspect(name)
    net = load_model(suspect.arch, suspect.path).module
    assert net is not None
    net.eval().requires_grad_(False)
    rest = {k: v for k, v in how.items() if k != "class_order"}
    opened = open_callable(lambda x: way(net, x), **rest)
    return uapfast.verify(world.references["first"], opened, class_order=how.get("class_order")).decision


@pytest.mark.parametrize("conduct", CONDUCT)
def test_conduct_never_turns_a_verdict_round(world: World, conduct: str) -> None:
    way, how, guilty, innocent = CONDUCT[conduct]
    assert decision(world, COPY, way, how) in guilty
    found = {name: decision(world, name, way, how) for name in INNOCENTS}
    assert set(found.values()) <= innocent, found


# What may hide a copy: whether it is still the first on both sides is chance, and another one on another CPU.
# Of 25 draws of this noise the copy was independent in 21 and inconclusive in 4 (AMD EPYC).
MAY_HIDE: dict[str, Way] = {"noise of 0.1 on probabilities": noisy(0.1, "probabilities")}


@pytest.mark.parametrize("conduct", MAY_HIDE)
def test_conduct_that_may_hide_a_copy(world: World, conduct: str) -> None:
    assert decision(world, COPY, MAY_HIDE[conduct], {}) in {*OPEN, "independent"}
    found = {name: decision(world, name, MAY_HIDE[conduct], {}) for name in INNOCENTS}
    assert set(found.values()) <= WORSE, found


# What hides a copy: on images of 8 x 8 these leave its accuracy as it was, and nothing that is its own.
HIDES: dict[str, Way] = {
    "scaled down to 7 and up again": scaled(7),
    "moved by a pixel of eight": augmented(1.0),
}


@pytest.mark.parametrize("conduct", HIDES)
@pytest.mark.xfail(strict=True, reason="not mended: nothing in such answers points to the victim")
def test_conduct_that_hides_a_copy(world: World, conduct: str) -> None:
    assert decision(world, COPY, HIDES[conduct], {}) in OPEN


@pytest.mark.parametrize("conduct", HIDES)
def test_conduct_that_hides_a_copy_accuses_nobody(world: World, conduct: str) -> None:
    assert all(decision(world, name, HIDES[conduct], {}) != "piracy" for name in INNOCENTS)


@pytest.mark.parametrize("output", ["auto", "probabilities"])
def test_what_is_clipped_from_below_is_asked_about(world: World, output: str) -> None:
    """Rows that sum to more than 1 in all kinds of ways are neither logits nor probabilities for sure."""
    with pytest.raises(OutputError, match="probabilities"):
        decision(world, COPY, clipped(0.01, 0.99), {"output": output})
