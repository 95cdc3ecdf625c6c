"""Degraded innocents: homologous models rounded, pruned, made noisy, beside twins that lie close together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from uapfast.models.model import as_model
from uapfast.pool.attacks import WEIGHTED, add_noise, prune, quantise
from uapfast.pool.pool import Pool, PoolModel

DEGRADED = "degraded"  # the kind of such homologous models begins so
EVERY = 4  # homologous models of which one is degraded
FORMS: dict[str, Callable[[nn.Module, int], nn.Module]] = {
    "4-bit": lambda module, seed: quantise(module, 4),
    "pruned-70": lambda module, seed: prune(module, 0.7),
    "noise-20": lambda module, seed: add_noise(module, 0.2, seed),
}


def with_degraded(pool: Pool, seed: int, device: str = "cpu") -> Pool:
    """The pool with degraded variants of every fourth homologous model, where its twins are branches.

    Of every four the first, the second, ... in turn, so that no architecture is left out. A variant names its
    parent and takes its place among the innocents (docs/branches.md). A pool that has some gets no more.

    Args:
        pool: any; one of full twins is returned as it is.
        seed: of the noise.
        device: where the variants are run.
    """
    known = any(m.kind.startswith(DEGRADED) for m in pool.homologous)
    if pool.twins_told["kind"] != "branch" or known:
        return pool
    honest = {m.name for m in pool.homologous}
    whole = [m for m in pool.homologous if m.parent not in honest and _can_be(m.model.module)]
    chosen = [m for i, m in enumerate(whole) if i % EVERY == i // EVERY % EVERY]
    names = list(FORMS)
    made = [_degraded(m, names[i % len(names)], seed + i, device) for i, m in enumerate(chosen)]
    return replace(pool, models=(*pool.models, *made))


def _can_be(module: nn.Module | None) -> bool:
    return module is not None and any(isinstance(m, WEIGHTED) for m in module.modules())


def _degraded(model: PoolModel, form: str, seed: int, device: str) -> PoolModel:
    assert model.model.module is not None
    module = FORMS[form](model.model.module, seed)
    name, kind = f"{model.name}-{form}", f"{DEGRADED}-{form}"
    return PoolModel(name, "homologous", None, kind, as_model(module, device=device, name=name), model.name)
