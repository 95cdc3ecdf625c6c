"""``uapfast pool``: train a surrogate pool from the owner's data and recipe. Resumable."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

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
from uapfast.models.checkpoint import load_model
from uapfast.models.model import Model
from uapfast.models.registry import resolve_arch
from uapfast.pool.finish import Ancestor, doubts, finish
from uapfast.pool.origin import doubt, find_origin, said_init
from uapfast.pool.plan import PoolConfig, TrainingJob, default_archs, make_plan
from uapfast.pool.pool import few_innocents, few_related, few_twins
from uapfast.pool.recipe import held_at_once, load_recipe, recipe_sha256
from uapfast.pool.train import MEASURED_ON, Context, make_model, one_thread, predict
from uapfast.pool.twins import Selected, check_distinct, find_twins
from uapfast.types import Progress

try:
    import fcntl
except ImportError:  # not on Windows; two runs at once are then the caller's to avoid
    fcntl = None  # type: ignore[assignment]

__all__ = ["PoolConfig", "build_pool", "predict"]

log = logging.getLogger(__name__)


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
    branch: str | os.PathLike[str] | None = None,
    branch_at: float | None = None,
    designated: str | os.PathLike[str] | None = None,
    selected: Selected | None = None,
    batch_size: int | None = None,
) -> Path:
    """Train twins, homologous models, and surrogates of each candidate; write ``manifest.csv``.

    A run that was killed continues where it stopped: a model counts as made when its weights and its
    record both exist. Every model is trained on one thread, so that the pool does not depend on ``jobs``.
    A pool can be extended: with larger numbers, only the missing models are trained.

    Args:
        arch: SPEC of the victim's architecture, for images in 0..1 (or after ``mean`` and ``std``).
        weights: the victim's weights file.
        data: the owner's images and labels.
        out: folder; made if missing.
        init: where the victim's training started: ``random``; a file of the public weights from which it was
            fine-tuned (a head of another size is initialised anew for every model); or ``factory``, if the
            factory of ``arch`` loads them. Twins, homologous models and surrogates of the victim's
            architecture start there, too. At least every third homologous model has that architecture, and
            the owner's recipe trains no other architecture (docs/fine_tuned.md).
        ancestor: weights file of the model from which the victim was fine-tuned, as a whole classifier of
            ``arch``. It becomes a pool model that the reference must not convict. Default: the file of
            ``init``, if it is whole.
        mean: per channel; the victim takes (x - mean) / std, and so does every model of its architecture.
            The model that a recipe is given normalises by itself: the recipe's images are in 0..1.
        std: per channel, > 0; with ``mean``.
        recipe: the owner's training: ``FILE.py:FUNCTION`` with ``(model, images, labels, seed) -> model``, or
            with ``(model, dataset, seed) -> model`` (with those names) for images that are read when needed
            (:class:`uapfast.pool.recipe.LabelledImages`); or the name of a recipe that an installed package
            has registered (docs/extend.md). It trains the twins and a part of the homologous models. Without
            it a default recipe is used.
        twins: number m of twins: models of the victim's recipe with other seeds.
        surrogates: number of piracy models of each candidate (the victim and every twin), of the same kinds
            for each.
        homologous: number n of honest models of other architectures, data and settings.
        epochs: passes of the default recipe.
        seed: base of every model's seed.
        other_archs: SPECs for surrogates and homologous models; by default small networks that ship with
            uapfast.
        jobs: models trained at a time; more than one are trained in processes of their own (a script that
            calls this then needs the usual ``if __name__ == "__main__"``).
        device: device on which the default recipe trains and models answer; the owner's recipe chooses its
            own.
        progress: called as ``progress(done, total, what)``.
        branch: checkpoint of the victim's training. Twins are then reruns from there by the recipe, which
            must take ``checkpoint`` as well (docs/branches.md). The manifest is then ``branches.csv``. A pool
            of full twins in the same folder stays unchanged, and shares its other models.
        branch_at: share of the victim's training that lies before ``branch``, in (0, 1).
        designated: record of a draw (:func:`uapfast.pool.draw.designate`): the victim is the drawn model, and
            the others are its twins, whatever ``twins`` says.
        selected: whether the victim was selected among several outcomes of training (best of several seeds or
            epochs, early stopping, an average), which is a part of its recipe. ``no``: it was not. ``same``:
            it was, and ``recipe`` selects every twin in the same way. ``unlike``: it was, and the twins are
            not. Verdicts say so if it is ``unlike`` or missing.
        batch_size: images per forward pass, at most, of models that answer and of the default recipe's
            training (where it changes the training, it is recorded as a setting of the models). None chooses
            by image size.

    Returns:
        The manifest's path. ``pool.json`` (``branches.json``) beside it records which recipe made what.

    Raises:
        InputError: a number is out of range, or ``init`` is missing or contradicts ``ancestor``.
        PoolError: ``out`` holds models of other settings or is in use, a training failed, or ``init`` does
            not fit the architecture.
        DataError: there are no images.
        ModelError: an architecture or recipe cannot be used, or the victim does not fit the data.
        StorageError: ``out`` cannot be written.
    """
    _check(jobs, init, ancestor)
    victim = load_model(arch, weights, name="victim", mean=mean, std=std, device=device)
    source = find_twins(branch, branch_at, designated, recipe, victim.sha256, selected)
    victim = victim.with_batch_size(batch_size)
    config = PoolConfig(len(source.files) or twins, surrogates, homologous, epochs, seed, tuple(other_archs))
    classes, accuracy = _classes(victim, data)
    origin, taken = find_origin(init, arch)
    unlike = doubt(origin, taken, arch, _state(victim))
    _warn_early(few_twins(config.twins), few_innocents(homologous), unlike, _large(recipe, data))
    if origin.whole and ancestor is None:
        ancestor = init
    former = None if ancestor is None else _ancestor(arch, Path(ancestor), victim)
    others = config.other_archs or default_archs(arch, data, classes)
    for spec in (arch, *others):
        resolve_arch(spec)
    read, keys = data.read()
    base = {
        "victim": victim.sha256, "data": read, **_recipe(recipe), "init": origin.to_dict(),
        **(victim.preprocessing or dict.fromkeys(("mean", "std"))),
    }  # fmt: skip
    plan = make_plan(arch, config, others, recipe is not None, origin.start, source.kind)
    both = (None, None) if mean is None or std is None else (tuple(mean), tuple(std))
    context = Context(
        data, Path(out), Path(weights), arch, recipe, base, taken, source, device=device,
        mean=both[0], std=both[1], batch_size=batch_size,
    )  # fmt: skip
    _warn_early(_few_related(plan))
    log.info("pool: %s", origin.sentence())
    with _folder(context.out):
        _make(plan, context, jobs, progress or (lambda done, total, what: None), accuracy)
        return finish(plan, context, config, (accuracy, former, unlike), keys)


def _make(plan: list[TrainingJob], context: Context, jobs: int, report: Progress, accuracy: float) -> None:
    """Train what is missing; the first twin that is doubtful is told of before others are made."""
    todo, doubted = _missing(plan, context), False
    done = len(plan) - len(todo)
    log.info("pool: %d of %d models found in %s", done, len(plan), context.out)
    report(done, len(plan), f"{done} of {len(plan)} models found")
    for number, name in enumerate(_train_all(todo, context, jobs), done + 1):
        log.debug("pool: %s made (%d of %d)", name, number, len(plan))
        report(number, len(plan), name)
        found = _check_twins(name, plan, context)
        if number < len(plan) and not doubted and (said := doubts(found, accuracy, context)):
            doubted = True
            _warn_early(
                *(f"{s}. {len(plan) - number} models are still to be made: Ctrl-C stops" for s in said)
            )


def _few_related(plan: Sequence[TrainingJob]) -> str | None:
    """What is said of a pool whose twins begin at public weights, and too few innocents do."""
    honest = [job.start != "random" for job in plan if job.relation == "homologous"]
    return few_related(sum(honest), len(honest)) if any(job.start != "random" for job in plan) else None


def _large(recipe: str | None, data: Dataset) -> str | None:
    return None if recipe is None else held_at_once(recipe, Images(data.images))


def _warn_early(*sentences: str | None) -> None:
    """Now, not after hours of training."""
    for sentence in filter(None, sentences):
        warnings.warn(sentence, PoolWarning, stacklevel=3)


def _state(victim: Model) -> dict[str, torch.Tensor]:
    assert victim.module is not None  # it was read from a file
    state: dict[str, torch.Tensor] = getattr(victim.module, "inner", victim.module).state_dict()
    return state


def _recipe(recipe: str | None) -> dict[str, str | None]:
    """What of the owner's recipe every model depends on."""
    if recipe is None:
        return {"recipe": None, "code": None}
    load_recipe(recipe)
    return {"recipe": recipe.rpartition(":")[2], "code": recipe_sha256(recipe)}


