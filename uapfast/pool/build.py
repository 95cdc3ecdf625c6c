"""``uapfast pool``: train a surrogate pool from the owner's data and recipe. Resumable."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from uapfast._version import versions
from uapfast.config import check
from uapfast.data import Dataset, Images
from uapfast.errors import (
    DataError,
    InputError,
    ModelError,
    PoolError,
    PoolWarning,
    StorageError,
    SuspectError,
)
from uapfast.files import write_text
from uapfast.models.checkpoint import load_model
from uapfast.models.model import Model
from uapfast.models.registry import resolve_arch
from uapfast.pool.manifest import Entry, write_manifest
from uapfast.pool.origin import doubt, find_origin, said_init
from uapfast.pool.plan import Job, PoolConfig, code_sha256, default_archs, make_plan, relative_arch
from uapfast.pool.pool import few_innocents, few_twins
from uapfast.pool.recipe import load_recipe
from uapfast.pool.train import MEASURED_ON, Context, make_model, one_thread, predict

try:
    import fcntl
except ImportError:  # not on Windows; two runs at once are then the caller's to avoid
    fcntl = None  # type: ignore[assignment]

__all__ = ["PoolConfig", "build_pool", "predict"]

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]
FAR_BELOW = 0.1  # of the victim's accuracy on the owner's images


def build_pool(
    arch: str,
    weights: str | os.PathLike[str],
    data: Dataset,
    out: str | os.PathLike[str],
    *,
    init: str | os.PathLike[str],
    ancestor: str | os.PathLike[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    recipe: str | None = None,
    twins: int = 8,
    surrogates: int = 2,
    homologous: int = 40,
    epochs: int = 5,
    seed: int = 0,
    other_archs: Sequence[str] = (),
    jobs: int = 1,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Path:
    """Train twins, homologous models, and surrogates of each candidate; write ``manifest.csv``.

    A run that was killed goes on where it stopped: a model counts as made once its weights and its
    record are both in place. Every model is trained on one thread, so that the pool does not depend
    on ``jobs``. A pool can be extended: with larger numbers, only what is missing is trained.

    Args:
        arch: SPEC of the victim, which takes images in 0..1 (or after ``mean`` and ``std``).
        weights: the victim's.
        data: the owner's images and labels.
        out: folder; made if missing.
        init: where the victim's training began: ``random``; a file of the public weights that it was
            fine-tuned from (a head of another size is drawn anew for every model); or ``factory``, where the
            factory of ``arch`` loads them. Twins, homologous models and surrogates of the victim's
            architecture begin there, too; at least every third homologous model is of it, and the owner's
            recipe trains no other architecture (docs/fine_tuned.md).
        ancestor: file of what the victim was fine-tuned from, as a whole classifier of ``arch``; becomes a
            pool model that the reference must not convict. By default the file of ``init``, if it is whole.
        mean: per channel; the victim takes (x - mean) / std, and so does every model of its architecture.
        std: per channel, > 0; with ``mean``.
        recipe: ``FILE.py:FUNCTION``, the owner's training ``(model, images, labels, seed) -> model``; it
            trains the twins and part of the homologous models. The default recipe otherwise.
        twins: models of the victim's recipe with other seeds, m.
        surrogates: piracy models of each candidate (the victim and every twin), the same kinds of each.
        homologous: honest models of other architectures, data and settings, n.
        epochs: of the default recipe.
        seed: base of every model's seed.
        other_archs: SPECs for surrogates and homologous models; shipped networks by default.
        jobs: models trained at a time, in processes of their own if more than one (a script that calls
            this then needs the usual ``if __name__ == "__main__"``).
        device: where the default recipe trains and models answer; the owner's recipe decides itself.
        progress: called as ``progress(done, total, what)``.

    Returns:
        The manifest's path. ``pool.json`` beside it records which recipe made what.

    Raises:
        InputError: a number out of range; no ``init``, or one that contradicts ``ancestor``.
        PoolError: ``out`` holds models of other settings or is in use, a training failed, or ``init`` does
            not fit the architecture.
        DataError: no images.
        ModelError: an architecture or recipe that cannot be used, or a victim that does not fit the data.
        StorageError: ``out`` cannot be written.
    """
    config = PoolConfig(twins, surrogates, homologous, epochs, seed, tuple(other_archs))
    _check(jobs, init, ancestor)
    for sentence in filter(None, (few_twins(twins), few_innocents(homologous))):
        warnings.warn(sentence, PoolWarning, stacklevel=2)  # now, not after hours of training
    victim = load_model(arch, weights, name="victim", mean=mean, std=std, device=device)
    classes, accuracy = _classes(victim, data)
    origin, taken = find_origin(init, arch)
    assert victim.module is not None
    unlike = doubt(origin, taken, arch, getattr(victim.module, "inner", victim.module).state_dict())
    if unlike is not None:  # now, not after hours of training
        warnings.warn(unlike, PoolWarning, stacklevel=2)
    if origin.whole and ancestor is None:
        ancestor = init
    former = None if ancestor is None else _ancestor(arch, Path(ancestor), victim)
    others = config.other_archs or default_archs(arch, data, classes)
    for spec in (arch, *others):
        resolve_arch(spec)
    base = {
        "victim": victim.sha256, "data": data.sha256, "recipe": None, "code": None, "init": origin.to_dict(),
        **(victim.preprocessing or dict.fromkeys(("mean", "std"))),
    }  # fmt: skip
    if recipe is not None:
        load_recipe(recipe)
        base |= {"recipe": recipe.rpartition(":")[2], "code": code_sha256(recipe)}
    plan = make_plan(arch, config, others, recipe is not None, origin.start)
    both = (None, None) if mean is None or std is None else (tuple(mean), tuple(std))
    context = Context(
        data, Path(out), Path(weights), arch, recipe, base, taken, mean=both[0], std=both[1], device=device
    )
    log.info("pool: %s", origin.sentence())
    with _folder(context.out):
        todo = _missing(plan, context)
        done, report = len(plan) - len(todo), progress or (lambda done, total, what: None)
        log.info("pool: %d of %d models found in %s", done, len(plan), out)
        report(done, len(plan), f"{done} of {len(plan)} models found")
        for number, name in enumerate(_train_all(todo, context, jobs), done + 1):
            log.debug("pool: %s made (%d of %d)", name, number, len(plan))
            report(number, len(plan), name)
        return _finish(plan, context, config, (accuracy, former, unlike))


def _check(jobs: object, init: str | os.PathLike[str], ancestor: object) -> None:
    good = isinstance(jobs, int) and 1 <= jobs <= 1024
    check(good, "pool", "jobs", "a whole number in 1..1024", repr(jobs))
    if said_init(init) == "random" and ancestor is not None:
        rule = "left out with init=random (a victim that began at random weights has no ancestor)"
        raise InputError("pool", "ancestor", rule, ancestor)


@dataclass(frozen=True)
class Ancestor:
    """What the victim was fine-tuned from: its file, and what is recorded of it."""

    path: Path
    sha256: str | None


def _ancestor(arch: str, path: Path, victim: Model) -> Ancestor:
    """Check that an ancestor is a whole network of the architecture, and another one than the victim."""
    former = load_model(arch, path, name="ancestor")
    if former.sha256 == victim.sha256:
        raise PoolError("pool", "ancestor", "another model than the victim", f"the same weights ({path})")
    return Ancestor(path, former.sha256)


def _classes(victim: Model, data: Dataset) -> tuple[int, float]:
    """The victim's K, after it has shown that it knows the data, and its accuracy there."""
    count = min(MEASURED_ON, len(data))
    if count == 0:
        raise DataError("pool", "data", "of at least one image", "none")
    try:
        first = Images(data.images).subset(slice(0, count))
        answers = victim.answers_to(first.chunks(), count=count)
    except SuspectError as exc:
        rule = f"one that answers the data's images {list(data.images.shape[1:])} with logits"
        raise ModelError("pool", "victim", rule, exc.got) from exc
    if answers.classes < data.classes:
        raise ModelError("pool", "victim", f"of {data.classes} classes, as the data", answers.classes)
    labels = data.labels[:count]
    right = float((answers.labels() == labels).double().mean())
    common = float(torch.bincount(labels).max()) / count
    if right < 1.5 * common and right < 0.5:
        warnings.warn(
            f"pool: the victim is right for {right:.0%} of the data's first {count} images, where always "
            f"naming the commonest class is for {common:.0%}. Does it take images in 0..1 (here "
            f"{float(data.x(slice(0, 64)).max()):g} at most) without further preprocessing? If not, give "
            "mean and std",
            PoolWarning,
            stacklevel=3,
        )
    return answers.classes, right


