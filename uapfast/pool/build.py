"""``uapfast pool``: train a surrogate pool from the owner's data and recipe. Resumable."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor, nn

from uapfast._version import versions
from uapfast.config import check
from uapfast.data import Dataset
from uapfast.errors import InputError, ModelError, PoolError, StorageError
from uapfast.files import write_text
from uapfast.models.checkpoint import fill, load_model, read_weights, save_weights
from uapfast.models.registry import resolve_arch
from uapfast.pool.manifest import Entry, write_manifest
from uapfast.pool.plan import Job, PoolConfig, default_archs, make_plan, relative_arch
from uapfast.pool.recipe import LEARNING_RATE, default_recipe, load_recipe

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
FINETUNE_RATE = 0.1  # of the default learning rate
MEASURED_ON = 2_000  # images for the accuracies in pool.json


@dataclass(frozen=True)
class Context:
    """What every job needs; sent to the workers once."""

    data: Dataset
    out: Path
    weights: Path
    arch: str
    recipe: str | None
    base: dict[str, Any]


def build_pool(
    arch: str,
    weights: str | os.PathLike[str],
    data: Dataset,
    out: str | os.PathLike[str],
    *,
    recipe: str | None = None,
    config: PoolConfig | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Train twins, homologous models, and surrogates of each candidate; write ``manifest.csv``.

    A run that was killed goes on where it stopped: a model counts as made once its weights and its
    record are both in place. Every model is trained on one thread, so that the pool does not depend
    on ``jobs``.

    Args:
        arch: SPEC of the victim.
        weights: the victim's.
        data: the owner's images and labels.
        out: folder; made if missing.
        recipe: ``FILE.py:FUNCTION``, the owner's training ``(model, images, labels, seed) -> model``; it
            trains the twins and part of the homologous models. The default recipe otherwise.
        config: how many of what.
        jobs: models trained at a time, in processes of their own if more than one.
        progress: called as ``progress(done, total, what)``.

    Returns:
        The manifest's path. ``pool.json`` beside it records which recipe made what.

    Raises:
        PoolError: ``out`` holds models of other settings, or a training failed.
        ModelError: an architecture or recipe that cannot be used.
        StorageError: ``out`` cannot be written.
    """
    config = config or PoolConfig()
    check(isinstance(jobs, int) and 1 <= jobs <= 1024, "pool", "jobs", "a whole number >= 1", repr(jobs))
    folder = Path(out)
    try:
        (folder / "models").mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"pool: out must be a writable folder, got {folder} ({exc.strerror})") from exc
    victim = load_model(arch, weights)
    others = config.other_archs or default_archs(arch, data)
    for spec in (arch, *others):
        resolve_arch(spec)
    plan = make_plan(arch, config, others, recipe is not None)
    context = Context(data, folder, Path(weights), arch, recipe, _base(victim.sha256, data, recipe))
    done = [j for j in plan if _made(j, context)]
    report = progress or (lambda done, total, what: None)
    report(len(done), len(plan), f"{len(done)} models found in {folder}")
    for number, name in enumerate(
        _train_all([j for j in plan if j not in done], context, jobs), len(done) + 1
    ):
        report(number, len(plan), name)
    return _finish(plan, context, config)


def _base(victim_sha256: str | None, data: Dataset, recipe: str | None) -> dict[str, Any]:
    """Settings that every model depends on."""
    code = None
    if recipe is not None:
        load_recipe(recipe)
        code = sha256(Path(recipe.rpartition(":")[0]).read_bytes()).hexdigest()
    return {
        "victim": victim_sha256,
        "data": data.sha256,
        "recipe": recipe and recipe.rpartition(":")[2],
        "code": code,
    }


def _files(job: Job, folder: Path) -> tuple[Path, Path]:
    return folder / "models" / f"{job.name}.safetensors", folder / "models" / f"{job.name}.json"


def _made(job: Job, context: Context) -> bool:
    """Whether a job's model is in place; raises if it was made with other settings."""
    weights, record = _files(job, context.out)
    if not weights.is_file() or not record.is_file():
        return False
    try:
        stamp = json.loads(record.read_text(encoding="utf-8"))["stamp"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if stamp != job.stamp(context.base):
        rule = "new, or made with the same victim, data, recipe, epochs and seed"
        raise PoolError("pool", "out", rule, f"{context.out}, where {job.name} was made with others")
    return True


def _train_all(todo: list[Job], context: Context, jobs: int) -> Iterator[str]:
    """Train jobs, candidates first; yields names as they are done."""
    if jobs == 1 or len(todo) < 2:
        _start(context)
        with _one_thread():
            for job in todo:
                yield _run(job)
        return
    spawn = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(todo)), spawn, _start_worker, (context,)) as workers:
        try:
            for stage in (
                [j for j in todo if j.relation != "piracy"],
                [j for j in todo if j.relation == "piracy"],
            ):
                waiting: set[Future[str]] = {workers.submit(_run, job) for job in stage}
                while waiting:
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in finished:
                        yield future.result()
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_CONTEXT: list[Context] = []  # of this worker process


