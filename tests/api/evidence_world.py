"""A reference on digits with what it takes to accuse: a victim, a copy, an honest model, and their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import uapfast
from tests.api.owner import MLP, make_owner, train
from uapfast.models.checkpoint import save_weights
from uapfast.models.registry import resolve_arch

CONFIG = uapfast.GenerateConfig(points=10, views=6, ray=(0.0, 0.2), uap_images=100, min_fooling=0.0)


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
    owner = make_owner(16, CONFIG)
    reference, victim = owner.reference, owner.victim
    copy = resolve_arch(MLP)()
    copy.load_state_dict({k: v + 0.01 * torch.randn_like(v) for k, v in victim.state_dict().items()})
    honest = train(owner.unseen, owner.unseen_labels, 99)
    files = {"copy": folder / "copy.safetensors", "honest": folder / "honest.safetensors"}
    save_weights(copy, files["copy"])
    save_weights(honest, files["honest"])
    reference.save(folder / "victim.uapref")
    copy.eval().requires_grad_(False)
    ref = folder / "victim.uapref"
    return World(
        folder, reference, ref, victim, honest, copy, files, owner.twins, owner.homologous, owner.unseen
    )
