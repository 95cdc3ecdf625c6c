"""Making one suspect of the zoo from its plan; every function takes the victim and leaves it as it was."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.detection.plan import Item, Size
from uapfast.data import Dataset, load_data
from uapfast.files import write_bytes, write_text
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.pool import attacks
from uapfast.pool.train import fresh_model, predict


@dataclass(frozen=True)
class Place:
    """Where a zoo lies, and its extent."""

    out: Path
    size: Size

    def data(self, name: str) -> Dataset:
        """``owner``, ``thief`` or ``heldout``."""
        return _data(str(self.out / f"{name}.npz"))

    def victim_path(self, arch: str) -> Path:
        """Weights of the victim of an architecture."""
        return self.out / arch / "victim.safetensors"

    def suspect_path(self, name: str) -> Path:
        """Weights of a suspect; the record beside it has the suffix .json."""
        return self.out / "suspects" / f"{name}.safetensors"


@cache
def _data(path: str) -> Dataset:
    return load_data(path)


def _draw(data: Dataset, count: int, seed: int) -> tuple[Tensor, Tensor]:
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
    return data.x(rows), data.labels[rows]


def tune(place: Place, victim: nn.Module, item: Item) -> nn.Module:
    """Fine-tuning; with ``redraw`` the last layer is drawn anew first."""
    s = item.settings
    x, y = _draw(place.data("thief"), s["images"], item.seed)
    if s["redraw"] and s["layers"] == "all":
        victim = attacks.fine_tune(victim, x, y, layers="last", epochs=0, seed=item.seed)
    redraw = s["redraw"] and s["layers"] == "last"
    return attacks.fine_tune(
        victim, x, y, layers=s["layers"], redraw=redraw, epochs=s["epochs"], lr=s["lr"], seed=item.seed
    )


def prune(place: Place, victim: nn.Module, item: Item) -> nn.Module:
    """Magnitude pruning; with ``epochs`` fine-tuned afterwards, the pruned weights free to grow again."""
    s = item.settings
    model = attacks.prune(victim, s["share"])
    if s["epochs"]:
        x, y = _draw(place.data("thief"), s["images"], item.seed)
        model = attacks.fine_tune(model, x, y, epochs=s["epochs"], seed=item.seed)
    return model


def quantise(place: Place, victim: nn.Module, item: Item) -> nn.Module:
    """Weights of few bits."""
    return attacks.quantise(victim, item.settings["bits"])


def noise(place: Place, victim: nn.Module, item: Item) -> nn.Module:
    """Gaussian weight noise."""
    return attacks.add_noise(victim, item.settings["scale"], item.seed)


def adversarial(place: Place, victim: nn.Module, item: Item) -> nn.Module:
    """Adversarial training of the victim."""
    s = item.settings
    x, y = _draw(place.data("thief"), s["images"], item.seed)
    return attacks.adversarial_training(victim, x, y, eps=s["eps"], epochs=s["epochs"], seed=item.seed)


def _learn(place: Place, victim: nn.Module, item: Item, x: Tensor) -> nn.Module:
    """A student of the item's architecture on the victim's answers to ``x``."""
    recipe = partial(place.size.recipe(item.arch), epochs=item.settings["epochs"])
    student = fresh_model(place.size.spec(item.arch), item.seed)
    return attacks.extract(
        partial(predict, victim), student, x, labels=item.settings["labels"], recipe=recipe, seed=item.seed
    )


def extract(place: Place, victim: nn.Module, item: Item) -> nn.Module:
    """Extraction with the thief's own images."""
    return _learn(place, victim, item, _draw(place.data("thief"), item.settings["images"], item.seed)[0])


def extract_ood(place: Place, victim: nn.Module, item: Item) -> nn.Module:
    """Extraction with images of another task: handwritten digits, shifted, scaled and mixed."""
    return _learn(place, victim, item, foreign_images(item.settings["images"], place.size.side, item.seed))


