"""A victim, copies, innocents and a pool on scikit-learn's digits, for the tests of generate and verify."""

from __future__ import annotations

import contextlib
import copy
import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import uapfast
from tests.api.mlp import train
from uapfast.errors import PoolWarning

SMALL = uapfast.GenerateConfig(points=40, views=10, uap_images=200, eps=0.2, min_fooling=0.1, seed=0)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    return torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)


def make_world() -> dict:
    torch.set_num_threads(1)
    x, y = data()
    own, thief = slice(0, 700), slice(700, 1400)
    victim = train(x[own], y[own], 0)
    twins = [train(x[own], y[own], s) for s in range(1, 8)]
    homologous = [
        train(x[own if s % 2 else thief], y[own if s % 2 else thief], 20 + s, width=24 + 8 * (s % 4))
        for s in range(14)
    ]
    with torch.no_grad():
        soft = victim(x[thief]).softmax(-1)
    tuned = copy.deepcopy(victim)
    optimizer = torch.optim.Adam(tuned.parameters(), lr=2e-4)
    for _ in range(10):
        loss = nn.functional.cross_entropy(tuned(x[thief]), y[thief])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {
        "x": x,
        "y": y,
        "victim": victim,
        "twins": twins,
        "homologous": homologous,
        "pool": uapfast.Pool.from_models(twins=twins, homologous=homologous),
        "extracted": train(x[thief], soft, 50, steps=600),
        "tuned": tuned.eval(),
        "innocents": [train(x[own], y[own], 60 + s, width=40) for s in range(3)],
    }


def make_reference(world: dict) -> uapfast.Reference:
    with pytest.warns(PoolWarning, match="at least 8 twins, got 7"):
        return uapfast.generate(world["victim"], world["x"], world["y"], pool=world["pool"], config=SMALL)


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PoolWarning)
        yield
