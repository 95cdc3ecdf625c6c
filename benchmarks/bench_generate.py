"""Making one UAP: ours, ART's UniversalPerturbation and a plain loop, at the same fooling rate.

    python -m pytest benchmarks/bench_generate.py --benchmark-only -s

One small convolutional network on Fashion-MNIST, the same images, ball and held-out images for everybody.
ART runs first; the rate that it reaches on the held-out images is what the others have to reach.
"""

from __future__ import annotations

import time
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

pytestmark = [pytest.mark.timeout(3600), pytest.mark.needs_fashion_mnist, pytest.mark.benchmark(group="uap")]
EPS, IMAGES, ASKED, ART_PASSES = 0.2, 100, 0.8, 3


class Setting(NamedTuple):
    """What everybody gets, and what ART made of it."""

    model: nn.Module
    images: Tensor
    held: Tensor
    art_v: Tensor
    art_rate: float
    art_seconds: float


@pytest.fixture(scope="module")
def setting() -> Setting:
    pytest.importorskip("art", reason="the extra `peers` brings ART")
    train, test = load_data("fashion-mnist:train"), load_data("fashion-mnist:test")
    torch.manual_seed(0)
    model = resolve_arch("uapfast:cnn-small")()
    default_recipe(model, train.x(slice(0, 10_000)), train.labels[:10_000], 0, epochs=3)
    model.requires_grad_(False)
    images, held = train.x(slice(20_000, 20_000 + IMAGES)), test.x(slice(0, 1_000))
    start = time.perf_counter()
    v = art_uap(model, images, eps=EPS, fooling=ASKED, max_iter=ART_PASSES)
    return Setting(model, images, held, v, fooled(model, held, v), time.perf_counter() - start)


def report(benchmark: Any, setting: Setting, name: str, rate: float) -> None:
    if benchmark.stats is None:  # --benchmark-disable
        return
    ratio = setting.art_seconds / benchmark.stats.stats.median
    benchmark.extra_info.update(
        fooling_rate=rate,
        art_fooling_rate=setting.art_rate,
        art_seconds=setting.art_seconds,
        times_faster_than_art=ratio,
    )
    print(f"\n{name}: fooling rate {rate:.3f} (ART {setting.art_rate:.3f} in {setting.art_seconds:.1f} s), "
          f"{ratio:.0f} times faster than ART")  # fmt: skip


@pytest.mark.parametrize("method", ["margin", "deepfool"])
def bench_universal_perturbation(benchmark: Any, setting: Setting, method: str) -> None:
    # its own hold-out is a quarter of the images: aim a little higher, so that the common one is reached too
    fooling = min(0.99, setting.art_rate + 0.1)

    def work() -> Any:
        return universal_perturbation(
            setting.model, setting.images, eps=EPS, norm="linf", method=method, fooling=fooling, seed=0
        )

    made = benchmark.pedantic(work, rounds=3, iterations=1, warmup_rounds=1)
    rate = fooled(setting.model, setting.held, made.v)
    assert float(made.v.abs().max()) <= EPS + 1e-6
    assert rate >= setting.art_rate, f"{rate:.3f} < ART's {setting.art_rate:.3f}"
    report(benchmark, setting, method, rate)


def bench_sgd_uap(benchmark: Any, setting: Setting) -> None:
    def work() -> Tensor:
        return sgd_uap(setting.model, setting.images, setting.held, eps=EPS, fooling=setting.art_rate)

    v = benchmark.pedantic(work, rounds=3, iterations=1, warmup_rounds=1)
    rate = fooled(setting.model, setting.held, v)
    assert rate >= setting.art_rate
    report(benchmark, setting, "plain PyTorch loop", rate)