def foreign_images(count: int, side: int, seed: int) -> Tensor:
    """float32 ``[count,1,side,side]`` in 0..1: pairs of scikit-learn's digits, resized, rolled and mixed.

    The digits zoo has digits for its own task: there they are turned upside down and inverted.
    """
    generator = torch.Generator().manual_seed(seed)
    digits = load_data("digits").x()
    digits = 1.0 - digits.flip(-2) if side == digits.shape[-1] else F.interpolate(digits, (side, side))
    pair = torch.randint(len(digits), (2, count), generator=generator)
    shift = torch.randint(-side // 4, side // 4 + 1, (count, 2), generator=generator)
    weight = torch.rand(count, 1, 1, 1, generator=generator)
    mixed = weight * digits[pair[0]] + (1 - weight) * digits[pair[1]]
    rolled = [torch.roll(m, (int(a), int(b)), (-2, -1)) for m, (a, b) in zip(mixed, shift, strict=True)]
    return torch.stack(rolled).clamp(0, 1)


def extract_jacobian(place: Place, victim: nn.Module, item: Item) -> nn.Module:
    """Papernot's extraction: few images, augmented along the student's Jacobian."""
    seeds = _draw(place.data("thief"), max(32, item.settings["images"] // 4), item.seed)[0]
    spec = place.size.spec(item.arch)
    x = attacks.jacobian_images(
        partial(predict, victim),
        lambda: fresh_model(spec, item.seed),
        seeds,
        recipe=partial(place.size.recipe(item.arch), epochs=item.settings["epochs"]),
        seed=item.seed,
    )
    return _learn(place, victim, item, x)


def launder(place: Place, victim: nn.Module, item: Item) -> nn.Module:
    """Extraction by soft labels, and a modification of the student on top."""
    student = extract(place, victim, item)
    count = place.size.tune
    settings: dict[str, dict[str, Any]] = {
        "tune": {"layers": "all", "epochs": 2, "lr": 1e-3, "images": count, "redraw": False},
        "prune": {"share": 0.5, "epochs": 2, "images": count},
        "adversarial": {"eps": 0.05, "epochs": 2, "images": count},
        "quantise": {"bits": 4},
    }
    then = item.settings["then"]
    step = Item(item.name, item.group, item.victim, item.arch, then, settings[then], item.seed + 1)
    return HOW[then](place, student, step)


def _sgd(model: nn.Module, x: Tensor, y: Tensor, seed: int, epochs: int) -> nn.Module:
    """Momentum SGD with a cosine schedule: another optimiser than the twins'."""
    generator = torch.Generator().manual_seed(seed)
    batches = -(-len(x) // 128)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    model.train()
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(x), generator=generator), 128):
                if len(rows) > 1:
                    optimiser.zero_grad(set_to_none=True)
                    torch.autograd.backward(F.cross_entropy(model(x[rows]), y[rows]))
                    optimiser.step()
                schedule.step()
    return model.eval()


def train(place: Place, victim: nn.Module | None, item: Item) -> nn.Module:
    """An honest model: true labels, the owner's images, others, or half of each."""
    s, generator = item.settings, torch.Generator().manual_seed(item.seed)
    sets = [place.data(n) for n in (("owner", "thief") if s["images"] == "mixed" else (s["images"],))]
    parts = [_draw(d, round(s["share"] * len(d) / len(sets)), item.seed) for d in sets]
    x, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    model = fresh_model(place.size.spec(item.arch), item.seed)
    if s["recipe"] == "sgd":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(item.seed)
            return _sgd(model, x, y, item.seed, s["epochs"])
    if s["recipe"] == "augmented":
        moves = torch.randint(-2, 3, (len(x),), generator=generator)
        x = torch.stack([torch.roll(i, int(m), -1) for i, m in zip(x, moves, strict=True)])
    rate = 0.003 if s["recipe"] == "slow" else 0.01
    return place.size.recipe(item.arch)(model, x, y, item.seed, epochs=s["epochs"], learning_rate=rate)


HOW: dict[str, Callable[[Place, Any, Item], nn.Module]] = {
    f.__name__: f
    for f in (
        tune,
        prune,
        quantise,
        noise,
        adversarial,
        extract,
        extract_ood,
        extract_jacobian,
        launder,
        train,
    )
}


def candidate(place: Place, victim: str, number: int) -> nn.Module:
    """The victim (0) or one of its twins (1, 2, ...)."""
    path = place.victim_path(victim)
    if number:
        path = place.out / victim / "pool" / "models" / f"twin-{number - 1:02d}.safetensors"
    module = load_model(place.size.spec(victim), path).module
    assert module is not None
    return module


def answers(place: Place, weights: Path, model: nn.Module | None = None) -> Tensor:
    """Probabilities ``[N,K]`` for the held-out images, of a model or as kept beside its weights.

    A world of slow networks keeps them: every model is then asked every image once, end to end.
    """
    path = weights.with_suffix(".answers.npy")
    if path.exists():
        return torch.from_numpy(np.load(path))
    assert model is not None, f"{path} is missing"
    found = predict(model, place.data("heldout").x())
    if place.size.keeps_answers:
        write_bytes(path, array_bytes(found))
    return found


def array_bytes(values: Tensor) -> bytes:
    """A tensor as the bytes of an .npy file."""
    out = io.BytesIO()
    np.save(out, values.numpy())
    return out.getvalue()


def _right(place: Place, found: Tensor) -> float:
    return round(float((found.argmax(-1) == place.data("heldout").labels).double().mean()), 4)


def make_victim(place: Place, arch: str) -> str:
    """Train a victim by the project's own recipe, as its pool trains the twins; returns its name.

    Each has a seed of its own: models that see the same images in the same order look related, whatever
    their architectures (docs/verdicts.md).
    """
    owner, start = place.data("owner"), time.perf_counter()
    seed = list(place.size.epochs).index(arch)
    model = fresh_model(place.size.spec(arch), seed)
    place.size.recipe(arch)(model, owner.x(), owner.labels, seed, epochs=place.size.epochs[arch])
    path = place.victim_path(arch)
    path.parent.mkdir(exist_ok=True)
    save_weights(model, path)
    record = {
        "test_accuracy": _right(place, answers(place, path, model)),
        "seconds": round(time.perf_counter() - start, 2),
    }
    write_text(path.with_suffix(".json"), json.dumps(record))
    return f"{arch}, test accuracy {record['test_accuracy']:.4f}"


def make_suspect(place: Place, item: Item) -> str:
    """Make one suspect: its weights, and last a record of how, its accuracy and its agreement."""
    start, victim = time.perf_counter(), None
    if item.victim is not None:
        victim = load_model(place.size.spec(item.victim), place.victim_path(item.victim)).module
    model = HOW[item.how](place, victim, item)
    path = place.suspect_path(item.name)
    save_weights(model, path)
    found = answers(place, path, model)
    record = asdict(item) | {"test_accuracy": _right(place, found)}
    if item.victim is not None:
        theirs = answers(place, place.victim_path(item.victim), victim)
        same = theirs.argmax(-1) == found.argmax(-1)
        record["agreement"] = round(float(same.double().mean()), 4)
    record["seconds"] = round(time.perf_counter() - start, 2)
    write_text(path.with_suffix(".json"), json.dumps(record))
    return item.name
