"""Making one UAP: ours, ART's UniversalPerturbation and a plain loop, at the same fooling rate.

    python -m pytest benchmarks/bench_generate.py --benchmark-only -s
    python benchmarks/table_generate.py results.json

Small convolutional networks on Fashion-MNIST; a network, images and an order of its own for each seed, the
same images, ball and held-out images for everybody. ART runs first. The rate that it reaches on the held-out
images is what the others have to reach: each is asked for that rate on its own hold-out (a quarter of its
images, which measures it roughly), then for a little more, until the common ones confirm it; the last is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from benchmarks.peers.art_uap import art_uap
from benchmarks.peers.sgd_uap import fooled, sgd_uap
from uapfast import universal_perturbation
from uapfast.data import load_data
from uapfast.models.registry import resolve_arch
from uapfast.pool.recipe import default_recipe

pytestmark = [pytest.mark.timeout(3600), pytest.mark.needs_fashion_mnist]
EPS, IMAGES, ASKED, ART_PASSES, HOLDOUT = 0.2, 100, 0.8, 3, 0.25
SEEDS = range(5)
MORE = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)


class Setting(NamedTuple):
    """What everybody gets, and what ART made of it."""

    seed: int
    model: nn.Module
    images: Tensor
    held: Tensor
    art_rate: float
    art_seconds: float


@pytest.fixture(scope="module", params=SEEDS, ids=lambda s: f"seed{s}")
def setting(request: pytest.FixtureRequest) -> Setting:
    pytest.importorskip("art", reason="the extra `peers` brings ART")
    seed = int(request.param)
    train, test = load_data("fashion-mnist:train"), load_data("fashion-mnist:test")
    torch.manual_seed(seed)
    model = resolve_arch("uapfast:cnn-small")()
    default_recipe(model, train.x(slice(0, 10_000)), train.labels[:10_000], seed, epochs=3)
    model.requires_grad_(False)
    first = 20_000 + seed * IMAGES
    images, held = train.x(slice(first, first + IMAGES)), test.x(slice(0, 1_000))
    start = time.perf_counter()
    v = art_uap(model, images, eps=EPS, fooling=ASKED, max_iter=ART_PASSES, seed=seed)
    return Setting(seed, model, images, held, fooled(model, held, v), time.perf_counter() - start)


def ours(s: Setting, method: Any, goal: float) -> Tensor:
    return universal_perturbation(
        s.model, s.images, eps=EPS, norm="linf", method=method, fooling=goal, holdout=HOLDOUT, seed=s.seed
    ).v


def plain(s: Setting, goal: float) -> Tensor:
    own = round(IMAGES * HOLDOUT)
    return sgd_uap(s.model, s.images[own:], s.images[:own], eps=EPS, fooling=goal, seed=s.seed)


@pytest.mark.parametrize("who", ["margin", "deepfool", "plain loop"])
def bench_universal_perturbation(benchmark: Any, setting: Setting, who: str) -> None:
    s = setting
    make: Callable[[float], Tensor] = (
        (lambda goal: plain(s, goal)) if who == "plain loop" else (lambda goal: ours(s, who, goal))
    )
    goals = [max(0.01, min(0.99, s.art_rate + more)) for more in MORE]
    goal = next((g for g in goals if fooled(s.model, s.held, make(g)) >= s.art_rate), goals[-1])
    benchmark.group = f"uap, seed {s.seed}"
    v = benchmark.pedantic(lambda: make(goal), rounds=5, iterations=1, warmup_rounds=1)
    rate = fooled(s.model, s.held, v)
    assert float(v.abs().max()) <= EPS + 1e-6
    assert rate >= s.art_rate, f"{rate:.3f} < ART's {s.art_rate:.3f}"
    extra = {"who": who, "seed": s.seed, "goal": goal, "fooling_rate": rate, "art_fooling_rate": s.art_rate}
    benchmark.extra_info.update(extra, threads=torch.get_num_threads())
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["art_seconds"] = s.art_seconds
        times = s.art_seconds / benchmark.stats.stats.median
        print(f"\n{who}, seed {s.seed}: fooling rate {rate:.3f}, {times:.0f} times faster than ART "
              f"({s.art_rate:.3f} in {s.art_seconds:.1f} s)")  # fmt: skip
