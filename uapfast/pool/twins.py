"""What the twins of a pool are: reruns of the whole training or of its last part, or models of a draw."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from uapfast.config import check
from uapfast.errors import InputError, ModelError, PoolError
from uapfast.pool.draw import Draw, read_draw
from uapfast.pool.recipe import load_recipe

TwinKind = Literal["full", "branch", "designated"]
Selected = Literal["no", "same", "unlike"]
PREFIXES: dict[TwinKind, str] = {"full": "twin", "branch": "branch", "designated": "variant"}
STEMS: dict[TwinKind, str] = {"full": "manifest", "branch": "branches", "designated": "manifest"}
RECORDS = {"branches": "branches.json"}  # beside a manifest of that stem; pool.json beside any other


@dataclass(frozen=True)
class TwinSource:
    """Where a pool's twins come from.

    Attributes:
        kind: ``full``: reruns of the recipe from its beginning. ``branch``: from a checkpoint of the victim's
            training on. ``designated``: the models that the victim was drawn from.
        path: the checkpoint, or the record of the draw.
        sha256: of the checkpoint's bytes, or of the record.
        at: share of the victim's training that lies before the checkpoint, in (0, 1).
        draw: the draw, for ``designated``.
        selected: whether the victim was chosen among several outcomes (best of several seeds or epochs,
            early stopping, an average): ``no``; ``same``: it was, and the recipe chooses every twin in the
            same way; ``unlike``: it was, the twins are not. None where nobody said.
    """

    kind: TwinKind = "full"
    path: Path | None = None
    sha256: str | None = None
    at: float | None = None
    draw: Draw | None = None
    selected: Selected | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Weights of twins that are there already, in the order of their numbers."""
        return self.draw.others if self.draw is not None else ()

    def to_dict(self) -> dict[str, Any]:
        """What ``pool.json``, the reference and every verdict keep of it; JSON types."""
        told: dict[str, Any] = {"kind": self.kind, "selected": self.selected}
        if self.kind == "branch":
            told |= {"checkpoint_sha256": self.sha256, "at": self.at}
        if self.draw is not None:
            told |= {
                "draw_sha256": self.sha256, "drawn_sha256": self.draw.drawn_sha256,
                "models": len(self.draw.sha256s), "time": self.draw.time,
            }  # fmt: skip
        return told


def find_twins(
    branch: str | os.PathLike[str] | None,
    branch_at: float | None,
    designated: str | os.PathLike[str] | None,
    recipe: str | None,
    victim_sha256: str | None,
    selected: Selected | None = None,
) -> TwinSource:
    """Check what the owner says of the twins.

    Args:
        branch: checkpoint of the victim's training, in whatever form the recipe reads.
        branch_at: share of the victim's training before it, in (0, 1).
        designated: record that ``uapfast designate`` wrote.
        recipe: the owner's, ``FILE.py:FUNCTION``.
        victim_sha256: of the victim's tensors.
        selected: see :class:`TwinSource`.

    Raises:
        InputError: settings that contradict each other.
        ModelError: a recipe that does not resume.
        PoolError: no such checkpoint, or a victim that is not the one drawn.
    """
    _check_selected(selected, recipe, designated is not None)
    if branch is not None and designated is not None:
        raise InputError("pool", "branch", "left out with designated (the twins are there)", str(branch))
    if branch is None:
        check(branch_at is None, "pool", "branch_at", "left out without branch", branch_at)
        if designated is not None:
            return _designated(Path(designated), victim_sha256)
        return TwinSource(selected=selected)
    good = isinstance(branch_at, float) and 0.0 < branch_at < 1.0
    rule = "the share of the victim's training that lies before the checkpoint, above 0 and below 1"
    check(good, "pool", "branch_at", rule, branch_at)
    if recipe is None:
        raise InputError("pool", "recipe", "given with branch (the owner's own, which resumes)", "none")
    if not resumes(recipe):
        wanted = "one that resumes, (model, images, labels, seed, checkpoint=None) -> model, with branch"
        raise ModelError("pool", "recipe", wanted, f"{recipe}, without the argument checkpoint")
    path = Path(branch)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as exc:
        raise PoolError("pool", "branch", "a readable file", f"{path} ({exc.strerror or exc})") from exc
    return TwinSource("branch", path.resolve(), digest, branch_at, selected=selected)


