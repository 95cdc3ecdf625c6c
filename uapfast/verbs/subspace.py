"""``subspace``: the paper's key insight, measured on a victim and its pool."""

from __future__ import annotations

from typing import Any

import torch

from uapfast.config import Norm
from uapfast.method.subspace import SubspaceReport, uap_subspaces
from uapfast.method.uap.checks import white_box
from uapfast.models.model import as_model
from uapfast.pool.pool import Pool
from uapfast.types import Progress
from uapfast.verbs.entries import ordered
from uapfast.verbs.images import owners_images


def subspace(
    victim: Any,
    images: Any,
    *,
    pool: Pool,
    per_model: int = 10,
    rank: int = 4,
    eps: float = 0.1,
    norm: Norm = "linf",
    most_images: int = 512,
    seed: int = 0,
    progress: Progress | None = None,
) -> SubspaceReport:
    """Compare the UAP subspaces of a pool's models with the victim's.

    Piracy models are those of the victim; surrogates of twins are left out.

    Args:
        victim: ``nn.Module`` taking 0..1 images, or a Model.
        images: ``[N,C,H,W]``, uint8 or float in 0..1; ``most_images`` of them are used.
        pool: the models to compare; all white-box.
        per_model: UAPs of each model; at least twice ``rank``.
        rank: dimensions of the victim's subspace.
        eps: radius of the UAPs' ball, input units.
        norm: ``linf`` or ``l2``.
        most_images: see ``images``.
        seed: of everything random.
        progress: called as ``progress(done, total, what)`` after each model.

    Raises:
        DataError: unusable images.
        ModelError: a model that is not white-box.
        InputError: fewer UAPs than twice the rank.
    """
    given = owners_images("subspace", images)
    generator = torch.Generator().manual_seed(seed)
    x = given[torch.randperm(len(given), generator=generator)[:most_images]]
    models = ordered(as_model(victim, name="victim"), pool)
    own = (None, models[0][0].name)
    kept = [(r, m) for r, m in models if r.relation != "ancestor" and r.candidate in own]
    table = {r.name: (r.relation, white_box(m, r.name)) for r, m in kept}
    return uap_subspaces(
        table, x, per_model=per_model, rank=rank, eps=eps, norm=norm, seed=seed, progress=progress
    )
