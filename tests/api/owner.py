"""An owner of a small network on digits, with twins, innocents and a reference that may convict."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import uapfast
from tests.api.mlp import shipped

MLP = "uapfast:mlp-small?size=8"


@dataclass
class Owner:
    victim: nn.Module
    twins: list[nn.Module]
    homologous: list[nn.Module]
    reference: uapfast.Reference
    unseen: Tensor
    unseen_labels: Tensor


def train(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    return shipped(MLP, x, y, seed).requires_grad_(False)


def make_owner(innocents: int, config: uapfast.GenerateConfig) -> Owner:
    """Eight twins; half of the innocents saw the owner's images."""
    torch.set_num_threads(1)
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    own, other = slice(0, 900), slice(900, 1797)
    victim = train(x[own], y[own], 0)
    homologous = [train(x[(own, other)[s % 2]], y[(own, other)[s % 2]], 20 + s) for s in range(innocents)]
    twins = [train(x[own], y[own], s) for s in range(1, 9)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = uapfast.Pool.from_models(twins=twins, homologous=homologous)
        reference = uapfast.generate(victim, x[other], y[other], pool=pool, config=config)
    reference = dataclasses.replace(reference, settings={**reference.settings, "limits": []}, _cache={})
    return Owner(victim, twins, homologous, reference, x[other], y[other])
