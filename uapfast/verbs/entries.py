"""The pool's models as ``generate`` goes through them: order, checks, records."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from uapfast.config import GenerateConfig
from uapfast.errors import PoolError
from uapfast.method.statistic import STATISTICS
from uapfast.models.model import Model
from uapfast.models.state import UNSTEADY
from uapfast.pool.pool import MIN_INNOCENTS, Pool, few_innocents, few_twins, more_innocents
from uapfast.reference import Record
from uapfast.reference_file import make_roster
from uapfast.verbs.findings import Findings

RecordedModel = tuple[Record, Model]
SHOWN = 3  # names in a sentence


def ordered(victim: Model, pool: Pool) -> list[RecordedModel]:
    """Victim, twins, homologous, surrogates, then ancestors, by name within each."""
    name = pool.victim.name if pool.victim is not None else "victim"
    out: list[RecordedModel] = [(Record(name, "victim", None, "victim", victim.sha256), victim)]
    for relation in ("twin", "homologous", "piracy", "ancestor"):
        found = sorted((m for m in pool.models if m.relation == relation), key=lambda m: m.name)
        out += [
            (Record(m.name, relation, m.candidate, m.kind, m.model.sha256, parent=m.parent), m.model)
            for m in found
        ]
    return out


def _count(models: list[RecordedModel], relation: str) -> int:
    return sum(record.relation == relation for record, _ in models)


def check_pool(models: list[RecordedModel], config: GenerateConfig, findings: Findings) -> None:
    """Refuse a pool that cannot carry a verdict; warn of one that carries little."""
    twins, innocents = _count(models, "twin"), _count(models, "homologous")
    seen: dict[str, str] = {}
    for record, _ in models:
        if record.sha256 is not None and record.sha256 in seen:
            first = seen[record.sha256]
            raise PoolError(
                "generate", "pool", "a pool of different models", f"{record.name} with the weights of {first}"
            )
        seen[str(record.sha256)] = record.name
    _check_parents(models)
    _check_shapes(models)
    statistic = STATISTICS[config.encoder]
    least = MIN_INNOCENTS * statistic.shares
    if innocents < least:
        rule = (
            f"a pool of at least {least} homologous models for encoder={config.encoder} (n of them bound a "
            "false accusation by 1/(n+1) without further assumptions); what helps: "
            f"{more_innocents(least - innocents)}"
        )
        raise PoolError("generate", "pool", rule, f"{innocents} homologous, {twins} twins")
    if _count(models, "piracy") < statistic.least_piracy:
        raise PoolError("generate", "pool", "a pool with a piracy model for encoder=paper", "none")
    for sentence in (few_twins(twins) if statistic.by_twins else None, few_innocents(innocents)):
        if sentence is not None:
            findings.warn(sentence)


def _check_parents(models: list[RecordedModel]) -> None:
    relations = {record.name: record.relation for record, _ in models}
    for record, _ in models:
        if record.relation == "homologous" and relations.get(str(record.parent)) in ("victim", "twin"):
            rule = f"of relation piracy, with candidate {record.parent}, where that is its parent"
            raise PoolError("generate", f"pool model {record.name}", rule, "homologous")


def _check_shapes(models: list[RecordedModel]) -> None:
    """Twins of another network than the victim's are of another recipe."""
    (_, victim), *rest = models
    own = _shapes(victim)
    for record, model in rest:
        if record.relation == "twin" and model.module is not None and _shapes(model) != own:
            rule = "a model of the victim's architecture, as every twin is (the recipe is the victim's own)"
            raise PoolError("generate", f"twin {record.name}", rule, "tensors of other shapes")


def _shapes(model: Model) -> list[tuple[int, ...]]:
    """Shapes of all parameters, sorted: names may differ with how a network was wrapped."""
    return sorted(tuple(p.shape) for p in model.module.parameters()) if model.module is not None else []


def check_steady(models: list[RecordedModel], images: Tensor, findings: Findings) -> None:
    """Warn of models that draw at random as they answer; those that mind their batch are asked accordingly.

    Args:
        models: of the pool, the victim first.
        images: a few, ``[n,C,H,W]``.
        findings: gets the sentence.
    """
    names = []
    for record, model in models:
        model.try_out(images)
        if UNSTEADY in model.notes:
            names.append(record.name)
    if names:
        shown = ", ".join(names[:SHOWN]) + (", ..." if names[SHOWN:] else "")
        findings.warn(
            f"these models give other answers to the same images each time: {shown}. Switch off what draws "
            "at random (noise, dropout that eval() does not know of): what is measured on them does not "
            "repeat, and copies are harder to find"
        )


def candidates_of(models: list[RecordedModel], config: GenerateConfig) -> list[RecordedModel]:
    """The victim, and its twins where every candidate is to count alike."""
    own = ("victim", "twin") if STATISTICS[config.encoder].by_twins else ("victim",)
    return [entry for entry in models if entry[0].relation in own]


def own_rows(records: tuple[Record, ...]) -> list[int]:
    """Rows of the candidates, and of surrogates of the kinds that all of them have: who may choose."""
    roster = make_roster(records)
    return [int(i) for i in (*roster.candidates, *roster.surrogates.ravel())]


def inexact(models: list[RecordedModel], config: GenerateConfig) -> str | None:
    """Why the rank among the innocents is not exact, if it is not: they had a say in what is asked."""
    if config.uap == "contrastive" and moved_by(models, config):
        return "contrastive UAPs spare the first innocents"
    return None


def moved_by(models: list[RecordedModel], config: GenerateConfig) -> list[RecordedModel]:
    """Models whose UAP is made: every candidate; where v is never asked none, or the victim to be shown."""
    asked = config.ray is None or any(config.ray)
    return candidates_of(models, config) if asked else models[: int(config.show_uap)]


def records_of(models: list[RecordedModel], config: GenerateConfig) -> tuple[Record, ...]:
    """The pool's records; for the paper's encoder with the half of the homologous models that trains it."""
    records = [record for record, _ in models]
    if STATISTICS[config.encoder].shares == 1:
        return tuple(records)
    homologous = [i for i, r in enumerate(records) if r.relation == "homologous"]
    order = np.random.default_rng(config.seed).permutation(homologous)
    train = {int(i) for i in order[: len(order) // 2]}
    train |= {i for i, r in enumerate(records) if r.relation in ("victim", "twin", "piracy")}
    return tuple(Record(**{**vars(r), "trains_encoder": i in train}) for i, r in enumerate(records))
