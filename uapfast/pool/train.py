"""Making one model of a pool: from a :class:`~uapfast.pool.plan.TrainingJob` to its two files."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uapfast.data import Dataset, Images
from uapfast.errors import InputError, ModelError, PoolError
from uapfast.files import write_text
from uapfast.models.batches import most_at_once
from uapfast.models.checkpoint import fill, read_weights, save_weights
from uapfast.models.model import tensors_sha256
from uapfast.models.preprocessing import Preprocessed, Preprocessing
from uapfast.pool.origin import fresh_model as fresh_model
from uapfast.pool.origin import likeness
from uapfast.pool.plan import TrainingJob, file_code_sha256
from uapfast.pool.recipe import LEARNING_RATE, default_recipe, run_recipe, training_batch
from uapfast.pool.twins import TwinSource

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
        init: tensors that models of the victim's architecture begin at, where there is a file of them.
        twins: where twins come from.
        mean: per channel; models of the victim's architecture take (x - mean) / std.
        std: per channel.
        device: where the default recipe trains and models answer.
        batch_size: images a forward at most, of training by the default recipe as well; None for what their
            size allows.
    """

    data: Dataset
    out: Path
    weights: Path
    arch: str
    recipe: str | None
    base: dict[str, Any]
    init: Mapping[str, Tensor] = field(default_factory=dict)
    twins: TwinSource = TwinSource()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    device: str = "cpu"
    batch_size: int | None = None

    @property
    def batch(self) -> int:
        """Images a step of the default recipe."""
        return training_batch(self.data.images.shape, self.batch_size)

    def taking(self, job: TrainingJob) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Mean and std of a job's model; None for architectures of ours, which take 0..1."""
        return (self.mean, self.std) if job.arch == self.arch else (None, None)

    def files(self, job: TrainingJob) -> tuple[Path, Path]:
        """Weights and record of a job."""
        folder = self.out / "models"
        return folder / f"{job.name}.safetensors", folder / f"{job.name}.json"

    def stamp(self, job: TrainingJob) -> str:
        """SHA-256 of everything that decides a job's weights, the text of architecture files included."""
        told = [self._base(job), self._code(job), asdict(job)]
        return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def settings(self, job: TrainingJob) -> dict[str, Any]:
        """What :meth:`stamp` is made of, by names for people."""
        base = {
            "code of the recipe" if name == "code" else name: value for name, value in self._base(job).items()
        }
        code = {f"code of {spec}": found for spec, found in self._code(job).items() if found is not None}
        return base | code | asdict(job)

    def _base(self, job: TrainingJob) -> dict[str, Any]:
        own = {"branch": "checkpoint", "given": "draw"}.get(job.how)
        base = self.base if own is None else self.base | {own: self.twins.sha256}
        # not where it is as ever, so that pools which were made before batches could be chosen go on
        chosen = self.batch != training_batch(self.data.images.shape)
        return base | {"batch size": self.batch} if chosen and not job.owners_recipe else base

    def _code(self, job: TrainingJob) -> dict[str, str | None]:
        return {spec: file_code_sha256(spec) for spec in sorted({self.arch, job.arch})}


def make_model(job: TrainingJob, context: Context) -> str:
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
        rule = "possible"
        if job.owners_recipe and job.arch != context.arch:
            rule += f" for {job.arch}, too (a recipe that loads weights wants another init than random)"
        raise PoolError("pool", f"training of {job.name}", rule, f"{type(exc).__name__}: {exc}") from exc
    if not all(bool(torch.isfinite(t).all()) for t in model.state_dict().values() if t.is_floating_point()):
        raise PoolError("pool", f"training of {job.name}", "one that converges", "NaN or infinite weights")
    weights, record = context.files(job)
    save_weights(model, weights)
    info = {"stamp": context.stamp(job), "sha256": tensors_sha256(model), **asdict(job)}
    info["settings"] = context.settings(job)
    info |= {"seconds": round(time.perf_counter() - start, 2), **_measure(model, source, job, context)}
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


def _source(job: TrainingJob, context: Context) -> nn.Module | None:
    """The candidate that a piracy model is made from."""
    if job.candidate is None:
        return None
    path = context.weights
    if job.candidate != "victim":
        path = context.out / "models" / f"{job.candidate}.safetensors"
    return _filled(context.arch, path).to(context.device)


def _filled(arch: str, path: Path) -> nn.Module:
    model = fresh_model(arch, 0)
    fill(model, read_weights(path), path)
    return model.eval()


