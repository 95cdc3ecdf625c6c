"""DeepFool UAPs of eight models of one architecture: in shared steps, and one model after the other.

    python -m pytest benchmarks/bench_generate_models.py --benchmark-only -s

Small networks with trained weights, eight seeds; the same perturbations either way, up to rounding.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from uapfast import universal_perturbation
from uapfast.models.nets import NETS

pytestmark = pytest.mark.timeout(1800)
MODELS, IMAGES, PASSES = 8, 171, 1  # 128 images to work on


def world(net: str, size: int) -> tuple[list[nn.Module], Tensor]:
    """Models trained for a moment on digits of ``size`` px, and images."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    if size != 8:
        x = nn.functional.interpolate(x, size=(size, size), mode="bilinear")
    y = torch.tensor(digits.target)
    models = []
    for seed in range(MODELS):
        torch.manual_seed(seed)
        model = NETS[net](1, 10, size)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
        for _ in range(60):
            rows = torch.randint(len(x), (64,))
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        models.append(model.eval())
    return models, x[-IMAGES:]


@pytest.fixture(scope="module")
def worlds() -> dict[tuple[str, int], tuple[list[nn.Module], Tensor]]:
    return {}


@pytest.mark.parametrize("how", ["together", "one by one"])
@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("net", ["mlp-small", "cnn-small", "resnet-small"])
def bench_deepfool_of_eight(benchmark: Any, worlds: Any, net: str, size: int, how: str) -> None:
    if (net, size) not in worlds:
        worlds[net, size] = world(net, size)
    models, images = worlds[net, size]
    settings: dict[str, Any] = {"eps": 0.2, "method": "deepfool", "max_passes": PASSES, "fooling": 0.9}

    def together() -> Tensor:
        return universal_perturbation(models=models, images=images, **settings).v

    def one_by_one() -> Tensor:
        return torch.stack([universal_perturbation(m, images, **settings).v for m in models])

    benchmark.group = f"deepfool of {MODELS} models: {net} at {size} px"
    benchmark.extra_info.update(how=how, threads=torch.get_num_threads())
    work = together if how == "together" else one_by_one
    v = benchmark.pedantic(work, rounds=3, iterations=1)
    assert v.shape == (MODELS, *images.shape[1:]) and float(v.abs().max()) <= 0.2 + 1e-6
    if how == "together" and net == "mlp-small":  # rounding may turn a step elsewhere in a deeper network
        torch.testing.assert_close(v, one_by_one(), atol=1e-3, rtol=0)
