"""A surrogate pool in memory: the owner's twins, piracy surrogates and homologous models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from uapfast.errors import PoolError
from uapfast.models.model import Model, as_model
from uapfast.models.preprocessing import Preprocessing

CHECKPOINT = "checkpoint"  # parent of the victim and of branch twins; needs no line of its own
RELATIONS = ("victim", "twin", "piracy", "homologous", "ancestor")
MIN_INNOCENTS = 5  # with fewer homologous models ``generate`` makes no reference
GOOD_TWINS, GOOD_INNOCENTS = 8, 12
LEAST_RELATED = 8  # homologous models from the victim's public beginning; docs/fine_tuned.md
PUBLIC = "the victim's training started at public weights"


def few_twins(count: int) -> str | None:
    """What too few twins cost; None where there are enough."""
    if count >= GOOD_TWINS:
        return None
    if count < 2:
        return (
            f"pool should hold at least 2 twins (better {GOOD_TWINS}), got {count}: without them the suspect "
            "side decides alone, and a victim that resembles every model cannot be recognised"
        )
    return (
        f"pool should hold at least {GOOD_TWINS} twins, got {count}: the exact floor of the candidate "
        f"side is 1/{count + 1}, and the spread of a suspect's scores is known mostly from the innocents"
    )


def more_innocents(missing: int) -> str:
    """How to come by homologous models."""
    return (
        f"{missing} more: public models of the task (a line each in the manifest, relation homologous), or "
        "cheap trainings, even on a tenth of the images (uapfast pool --homologous N keeps existing ones)"
    )


def few_innocents(count: int) -> str | None:
    """What too few homologous models cost; None where there are enough."""
    if count >= GOOD_INNOCENTS:
        return None
    refused = f" (generate refuses fewer than {MIN_INNOCENTS})" if count < MIN_INNOCENTS else ""
    return (
        f"pool should hold at least {GOOD_INNOCENTS} homologous models, got {count}: the exact floor "
        f"of the suspect side is 1/{count + 1}{refused}; what helps: {more_innocents(GOOD_INNOCENTS - count)}"
    )


def few_related(count: int, homologous: int) -> str | None:
    """What too few homologous models from the victim's public beginning cost; None where there are enough.

    Args:
        count: of homologous models that began at the victim's public weights.
        homologous: all of them.
    """
    if count >= LEAST_RELATED:
        return None
    return (
        f"{PUBLIC}, and {count} of the {homologous} homologous models that count did, not {LEAST_RELATED}: "
        "honest fine-tunings of the same weights would be accused too often (docs/fine_tuned.md). What "
        "helps: "
        f"{LEAST_RELATED - count} more trainings from there, no longer than the victim's, on parts of your "
        "images, on others or with other settings: uapfast pool with the victim's --init and --homologous "
        f"{2 * LEAST_RELATED} (every second one is made so, and existing ones are kept), or models that you "
        "have from there, with parent ancestor in the manifest"
    )


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
        parent: name of the model that the owner knows it to be made from, whatever its relation (``victim``,
            ``ancestor`` and ``checkpoint`` need no model of their own); None if it was trained by itself.
            Twins whose parent is ``checkpoint`` are branches: reruns of the victim's training from there.
    """

    name: str
    relation: str
    candidate: str | None
    kind: str
    model: Model
    parent: str | None = None