def _check(jobs: object, init: str | os.PathLike[str], ancestor: object) -> None:
    good = isinstance(jobs, int) and 1 <= jobs <= 1024
    check(good, "pool", "jobs", "a whole number in 1..1024", repr(jobs))
    if said_init(init) == "random" and ancestor is not None:
        rule = "left out with init=random (a victim that began at random weights has no ancestor)"
        raise InputError("pool", "ancestor", rule, ancestor)


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
        raise DataError("pool", "data", "at least one image", "none")
    try:
        first = Images(data.images).subset(slice(0, count))
        answers = victim.answers_to(first.chunks(), count=count)
    except SuspectError as exc:
        rule = f"one that answers the data's images {list(data.images.shape[1:])} with logits"
        raise ModelError("pool", "victim", rule, exc.got) from exc
    if answers.classes < data.classes:
        raise ModelError(
            "pool", "victim", f"a model of {data.classes} classes, like the data", answers.classes
        )
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


def _missing(plan: Sequence[TrainingJob], context: Context) -> list[TrainingJob]:
    """Jobs to do. What derives from a model that has to be made again is made again as well."""
    todo = [j for j in plan if not _made(j, context)]
    names = {j.name for j in todo}
    return [j for j in plan if j.name in names or j.candidate in names]


def _made(job: TrainingJob, context: Context) -> bool:
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
            "epochs, batch size and seed"
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