def _check_selected(selected: str | None, recipe: str | None, drawn: bool) -> None:
    known = (None, "no", "same", "unlike")
    check(selected in known, "pool", "selected", "one of no, same, unlike", repr(selected))
    rule = "left out with designated: the victim was drawn, and nothing else chose it"
    check(not (drawn and selected), "pool", "selected", rule, repr(selected))
    rule = "no or unlike without a recipe of your own: the default one chooses nothing"
    check(selected != "same" or recipe is not None, "pool", "selected", rule, repr(selected))


def resumes(recipe: str) -> bool:
    """Whether a recipe takes a ``checkpoint`` to go on from."""
    try:
        parameters = inspect.signature(load_recipe(recipe)).parameters
    except (TypeError, ValueError):  # a callable that does not say what it takes
        return False
    kinds = {p.kind for p in parameters.values()}
    return "checkpoint" in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def _designated(path: Path, victim_sha256: str | None) -> TwinSource:
    draw = read_draw(path)
    if victim_sha256 != draw.drawn_sha256:
        rule = f"the model that was drawn, {draw.drawn} (SHA-256 {draw.drawn_sha256}, {path})"
        raise PoolError("pool", "victim", rule, f"SHA-256 {victim_sha256}")
    return TwinSource("designated", path, draw.sha256, draw=draw)


def pool_record_path(manifest: Path) -> Path:
    """The file beside a manifest that says how its models were made."""
    return manifest.with_name(RECORDS.get(manifest.stem, "pool.json"))


def check_distinct(hashes: Sequence[tuple[str, str]], victim_sha256: str | None) -> None:
    """Refuse twins with the same weights, or with the victim's.

    Args:
        hashes: name and SHA-256 of every twin made so far.
        victim_sha256: of the victim.

    Raises:
        PoolError: the recipe does not go by its seed.
    """
    seen = {victim_sha256: "the victim"}
    for name, digest in hashes:
        if digest in seen:
            rule = (
                "other models than the victim and each other: the recipe has to draw order and augmentation "
                "from its seed (one that restores the checkpoint's random state makes the victim again)"
            )
            raise PoolError("pool", "twins", rule, f"{name} with the weights of {seen[digest]}")
        seen[digest] = name


def selection_doubt(told: Mapping[str, Any]) -> str | None:
    """What a verdict says of how the victim was chosen among its training's outcomes; None: all is well."""
    if told.get("kind") == "designated" or told.get("selected") in ("no", "same"):
        return None
    if told.get("selected") == "unlike":
        return (
            "the victim was chosen among several outcomes, its twins were not: p_candidate and p_joint hold "
            "only as far as that choice says nothing of the answers"
        )
    return (
        "nobody said whether the victim was chosen among several outcomes (best of several seeds or epochs, "
        "early stopping, an average): p_candidate and p_joint take it that its twins were chosen in the same "
        "way (uapfast pool --selected)"
    )


def question(told: Mapping[str, Any]) -> str:
    """Which question a reference with such twins asks, for the reasons of a verdict."""
    if told.get("kind") == "branch":
        at, digest = told.get("at"), told.get("checkpoint_sha256")
        last = "last part" if at is None else f"last {1 - at:.0%}"
        where = "a checkpoint" if digest is None else f"the checkpoint with SHA-256 {digest}"
        return (
            f"asked: does it come from the {last} of the victim's training? The twins are reruns of it from "
            f"{where}; a model that was continued from there by somebody else counts as independent, and the "
            "candidate side holds if the checkpoint was not chosen by its outcome"
        )
    if told.get("kind") == "designated":
        return (
            f"asked: does it come from this training? The victim was drawn at random from {told['models']} "
            f"models at {told['time']}, the others are its twins (record of the draw: SHA-256 "
            f"{told['draw_sha256']})"
        )
    return "asked: does it come from this training? The twins are reruns of it from its beginning"
