"""What every test shares: seeds, and skips that can be turned into failures (uapfast.testing)."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from uapfast import testing

SEED = 20_260_101
MARKS = {"gpu": "cuda", "needs_fashion_mnist": "fashion-mnist"}


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # a core each: more threads would wait for one another
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        testing.required()
    except testing.InputError as exc:
        raise pytest.UsageError(str(exc)) from exc


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark, name in MARKS.items():
        if item.get_closest_marker(mark):
            testing.require(name)
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            testing.require(name)


@pytest.fixture(autouse=True)
def seed() -> Iterator[int]:
    """Seed random, numpy and torch for one test, and put their state back after it."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    before = random.getstate()
    random.seed(SEED)
    before_numpy = numpy.random.get_state() if numpy else None
    if numpy:
        numpy.random.seed(SEED)
    before_torch = torch.random.get_rng_state() if torch else None
    if torch:
        torch.manual_seed(SEED)
    yield SEED
    random.setstate(before)
    if numpy and before_numpy is not None:
        numpy.random.set_state(before_numpy)
    if torch and before_torch is not None:
        torch.random.set_rng_state(before_torch)


@pytest.fixture
def fashion_mnist() -> Path:
    """Folder with the Fashion-MNIST idx files; without them the test is skipped, or fails if required."""
    testing.require("fashion-mnist")
    place = testing.fashion_mnist_dir()
    assert place is not None
    return place
