"""What is written when every model of a pool is made: its record, its manifest, and what is doubtful."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uapfast._version import versions
from uapfast.errors import PoolWarning
from uapfast.files import write_text
from uapfast.pool.manifest import ManifestEntry, write_keys, write_manifest
from uapfast.pool.origin import ALIKE
from uapfast.pool.plan import PoolConfig, TrainingJob, file_code_sha256, relative_arch
from uapfast.pool.pool import CHECKPOINT
from uapfast.pool.train import Context
from uapfast.pool.twins import STEMS, pool_record_path

FAR_BELOW = 0.1  # of the victim's accuracy on the owner's images


@dataclass(frozen=True)
class Ancestor:
    """What the victim was fine-tuned from: its file, and what is recorded of it."""

    path: Path
    sha256: str | None


def finish(
    plan: Sequence[TrainingJob],
    context: Context,
    config: PoolConfig,
    found: tuple[float, Ancestor | None, str | None],
    keys: NDArray[np.uint64],
) -> Path:
    """Write the record and, last, the manifest; warn of twins that are not what the victim is.

    Args:
        plan: every job, each of them done.
        context: what they were done with.
        config: how many of each relation.
        found: the victim's accuracy, its ancestor, and what was said of its beginning already.
        keys: of the owner's images, so that ``generate`` knows them again.

    Returns:
        The manifest's path.
    """
    folder, (accuracy, former, unlike) = context.out, found
    models = [json.loads(context.files(job)[1].read_text(encoding="utf-8")) for job in plan]
    said = doubts(models, accuracy, context)
    settings: dict[str, Any] = {
        "config": asdict(config), "base": context.base, "versions": versions(),
        "twins": context.twins.to_dict(),
        "victim": {"sha256": context.base["victim"], "owner_accuracy": round(accuracy, 4)},
        "ancestor": None if former is None else {"sha256": former.sha256},
        "warnings": [w for w in (unlike, *said) if w],
        "code": {
            relative_arch(spec, folder.resolve()): file_code_sha256(spec) for spec in _archs(plan, context)
        },
        "models": models,
    }  # fmt: skip
    manifest = folder / f"{STEMS[context.twins.kind]}.csv"
    write_keys(folder, keys)
    write_text(pool_record_path(manifest), json.dumps(settings, indent=1) + "\n")
    write_manifest(manifest, _entries(plan, context, former))
    for sentence in said:
        warnings.warn(sentence, PoolWarning, stacklevel=4)
    return manifest


def _archs(plan: Sequence[TrainingJob], context: Context) -> list[str]:
    return sorted({context.arch, *(job.arch for job in plan)})


def _entries(plan: Sequence[TrainingJob], context: Context, former: Ancestor | None) -> list[ManifestEntry]:
    """The manifest's lines."""
    folder = context.out.resolve()
    own, both = relative_arch(context.arch, folder), (context.mean, context.std)
    parent = None if context.base["init"]["start"] == "random" else "ancestor"
    twin = CHECKPOINT if context.twins.kind == "branch" else parent
    victim = os.path.relpath(context.weights.resolve(), folder)
    entries = [ManifestEntry(victim, own, "victim", "victim", None, *both, twin)]
    if former is not None:
        path = os.path.relpath(former.path.resolve(), folder)
        entries.append(ManifestEntry(path, own, "ancestor", "ancestor", None, *both))
    for job in plan:
        entries.append(
            ManifestEntry(
                f"models/{job.name}.safetensors", relative_arch(job.arch, folder), job.name, job.relation,
                job.candidate, *context.taking(job),
                _parent(job, twin, parent),
            )
        )  # fmt: skip
    return entries


def _parent(job: TrainingJob, twin: str | None, parent: str | None) -> str | None:
    """What the manifest says that a model was made from; of a piracy model its candidate says it."""
    if job.relation == "twin":
        return twin
    return parent if job.start != "random" and job.candidate is None else None


def doubts(models: Sequence[Mapping[str, Any]], accuracy: float, context: Context) -> list[str]:
    """Twins that know the owner's images far less than the victim does, or began elsewhere, are no twins."""
    twins, said = [m for m in models if m["relation"] == "twin"], []
    least = accuracy - FAR_BELOW
    low = [f"{m['name']} {m['owner_accuracy']:.0%}" for m in twins if m["owner_accuracy"] < least]
    if low:
        twice = context.recipe is not None and context.mean is not None
        more = " The model that a recipe is handed applies mean and std itself: does the recipe, too?"
        said.append(
            f"pool: twins should be as good as the victim, which is right for {accuracy:.0%} of the owner's "
            f"images, got {_first(low)}: is the recipe the victim's own (epochs, init, mean and std)?"
            f"{more if twice else ''} The candidate side of every verdict rests on it"
        )
    strange = [f"{m['name']} {m['likeness']:.2f}" for m in twins if m.get("likeness", 1.0) < ALIKE]
    if strange:
        said.append(
            "pool: twins should begin where the recipe was told to (init, or the checkpoint); by cosine "
            f"the weights of these show nothing of it: {_first(strange)}. Does the recipe start from scratch?"
        )
    return said


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