def _check_twins(name: str, plan: Sequence[TrainingJob], context: Context) -> list[dict[str, Any]]:
    """Hold a twin that was just made against the victim and the other twins; its record, if it is one."""
    files = {j.name: context.files(j)[1] for j in plan if j.relation == "twin"}
    if name not in files:
        return []
    made = {one: json.loads(path.read_text(encoding="utf-8")) for one, path in files.items() if path.exists()}
    check_distinct([(one, record["sha256"]) for one, record in made.items()], context.base["victim"])
    return [made[name]]


def _train_all(todo: Sequence[TrainingJob], context: Context, jobs: int) -> Iterator[str]:
    """Train jobs, candidates first; yields names as they are done."""
    if jobs == 1 or len(todo) < 2:
        with one_thread():
            for job in todo:
                yield make_model(job, context)
        return
    spawn = torch.multiprocessing.get_context("spawn")
    stages = [[j for j in todo if j.candidate is None], [j for j in todo if j.candidate is not None]]
    told, telling = spawn.Pipe(duplex=False)
    with ProcessPoolExecutor(min(jobs, len(todo)), spawn, _start_worker, (context, told)) as workers:
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
        except BaseException:  # an interrupt, or an error: nobody waits for trainings that take hours
            telling.close()
            raise
        finally:
            workers.shutdown(wait=False, cancel_futures=True)


_CONTEXT: list[Context] = []  # filled in worker processes only, by their initialiser


def _start_worker(context: Context, told: Connection) -> None:
    torch.set_num_threads(1)
    _CONTEXT[:] = [context]
    threading.Thread(target=_end_with_parent, args=(told,), daemon=True).start()


def _end_with_parent(told: Connection) -> None:
    """A run that was killed, or closed the pipe, takes its workers along; they would train or wait on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel, told])
        os._exit(1)


def _work(job: TrainingJob) -> str:
    return make_model(job, _CONTEXT[0])
