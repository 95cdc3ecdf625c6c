"""``verify`` and ``encode`` end to end: a network asked and judged before a reference of the digits.

    pytest benchmarks/bench_verify.py --benchmark-only

The world is trained first, in seconds: a perceptron with four twins and six homologous ones, 20 views of 40
points.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import uapfast
from uapfast.data import load_data
from uapfast.pool.recipe import default_recipe
from uapfast.pool.train import fresh_model

ARCH = "uapfast:mlp-small?channels=1&classes=10&size=8"
OWNER, TWINS, INNOCENTS = 800, 4, 6
VERBS: dict[str, Callable[..., Any]] = {"verify": uapfast.verify, "encode": uapfast.encode}


@pytest.fixture(scope="module")
def world() -> tuple[Any, nn.Module]:
    """A reference, and an honest suspect."""
    loaded = load_data("digits")
    x, y = loaded.x(slice(0, OWNER)), loaded.labels[:OWNER]

    def train(seed: int) -> nn.Module:
        model = default_recipe(fresh_model(ARCH, seed), x, y, seed, epochs=4)
        return model.eval()

    twins = [train(seed) for seed in range(1, 1 + TWINS)]
    rest = [train(100 + seed) for seed in range(INNOCENTS)]
    config = uapfast.GenerateConfig(points=40, uap_images=100, min_fooling=0.0)
    pool = uapfast.Pool.from_models(twins=twins, homologous=rest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return uapfast.generate(train(0), x, y, pool=pool, config=config), train(200)


@pytest.mark.parametrize("verb", VERBS)
def bench_verb(benchmark: Any, world: tuple[Any, nn.Module], verb: str) -> None:
    reference, suspect = world
    benchmark.group = f"{verb}, {reference.plan.queries:,} queries"
    found = benchmark.pedantic(VERBS[verb], (reference, suspect), rounds=5, warmup_rounds=1)
    if verb == "verify":
        assert found.decision != "piracy" and found.queries_used >= reference.plan.queries
    else:
        assert found.shape[0] == reference.plan.views
