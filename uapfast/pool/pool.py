"""A surrogate pool in memory: the owner's twins, piracy surrogates and homologous models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uapfast.errors import PoolError
from uapfast.models.model import Model, as_model

RELATIONS = ("victim", "twin", "piracy", "homologous", "ancestor")


@dataclass(frozen=True)
class PoolModel:
    """One model of the pool.

    Attributes:
        name: unique in the pool.
        relation: ``victim``, ``twin``, ``piracy``, ``homologous``, or ``ancestor``: what the victim was
            fine-tuned from, which the reference must not convict.
        candidate: for a piracy model, the name of the victim or twin that it derives from.
        kind: how a piracy model was made; the same kind of every candidate is compared alike.
        model: what answers.
        parent: name of the model that the owner knows it to be made from, whatever its relation; None if it
            was trained by itself.
    """

    name: str
    relation: str
    candidate: str | None
    kind: str
    model: Model
    parent: str | None = None


@dataclass(frozen=True)
class Pool:
    """Models with distinct names.

    Raises:
        PoolError: duplicate names, an unknown relation, two victims, a piracy model without its candidate.
    """

    models: tuple[PoolModel, ...]

    def __post_init__(self) -> None:
        """Check names and relations."""
        seen: set[str] = set()
        for m in self.models:
            if m.name in seen:
                raise PoolError("Pool", "names", "different", f"{m.name!r} twice")
            seen.add(m.name)
            if m.relation not in RELATIONS:
                raise PoolError("Pool", "relation", "one of " + ", ".join(RELATIONS), repr(m.relation))
        if len([m for m in self.models if m.relation == "victim"]) > 1:
            raise PoolError("Pool", "victim", "at most one model", "several")
        names = {m.name for m in self.models if m.relation in ("victim", "twin")}
        names |= {"victim"} if self.victim is None else set()  # a pool need not hold the victim itself
        for m in self.models:
            if m.relation == "piracy" and m.candidate not in names:
                raise PoolError("Pool", f"candidate of {m.name}", "the victim or a twin", repr(m.candidate))

    @property
    def victim(self) -> PoolModel | None:
        """The victim's own row, if the pool has one."""
        return next((m for m in self.models if m.relation == "victim"), None)

    @property
    def twins(self) -> tuple[PoolModel, ...]:
        """Models of the victim's recipe with other seeds."""
        return tuple(m for m in self.models if m.relation == "twin")

    @property
    def homologous(self) -> tuple[PoolModel, ...]:
        """Honest models of the same task."""
        return tuple(m for m in self.models if m.relation == "homologous")

    def piracy(self, candidate: str) -> tuple[PoolModel, ...]:
        """Piracy models that derive from ``candidate``."""
        return tuple(m for m in self.models if m.relation == "piracy" and m.candidate == candidate)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of piracy models, sorted."""
        return tuple(sorted({m.kind for m in self.models if m.relation == "piracy"}))

    @classmethod
    def from_models(
        cls,
        *,
        twins: Sequence[Any] = (),
        piracy: Mapping[str, Sequence[Any]] | None = None,
        homologous: Sequence[Any] = (),
        device: str = "cpu",
    ) -> Pool:
        """A pool of modules or callables; twins are named twin-00, twin-01, ...

        Args:
            twins: models of the victim's recipe with other seeds.
            piracy: candidate's name (``victim``, ``twin-00``, ...) to models that derive from it; the
                i-th models of all candidates are taken as one kind.
            homologous: honest models of the same task.
            device: where modules are run.
        """
        rows = [
            PoolModel(f"twin-{i:02d}", "twin", None, "twin", as_model(m, device=device))
            for i, m in enumerate(twins)
        ]
        for name, models in (piracy or {}).items():
            rows += [
                PoolModel(
                    f"piracy-{name}-{i:02d}", "piracy", name, f"kind-{i:02d}", as_model(m, device=device)
                )
                for i, m in enumerate(models)
            ]
        rows += [
            PoolModel(f"homologous-{i:02d}", "homologous", None, "homologous", as_model(m, device=device))
            for i, m in enumerate(homologous)
        ]
        return cls(tuple(rows))


def check_victim(pool: Pool, victim: Model) -> None:
    """Refuse a pool that was made for another victim.

    Args:
        pool: its victim's row, where it has one, is compared by the SHA-256 of its tensors.
        victim: the model that a reference is made of.

    Raises:
        PoolError: the pool's victim has other weights.
    """
    own = pool.victim.model.sha256 if pool.victim is not None else None
    if own is not None and victim.sha256 is not None and own != victim.sha256:
        rule = "made for the victim that was given (the same weights)"
        raise PoolError(
            "generate", "pool", rule, f"one for a victim with SHA-256 {own[:12]}, not {victim.sha256[:12]}"
        )


def load_pool(manifest: str | os.PathLike[str], device: str = "cpu") -> Pool:
    """Load every model of a manifest (see :mod:`uapfast.pool.manifest`)."""
    from uapfast.pool.manifest import read_pool

    return read_pool(manifest, device)