class Relative(Protocol):
    """What :func:`family_fault` looks at: a :class:`PoolModel`, or a line of a manifest."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def relation(self) -> str | None: ...  # noqa: D102
    @property
    def parent(self) -> str | None: ...  # noqa: D102


def family_fault(models: Sequence[Relative]) -> tuple[str, str, str] | None:
    """What is wrong with ancestors and declared parents: argument, rule, value; None if nothing is."""
    ancestors = [m.name for m in models if m.relation == "ancestor"]
    if len(ancestors) > 1:
        return "ancestor", "at most one model", ", ".join(ancestors)
    parents, relations = {m.name: m.parent for m in models}, {m.name: m.relation for m in models}
    roots = {r: next((m.name for m in models if m.relation == r), r) for r in ("victim", "ancestor")}
    for m in models:
        line, at = [m.name], m.parent
        while at is not None:
            if at not in parents and at not in (*roots.values(), CHECKPOINT):
                rule = "the name of another model of the pool (or victim, ancestor, checkpoint)"
                return f"parent of {line[-1]}", rule, repr(at)
            if at in line:
                return (
                    f"parent of {m.name}",
                    "free of cycles",
                    " <- ".join([*line, at]),
                )
            line.append(at)
            at = parents.get(at)
        if m.relation in ("homologous", "ancestor") and roots["victim"] in line:
            rule = (
                f"one that was made without the victim for a {m.relation} model (a copy's relation is piracy)"
            )
            return f"parent of {m.name}", rule, " <- ".join(line)
        made_of = [a for a in line[1:] if a == roots["victim"] or relations.get(a) == "twin"]
        if m.relation == "twin" and made_of:
            rule = (
                "None, ancestor or checkpoint for a twin: victim and twins have to be made alike, none from "
                "another (reruns from a state before the victim's end have the parent checkpoint)"
            )
            return f"parent of {m.name}", rule, " <- ".join(line)
    return _mixture_fault(models)


def _mixture_fault(models: Sequence[Relative]) -> tuple[str, str, str] | None:
    """Branches and full twins are not exchangeable with each other."""
    twins = [m for m in models if m.relation == "twin"]
    branches = [m.name for m in twins if m.parent == CHECKPOINT]
    others = [m.name for m in twins if m.parent != CHECKPOINT]
    if not branches or not others:
        return None
    rule = "of one kind, all reruns from a checkpoint or none (two manifests make two references)"
    return "twins", rule, f"{branches[0]} from a checkpoint, and {others[0]}"


@dataclass(frozen=True)
class Pool:
    """The models with which suspects are compared; their names are distinct.

    Attributes:
        models: all of them.
        init: what ``pool.json`` says about where the victim's training started
            (:class:`uapfast.pool.origin.Origin` as JSON types); None if nothing was stated.
        warnings: warnings from when the pool was made; every verdict repeats them.
        made: what ``pool.json`` says about the twins (:class:`uapfast.pool.twins.TwinSource` as JSON types).
        trained: names of homologous models that uapfast trained itself, without any candidate.
        manifest_sha256: SHA-256 of the manifest's bytes; None for a pool that was made in memory.
        seen: keys of the images of which the pool was made (:func:`uapfast.data.image_keys`), if known.

    Raises:
        PoolError: duplicate names, an unknown relation, two victims, a piracy model without its candidate,
            several ancestors, branches beside full twins, or an impossible parent.
    """

    models: tuple[PoolModel, ...]
    init: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    made: Mapping[str, Any] | None = None
    trained: frozenset[str] = frozenset()
    manifest_sha256: str | None = None
    seen: frozenset[int] = frozenset()

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
        fault = family_fault(self.models)
        if fault is not None:
            raise PoolError("Pool", *fault)

    @property
    def victim(self) -> PoolModel | None:
        """The victim's own row, if the pool has one."""
        return next((m for m in self.models if m.relation == "victim"), None)

    @property
    def twins(self) -> tuple[PoolModel, ...]:
        """Models of the victim's recipe with other seeds."""
        return tuple(m for m in self.models if m.relation == "twin")

    @property
    def twins_told(self) -> dict[str, Any]:
        """Which kind of twins these are, and what else is known of their making; JSON types."""
        branches = any(m.parent == CHECKPOINT for m in self.twins)
        return {"kind": "branch" if branches else "full", **(self.made or {})}

    @property
    def ancestor(self) -> PoolModel | None:
        """What the victim was fine-tuned from, if the pool has it."""
        return next((m for m in self.models if m.relation == "ancestor"), None)

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
        related: Sequence[Any] = (),
        ancestor: Any = None,
        init: str | None = None,
        branches: bool = False,
        device: str = "cpu",
    ) -> Pool:
        """Make a pool of modules or callables. Twins are named twin-00, twin-01, ...

        Args:
            twins: models of the victim's recipe with other seeds.
            piracy: maps a candidate's name (``victim``, ``twin-00``, ...) to the models that derive from it.
                The i-th models of all candidates count as one kind.
            homologous: honest models of the same task.
            related: more honest models, which started from the same public weights as the victim.
            ancestor: the model from which the victim was fine-tuned, if any.
            init: where victim and twins started: ``random``, ``weights`` (the same for all) or ``factory``.
            branches: True if the twins are reruns from a checkpoint of the victim's training.
            device: device of the modules.
        """
        parent, kind = (CHECKPOINT, "branch") if branches else (None, "twin")
        rows = [
            PoolModel(f"twin-{i:02d}", "twin", None, kind, as_model(m, device=device), parent)
            for i, m in enumerate(twins)
        ]
        for name, models in (piracy or {}).items():
            rows += [
                PoolModel(
                    f"piracy-{name}-{i:02d}", "piracy", name, f"kind-{i:02d}", as_model(m, device=device)
                )
                for i, m in enumerate(models)
            ]
        parents = [None] * len(homologous) + ["ancestor"] * len(related)
        rows += [
            PoolModel(f"homologous-{i:02d}", "homologous", None, "homologous", as_model(m, device=device), p)
            for i, (m, p) in enumerate(zip((*homologous, *related), parents, strict=True))
        ]
        if ancestor is not None:
            former = as_model(ancestor, device=device)
            rows.append(PoolModel("ancestor", "ancestor", None, "ancestor", former))
        if init not in (None, "random", "weights", "factory"):
            raise PoolError("Pool", "init", "random, weights or factory", repr(init))
        return cls(tuple(rows), None if init is None else {"start": init})


def check_victim(pool: Pool, victim: Model) -> None:
    """Hold the victim that a reference is made for against the one that the pool was made of, or was drawn.

    A pool without a victim of its own says nothing, and passes.

    Raises:
        PoolError: other weights (the message has both SHA-256), or other preprocessing.
    """
    drawn = (pool.made or {}).get("drawn_sha256")
    if drawn is not None and drawn != victim.sha256:
        rule = f"the model that was drawn from its twins, SHA-256 {drawn}"
        raise PoolError("generate", "victim", rule, f"SHA-256 {victim.sha256}")
    if pool.victim is None or victim.sha256 is None:
        return
    own = pool.victim.model
    if own.sha256 != victim.sha256:
        rule = f"the pool's own victim {pool.victim.name!r}, SHA-256 {own.sha256}"
        raise PoolError("generate", "victim", rule, f"SHA-256 {victim.sha256}")
    asked, wanted = victim.asked_with, own.asked_with
    if asked != wanted:
        rule = f"those of the pool's own victim, {_said(wanted)} (columns mean and std of the manifest)"
        raise PoolError("generate", "mean and std of the victim", rule, _said(asked))


def _said(preprocessing: dict[str, Any] | None) -> str:
    return "none" if preprocessing is None else str(Preprocessing.told(preprocessing))
