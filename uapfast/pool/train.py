"""Making one model of a pool: from a :class:`~uapfast.pool.plan.Job` to its two files."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uapfast.data import Dataset
from uapfast.errors import InputError, ModelError, PoolError
from uapfast.files import write_text
from uapfast.models.checkpoint import fill, read_weights, save_weights
from uapfast.models.code import source_sha256
from uapfast.models.model import tensors_sha256
from uapfast.models.registry import arch_file, resolve_arch
from uapfast.pool.plan import Job
from uapfast.pool.recipe import LEARNING_RATE, default_recipe, load_recipe

FINETUNE_RATE = 0.1  # of the default learning rate
LEAST_IMAGES = 1_000  # of a homologous model, or half of what there is: it should know its task, if little
MEASURED_ON = 2_000  # images for the accuracies in pool.json


@dataclass(frozen=True)
class Context:
    """What every job needs; sent to the workers once.

    Attributes:
        data: the owner's images and labels.
        out: the pool's folder.
        weights: file of the victim.
        arch: SPEC of the victim.
        recipe: ``FILE.py:FUNCTION`` or None for the default.
        base: settings that every model depends on (JSON types).
    """

    data: Dataset
    out: Path
    weights: Path
    arch: str
    recipe: str | None
    base: dict[str, Any]

    def files(self, job: Job) -> tuple[Path, Path]:
        """Weights and record of a job."""
        folder = self.out / "models"
        return folder / f"{job.name}.safetensors", folder / f"{job.name}.json"

    def stamp(self, job: Job) -> str:
        """SHA-256 of everything that decides a job's weights, the text of architecture files included."""
        code = {spec: code_sha256(spec) for spec in sorted({self.arch, job.arch})}
        return sha256(json.dumps([self.base, code, asdict(job)], sort_keys=True).encode()).hexdigest()


def code_sha256(spec: str) -> str | None:
    """SHA-256 of the file that ``FILE.py:NAME`` names, with what it imports from beside itself, or None."""
    path = arch_file(spec)
    return None if path is None or not path.is_file() else source_sha256(path)


def make_model(job: Job, context: Context) -> str:
    """Train a job's model and put its files in place, the record last; returns the job's name.

    Raises:
        PoolError: the training failed, or ended in NaN weights.
    """
    start = time.perf_counter()
    try:
        model, source = _train(job, context)
    except InputError:
        raise
    except Exception as exc:  # the owner's recipe may fail in any way
        said = f"{type(exc).__name__}: {exc}"
        raise PoolError("pool", f"training of {job.name}", "possible", said) from exc
    if not all(bool(torch.isfinite(t).all()) for t in model.state_dict().values() if t.is_floating_point()):
        raise PoolError("pool", f"training of {job.name}", "one that converges", "NaN or infinite weights")
    weights, record = context.files(job)
    save_weights(model, weights)
    info = {"stamp": context.stamp(job), "sha256": tensors_sha256(model), **asdict(job)}
    info |= {"seconds": round(time.perf_counter() - start, 2), **_measure(model, source, context.data)}
    write_text(record, json.dumps(info, indent=1) + "\n")
    return job.name


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: small networks only wait for a second, and results do not depend on the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fresh_model(arch: str, seed: int) -> nn.Module:
    """A newly initialised model of a SPEC; the global random state stays as it was."""
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
    model = fresh_model(context.arch, 0)
    fill(model, read_weights(path), path)
    return model.eval()


def _train(job: Job, context: Context) -> tuple[nn.Module, nn.Module | None]:
    data, source = context.data, _source(job, context)
    generator = torch.Generator().manual_seed(job.seed)
    least = min(LEAST_IMAGES, len(data) // 2) if job.relation == "homologous" else 2
    count = max(2, least, round(job.share * len(data)))
    rows = torch.randperm(len(data), generator=generator)[:count].sort().values
    x, labels = data.x(rows), data.labels[rows]
    model = fresh_model(job.arch, job.seed)
    if job.how in ("soft", "hard") and source is not None:
        answers = predict(source, x)
        labels = answers if job.how == "soft" else answers.argmax(-1)
    rate = LEARNING_RATE * job.rate
    if job.how == "finetune" and source is not None:
        model.load_state_dict(source.state_dict())
        rate *= FINETUNE_RATE
    if not job.owners_recipe or context.recipe is None:
        return default_recipe(model, x, labels, job.seed, epochs=job.epochs, learning_rate=rate), source
    trained = load_recipe(context.recipe)(model, x, labels, job.seed)
    if not isinstance(trained, nn.Module):
        rule = "a function that returns the trained nn.Module"
        raise ModelError("pool", "recipe", rule, type(trained).__name__)
    return trained.to("cpu").eval(), source


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Probabilities ``[N,K]`` of float32 images in 0..1, in eval mode."""
    model.eval()
    parts = [x[i : i + 512] for i in range(0, len(x), 512)]
    return torch.cat([model(part).softmax(-1) for part in parts])


def _measure(model: nn.Module, source: nn.Module | None, data: Dataset) -> dict[str, float]:
    """Accuracy on the owner's images (a sanity check, not a test accuracy), and agreement with the source."""
    x, y = data.x(slice(0, MEASURED_ON)), data.labels[:MEASURED_ON]
    own = predict(model, x).argmax(-1)
    found = {"owner_accuracy": round(float((own == y).double().mean()), 4)}
    if source is not None:
        found["agreement"] = round(float((own == predict(source, x).argmax(-1)).double().mean()), 4)
    return found
