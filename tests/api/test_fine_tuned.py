"""A victim that was fine-tuned from a public backbone: honest fine-tunings are not accused, copies are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import uapfast
from uapfast.data import load_data
from uapfast.models.checkpoint import read_weights, save_weights
from uapfast.pool.attacks import extract, prune
from uapfast.pool.build import build_pool
from uapfast.pool.origin import fresh_model
from uapfast.pool.recipe import default_recipe
from uapfast.pool.train import one_thread

ARCH = "uapfast:resnet-small?channels=1&classes=10&size=8"
BACKBONE = ARCH.replace("=10", "=5")
PASSES = 12


@dataclass(frozen=True)
class World:
    """A reference, the victim, and what fine-tunes the backbone on other images."""

    reference: uapfast.Reference
    victim: nn.Module
    start: Callable[[int], nn.Module]
    tune: Callable[[slice, int], nn.Module]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("fine-tuned")
    data, test = load_data("digits:train"), load_data("digits:test")
    x, y = data.x(), data.labels
    public = folder / "backbone.safetensors"
    small = y[:400] < 5  # the public network knows another task
    save_weights(
        default_recipe(fresh_model(BACKBONE, 0), x[:400][small], y[:400][small], 0, epochs=12), public
    )

    def start(seed: int) -> nn.Module:
        module = fresh_model(ARCH, seed)
        body = {n: t for n, t in read_weights(public).items() if t.shape == module.state_dict()[n].shape}
        module.load_state_dict(body, strict=False)
        return module

    def tune(rows: slice, seed: int) -> nn.Module:
        return default_recipe(start(seed), x[rows], y[rows], seed, epochs=PASSES, learning_rate=2e-3)

    with one_thread():
        victim = tune(slice(300, 600), 1)
        save_weights(victim, folder / "victim.safetensors")
        owned = data.subset(slice(300, 600))
        pool = build_pool(
            ARCH, folder / "victim.safetensors", owned, folder / "pool", init=public, twins=8, surrogates=0,
            homologous=16, epochs=PASSES,
        )  # fmt: skip
        config = uapfast.GenerateConfig(ray=(0.0,), uap_images=64)
        return World(uapfast.generate(victim, test.x(), pool=pool, config=config), victim, start, tune)


@pytest.mark.parametrize("rows", [slice(0, 300), slice(600, 900)])
def test_an_honest_fine_tuning_of_the_same_backbone_is_independent(world: World, rows: slice) -> None:
    verdict = uapfast.verify(world.reference, world.tune(rows, 2))
    assert verdict.decision == "independent" and verdict.p_value is not None and verdict.p_value > 0.1


def test_copies_are_still_convicted(world: World) -> None:
    assert uapfast.verify(world.reference, world.victim).decision == "piracy"
    assert uapfast.verify(world.reference, prune(world.victim, 0.3)).decision == "piracy"


def test_so_is_a_student_that_began_at_the_backbone_too(world: World) -> None:
    def recipe(module: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int) -> nn.Module:
        return default_recipe(module, images, labels, seed, epochs=16, learning_rate=2e-3)

    images = load_data("digits:train").x()[600:900]
    student = extract(lambda z: world.victim(z).softmax(1), world.start(9), images, recipe=recipe)
    verdict = uapfast.verify(world.reference, student, alpha=0.002)
    assert verdict.decision == "piracy", verdict
