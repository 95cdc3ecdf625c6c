"""One UAP per candidate, made alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from uapfast.config import GenerateConfig
from uapfast.method.uap import complain, universal_perturbation
from uapfast.reference import Record
from uapfast.types import UniversalPerturbation
from uapfast.verbs.entries import RecordedModel, moved_by

SPARED = 4  # other candidates, and innocents, that a contrastive UAP spares


def make_uaps(
    models: list[RecordedModel], images: Tensor, config: GenerateConfig, step: Callable[[str], None]
) -> tuple[Tensor, list[dict[str, Any]]]:
    """The UAPs of a reference, ``[P,C,H,W]``, and what is to be reported of each.

    On a GPU those of the margin method are made in one call, so that candidates can share steps.
    """
    candidates = moved_by(models, config)
    if not candidates:
        return torch.empty(0, *images.shape[1:]), []
    if config.uap == "margin" and all(model.device.type == "cuda" for _, model in candidates):
        return _at_once(candidates, images, config, step)
    found, reports = [], []
    for record, model in candidates:
        step(f"UAP of {record.name}")
        extra: dict[str, Any] = {}
        if config.uap == "contrastive":
            extra = _contrast(models, record)
        u = universal_perturbation(
            model,
            images,
            eps=config.eps,
            norm=config.norm,
            method=config.uap,
            fooling=config.fooling,
            min_fooling=config.min_fooling if record.relation == "victim" else 0.0,
            strict=config.strict,
            wire_safe=config.wire_safe,
            seed=config.seed,
            **extra,
        )
        found.append(u.v.detach().to("cpu", torch.float32))
        reports.append(_uap_row(record.name, u))
    return torch.stack(found), reports


def _at_once(
    candidates: list[RecordedModel], images: Tensor, config: GenerateConfig, step: Callable[[str], None]
) -> tuple[Tensor, list[dict[str, Any]]]:
    u = universal_perturbation(
        models=[model for _, model in candidates],
        images=images,
        eps=config.eps,
        norm=config.norm,
        method=config.uap,
        fooling=config.fooling,
        wire_safe=config.wire_safe,
        seed=config.seed,
    )
    reports = []
    for place, (record, _) in enumerate(candidates):
        step(f"UAP of {record.name}")
        reports.append(_uap_row(record.name, _one_of(u, place)))
        if record.relation == "victim":
            complain(reports[-1]["fooling_rate"], config.min_fooling, config.strict)
    return u.v.detach().to("cpu", torch.float32), reports


def _one_of(u: UniversalPerturbation, place: int) -> UniversalPerturbation:
    """One model's part of a batch; of the samples asked an equal share."""
    own = {
        name: getattr(u, name)[place] for name in ("v", "fooling_rate", "random_sign_rate", "size", "passes")
    }
    shares = {name: getattr(u, name) // len(u.v) for name in ("forwards", "backwards")}
    return replace(u, **own, **shares)


def _contrast(models: list[RecordedModel], candidate: Record) -> dict[str, Any]:
    """What a contrastive UAP of ``candidate`` moves besides it (its surrogates) and what it spares.

    Spared are the next other candidates in turn and the first innocents, ``SPARED`` of each: the same
    for every candidate, and a bounded price.
    """
    move = [m.module for r, m in models if r.candidate == candidate.name]
    ring = [(r.name, m.module) for r, m in models if r.relation in ("victim", "twin")]
    place = [name for name, _ in ring].index(candidate.name)
    others = [m for _, m in (ring[place + 1 :] + ring[:place])[:SPARED]]
    innocents = [m.module for r, m in models if r.relation == "homologous"][:SPARED]
    return {
        "move": [m for m in move if m is not None],
        "spare": [m for m in others + innocents if m is not None],
    }


def _uap_row(name: str, u: UniversalPerturbation) -> dict[str, Any]:
    return {
        "model": name,
        "method": u.method,
        "norm": u.norm,
        "eps": u.eps,
        "size": u.size,
        "fooling_rate": u.fooling_rate,
        "random_sign_rate": u.random_sign_rate,
        "passes": u.passes,
        "forwards": u.forwards,
        "backwards": u.backwards,
    }