def _start(context: Context) -> None:
    _CONTEXT[:] = [context]


def _start_worker(context: Context) -> None:
    torch.set_num_threads(1)
    _start(context)


def _run(job: Job) -> str:
    """Train one model and put its files in place, the record last."""
    context = _CONTEXT[0]
    start = time.perf_counter()
    try:
        model, source = _train(job, context)
    except InputError:
        raise
    except Exception as exc:  # the owner's recipe may fail in any way
        raise PoolError(
            "pool", f"training of {job.name}", "possible", f"{type(exc).__name__}: {exc}"
        ) from exc
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise PoolError("pool", f"training of {job.name}", "one that converges", "NaN or infinite weights")
    weights, record = _files(job, context.out)
    save_weights(model, weights)
    info = {"stamp": job.stamp(context.base), **asdict(job), "seconds": round(time.perf_counter() - start, 2)}
    write_text(record, json.dumps({**info, **_measure(model, source, context.data)}, indent=1) + "\n")
    return job.name


def _fresh(arch: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return resolve_arch(arch)()


def _source(job: Job, context: Context) -> nn.Module | None:
    """The candidate that a piracy model is made from."""
    if job.candidate is None:
        return None
    path = context.weights
    if job.candidate != "victim":
        path = context.out / "models" / f"{job.candidate}.safetensors"
    model = _fresh(context.arch, 0)
    fill(model, read_weights(path), path)
    return model.eval()


def _train(job: Job, context: Context) -> tuple[nn.Module, nn.Module | None]:
    data, source = context.data, _source(job, context)
    generator = torch.Generator().manual_seed(job.seed)
    rows = (
        torch.randperm(len(data), generator=generator)[: max(2, round(job.share * len(data)))].sort().values
    )
    x, labels = data.x(rows), data.labels[rows]
    model = _fresh(job.arch, job.seed)
    if job.how in ("soft", "hard") and source is not None:
        answers = predict(source, x)
        labels = answers if job.how == "soft" else answers.argmax(-1)
    rate = LEARNING_RATE * job.rate
    if job.how == "finetune" and source is not None:
        model.load_state_dict(source.state_dict())
        rate *= FINETUNE_RATE
    if job.owners_recipe and context.recipe is not None:
        trained = load_recipe(context.recipe)(model, x, labels, job.seed)
        if not isinstance(trained, nn.Module):
            raise ModelError(
                "pool", "recipe", "a function that returns the trained nn.Module", type(trained).__name__
            )
        return trained.eval(), source
    return default_recipe(model, x, labels, job.seed, epochs=job.epochs, learning_rate=rate), source


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Probabilities ``[N,K]`` of float32 images in 0..1, in eval mode."""
    model.eval()
    return torch.cat([model(part).softmax(-1) for part in x.split(512)])


def _measure(model: nn.Module, source: nn.Module | None, data: Dataset) -> dict[str, float]:
    """Accuracy on the owner's images (a sanity check, not a test accuracy), and agreement with the source."""
    x, y = data.x(slice(0, MEASURED_ON)), data.labels[:MEASURED_ON]
    own = predict(model, x).argmax(-1)
    found = {"owner_accuracy": round(float((own == y).double().mean()), 4)}
    if source is not None:
        found["agreement"] = round(float((own == predict(source, x).argmax(-1)).double().mean()), 4)
    return found


def _finish(plan: list[Job], context: Context, config: PoolConfig) -> Path:
    """Write ``pool.json`` and, last, the manifest."""
    folder = context.out
    models = [json.loads(_files(job, folder)[1].read_text(encoding="utf-8")) for job in plan]
    settings = {"config": asdict(config), "base": context.base, "versions": versions(), "models": models}
    write_text(folder / "pool.json", json.dumps(settings, indent=1) + "\n")
    victim = os.path.relpath(context.weights.resolve(), folder.resolve())
    entries = [Entry(victim, relative_arch(context.arch, folder), "victim", "victim")]
    for job in plan:
        arch = relative_arch(job.arch, folder)
        entries.append(Entry(f"models/{job.name}.safetensors", arch, job.name, job.relation, job.candidate))
    write_manifest(folder / "manifest.csv", entries)
    return folder / "manifest.csv"