def _train(job: TrainingJob, context: Context) -> tuple[nn.Module, nn.Module | None]:
    data, source = context.data, _source(job, context)
    if job.how == "given":
        return _filled(context.arch, context.twins.files[int(job.name.rpartition("-")[2])]), None
    generator = torch.Generator().manual_seed(job.seed)
    least = min(LEAST_IMAGES, len(data) // 2) if job.relation == "homologous" else 2
    count = max(2, least, round(job.share * len(data)))
    rows = torch.randperm(len(data), generator=generator)[:count].sort().values
    x, labels = Images(data.images, rows), data.labels[rows]
    model = fresh_model(job.arch, job.seed)
    if job.start == "weights":
        model.load_state_dict(context.init, strict=False)
    if job.how in ("soft", "hard") and source is not None:
        answers = predict(source, x, context.mean, context.std, context.batch_size)
        labels = answers if job.how == "soft" else answers.argmax(-1)
    rate = LEARNING_RATE * job.rate
    if job.how == "finetune" and source is not None:
        model.load_state_dict(source.state_dict())
        rate *= FINETUNE_RATE
    with _normalising(model, *context.taking(job)) as taken_off:
        if not job.owners_recipe or context.recipe is None:
            model = model.to(context.device)
            made = default_recipe(
                model, x, labels, job.seed, epochs=job.epochs, learning_rate=rate, batch=context.batch
            )
            return made.to("cpu"), source
        more = {"checkpoint": context.twins.path} if job.how == "branch" else {}
        trained = run_recipe(context.recipe, model, x, labels, job.seed, **more)
        if not isinstance(trained, nn.Module):
            rule = "a function that returns the trained nn.Module"
            raise ModelError("pool", "recipe", rule, type(trained).__name__)
        if not taken_off(trained):
            rule = "one that trains the model it is given (mean and std are put in front of that)"
            raise ModelError("pool", "recipe", rule, f"another {type(trained).__name__}")
    return trained.to("cpu").eval(), source


@contextlib.contextmanager
def _normalising(
    model: nn.Module, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Iterator[Callable[[nn.Module], bool]]:
    """Let a model take images in 0..1 meanwhile.

    A hook, so that recipes find the network's own layers by name, and so that copies of the model have it.
    Yields what takes it off the trained model, and says whether that had it.
    """
    if mean is None or std is None:
        yield lambda trained: True
        return
    front = Preprocessed(nn.Identity(), Preprocessing(mean, std))

    def normalise(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (front.to(args[0].device)(args[0]), *args[1:])

    def taken_off(trained: nn.Module) -> bool:
        had = False
        for hooks in [m._forward_pre_hooks for m in trained.modules()]:
            for key in [k for k, hook in hooks.items() if hook is normalise]:
                del hooks[key]
                had = True
        return had

    model.register_forward_pre_hook(normalise)
    try:
        yield taken_off
    finally:
        taken_off(model)


@torch.no_grad()
def predict(
    model: nn.Module,
    x: Tensor | Images,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Probabilities ``[N,K]`` of float32 images in 0..1, in eval mode, after (x - mean) / std if given.

    ``batch_size`` images a forward at most; None for twice what a forward of a suspect takes.
    """
    model.eval()
    asked = model if mean is None or std is None else Preprocessed(model, Preprocessing(mean, std)).eval()
    place = next((p.device for p in model.parameters()), torch.device("cpu"))
    asked = asked.to(place)
    size = batch_size or 2 * most_at_once(x.shape, place)
    parts = (x[i : i + size] for i in range(0, len(x), size))
    return torch.cat([asked(part.to(place)).softmax(-1).to("cpu") for part in parts])


def _measure(
    model: nn.Module, source: nn.Module | None, job: TrainingJob, context: Context
) -> dict[str, float]:
    """Accuracy on the owner's images (a sanity check, not a test accuracy), and agreement with the source."""
    data = context.data
    x, y = Images(data.images).subset(slice(0, MEASURED_ON)), data.labels[:MEASURED_ON]
    own = predict(model.to(context.device), x, *context.taking(job), context.batch_size).argmax(-1)
    found = {"owner_accuracy": round(float((own == y).double().mean()), 4)}
    if source is not None:
        theirs = predict(source, x, context.mean, context.std, context.batch_size).argmax(-1)
        found["agreement"] = round(float((own == theirs).double().mean()), 4)
    start = _beginning(job, context) if job.relation == "twin" else None
    if start is not None:
        found["likeness"] = round(likeness(model.state_dict(), start), 4)
    return found


def _beginning(job: TrainingJob, context: Context) -> Mapping[str, Tensor] | None:
    """Tensors that a twin's weights have to show something of; None if it began at random ones.

    A checkpoint is in the recipe's own form: what goes on from it resembles the victim, which did so, too.
    """
    if job.how == "branch":
        return _filled(context.arch, context.weights).state_dict()
    if job.start == "random":
        return None
    return context.init if job.start == "weights" else fresh_model(context.arch, 0).state_dict()