@contextlib.contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Make the pool's folder, keep other runs out of it, and clear what a killed run left."""
    try:
        (out / "models").mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "a")
    except OSError as exc:
        raise StorageError(f"pool: out must be a writable folder, got {out} ({exc.strerror or exc})") from exc
    with lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise PoolError("pool", "out", "a folder that no other run is filling", out) from exc
        for left in (out / "models").glob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield


def _missing(plan: Sequence[Job], context: Context) -> list[Job]:
    """Jobs to do. What derives from a model that has to be made again is made again as well."""
    todo = [j for j in plan if not _made(j, context)]
    names = {j.name for j in todo}
    return [j for j in plan if j.name in names or j.candidate in names]


def _made(job: Job, context: Context) -> bool:
    """Whether a job's model is in place; raises if it was made with other settings."""
    weights, record = context.files(job)
    if not weights.is_file() or not record.is_file():
        return False
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        stamp = found["stamp"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if stamp != context.stamp(job):
        rule = (
            "new, or of the same victim, data, init, mean and std, architectures (and their code), recipe, "
            "epochs and seed"
        )
        other = ", ".join(_differences(found, context.settings(job))) or "settings"
        raise PoolError("pool", "out", rule, f"{context.out}, where {job.name} was made with other {other}")
    return True


def _differences(record: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What differs between a model's record and the settings of now; nothing if the record does not say."""
    made, now = record.get("settings"), json.loads(json.dumps(settings))
    if not isinstance(made, dict):
        return []
    found = []
    for name in [n for n in now if n not in made or made[n] != now[n]] + [n for n in made if n not in now]:
        values = [values.get(name) for values in (made, now)]
        short = all(isinstance(v, int | float) or (isinstance(v, str) and len(v) < 40) for v in values)
        found.append(f"{name} ({values[0]}, now {values[1]})" if short else name)
    return found


def _train_all(todo: Sequence[Job], context: Context, jobs: int) -> Iterator[str]:
    """Train jobs, candidates first; yields names as they are done."""
    if jobs == 1 or len(todo) < 2:
        with one_thread():
            for job in todo:
                yield make_model(job, context)
        return
    spawn = torch.multiprocessing.get_context("spawn")
    stages = [[j for j in todo if j.candidate is None], [j for j in todo if j.candidate is not None]]
    with ProcessPoolExecutor(min(jobs, len(todo)), spawn, _start_worker, (context,)) as workers:
        try:
            for stage in stages:
                waiting: set[Future[str]] = {workers.submit(_work, job) for job in stage}
                while waiting:
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in finished:
                        yield future.result()
        except BrokenProcessPool as exc:
            rule = "able to finish (out of memory? fewer jobs need less)"
            raise PoolError("pool", "worker process", rule, "one that was killed") from exc
        finally:
            workers.shutdown(wait=False, cancel_futures=True)


_CONTEXT: list[Context] = []  # filled in worker processes only, by their initialiser


def _start_worker(context: Context) -> None:
    torch.set_num_threads(1)
    _CONTEXT[:] = [context]


def _work(job: Job) -> str:
    return make_model(job, _CONTEXT[0])


def _finish(
    plan: Sequence[Job],
    context: Context,
    config: PoolConfig,
    found: tuple[float, Ancestor | None, str | None],
) -> Path:
    """Write ``pool.json`` and, last, the manifest; warn of twins that are not what the victim is.

    ``found`` is the victim's accuracy, its ancestor, and what was said of its beginning already.
    """
    folder, (accuracy, former, unlike) = context.out, found
    models = [json.loads(context.files(job)[1].read_text(encoding="utf-8")) for job in plan]
    said = _doubts(models, accuracy)
    settings: dict[str, Any] = {
        "config": asdict(config), "base": context.base, "versions": versions(),
        "victim": {"sha256": context.base["victim"], "owner_accuracy": round(accuracy, 4)},
        "ancestor": None if former is None else {"sha256": former.sha256},
        "warnings": [w for w in (unlike, *said) if w],
        "code": {relative_arch(spec, folder.resolve()): code_sha256(spec) for spec in _archs(plan, context)},
        "models": models,
    }  # fmt: skip
    write_text(folder / "pool.json", json.dumps(settings, indent=1) + "\n")
    write_manifest(folder / "manifest.csv", _entries(plan, context, former))
    for sentence in said:
        warnings.warn(sentence, PoolWarning, stacklevel=3)
    return folder / "manifest.csv"


def _archs(plan: Sequence[Job], context: Context) -> list[str]:
    return sorted({context.arch, *(job.arch for job in plan)})


def _entries(plan: Sequence[Job], context: Context, former: Ancestor | None) -> list[Entry]:
    """The manifest's lines."""
    folder = context.out.resolve()
    own, both = relative_arch(context.arch, folder), (context.mean, context.std)
    parent = None if context.base["init"]["start"] == "random" else "ancestor"
    victim = os.path.relpath(context.weights.resolve(), folder)
    entries = [Entry(victim, own, "victim", "victim", None, *both, parent)]
    if former is not None:
        path = os.path.relpath(former.path.resolve(), folder)
        entries.append(Entry(path, own, "ancestor", "ancestor", None, *both))
    for job in plan:
        entries.append(
            Entry(
                f"models/{job.name}.safetensors", relative_arch(job.arch, folder), job.name, job.relation,
                job.candidate, *context.taking(job),
                parent if job.start != "random" and job.candidate is None else None,
            )
        )  # fmt: skip
    return entries


def _doubts(models: Sequence[Mapping[str, Any]], accuracy: float) -> list[str]:
    """Twins that know the owner's images far less well than the victim does are no twins."""
    low = [m for m in models if m["relation"] == "twin" and m["owner_accuracy"] < accuracy - FAR_BELOW]
    if not low:
        return []
    shown = ", ".join(f"{m['name']} {m['owner_accuracy']:.0%}" for m in low[:4])
    more = f" and {len(low) - 4} more" if len(low) > 4 else ""
    return [
        f"pool: twins should be as good as the victim, which is right for {accuracy:.0%} of the owner's "
        f"images, got {shown}{more}: is the recipe the victim's own (epochs, init, mean and std)? The "
        "candidate side of every verdict rests on it"
    ]
