"""What the tests of real servers share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.api.screen_world import World, make_world
from tests.servers.start import Model
from uapfast.models.checkpoint import load_model


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("servers"))


@pytest.fixture
def served(world: World, tmp_path: Path) -> Callable[[str], Model]:
    """A suspect of the world by name, as what a server serves: linear layers only."""

    def of(name: str) -> Model:
        weights = tmp_path / f"{name}.npz"
        module = load_model(world.suspect(name).arch, world.suspect(name).path).module
        assert module is not None
        np.savez(weights, *[p.detach().numpy() for p in module.parameters()])
        return Model(weights)

    return of
