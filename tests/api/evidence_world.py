"""A reference on digits with what it takes to accuse: a victim, a copy, an honest model, and their files."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import uapfast
from tests.api.mlp import shipped
from uapfast.models.checkpoint import save_weights
from uapfast.models.registry import resolve_arch

MLP = "uapfast:mlp-small?size=8"
CONFIG = uapfast.GenerateConfig(points=10, views=6, ray=(0.0, 0.2), uap_images=100, min_fooling=0.0)


def train(x: Tensor, y: Tensor, seed: int, steps: int = 60) -> nn.Module:
    return shipped(MLP, x, y, seed, steps).requires_grad_(False)


@dataclass
class World:
    folder: Path
    reference: uapfast.Reference
    ref: Path
    victim: nn.Module
    honest: nn.Module
    copy: nn.Module
    files: dict[str, Path]
    twins: list[nn.Module]
    homologous: list[nn.Module]
    unseen: Tensor


def make_world(folder: Path) -> World:
    """Sixteen innocents, eight twins: 153 pairs, enough for a conviction at 0.001."""
    torch.set_num_threads(1)
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    own, other = slice(0, 900), slice(900, 1797)
    victim = train(x[own], y[own], 0)
    homologous = [train(x[(own, other)[s % 2]], y[(own, other)[s % 2]], 20 + s) for s in range(16)]
    twins = [train(x[own], y[own], s) for s in range(1, 9)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = uapfast.Pool.from_models(twins=twins, homologous=homologous)
        reference = uapfast.generate(victim, x[other], y[other], pool=pool, config=CONFIG)
    reference = dataclasses.replace(reference, settings={**reference.settings, "limits": []}, _cache={})
    copy = resolve_arch(MLP)()
    copy.load_state_dict({k: v + 0.01 * torch.randn_like(v) for k, v in victim.state_dict().items()})
    honest = train(x[other], y[other], 99)
    files = {"copy": folder / "copy.safetensors", "honest": folder / "honest.safetensors"}
    save_weights(copy, files["copy"])
    save_weights(honest, files["honest"])
    reference.save(folder / "victim.uapref")
    copy.eval().requires_grad_(False)
    ref = folder / "victim.uapref"
    return World(folder, reference, ref, victim, honest, copy, files, twins, homologous, x[other])
