"""Victims, suspects and pools on scikit-learn's 8x8 digits; what was trained stays in a folder."""

from __future__ import annotations

import copy
import csv
import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import uapfast
from uapfast.data import Dataset, load_data
from uapfast.models.checkpoint import read_weights, save_weights
from uapfast.models.registry import resolve_arch
from uapfast.pool import attacks
from uapfast.pool.build import build_pool
from uapfast.pool.recipe import default_recipe as fit
from uapfast.reference import Reference

SPEC = "uapfast:{}-small?channels=1&classes=10&size=8"
ARCH = SPEC.format("resnet")
HOMOLOGOUS, EPOCHS, FURTHER, RATE = 16, 12, 4, 2e-3  # epochs from scratch, and of a fine-tuning at RATE
# code that decides what a pool, and what a reference, holds
POOL_CODE = ("pool/build.py", "pool/plan.py", "pool/train.py", "pool/recipe.py", "models/nets.py")
NOT_OF_REFERENCES = ("cli", "demo", "report", "screening")

# Recipe of an owner who fine-tunes a public backbone, which the recipe loads where it fits.
RECIPE = '''"""Fine-tuning of a public backbone."""
import torch
from pathlib import Path
from uapfast.models.checkpoint import read_weights
from uapfast.pool.recipe import default_recipe

def train(model, images, labels, seed):
    found, own = read_weights(Path(__file__).with_name("backbone.safetensors")), model.state_dict()
    if {{k: v.shape for k, v in found.items()}} == {{k: v.shape for k, v in own.items()}}:
        model.load_state_dict(found)
        return default_recipe(model, images, labels, seed, epochs={further}, learning_rate={rate})
    return default_recipe(model, images, labels, seed, epochs={epochs})
'''


@dataclass(frozen=True)
class Suspect:
    """A suspect of known truth; ``target`` is a module in eval mode, or a function that is garbage."""

    name: str
    kind: str
    target: Any


@dataclass(frozen=True)
class World:
    """One victim, the owner's images (trained on), images to make references of, and suspects."""

    name: str
    victim: nn.Module
    weights: Path
    data: Dataset
    unseen: Dataset
    suspects: tuple[Suspect, ...]


@dataclass(frozen=True)
class PoolKind:
    """One kind of pool of a world: twins, where they began, and whether a copy is among its innocents."""

    name: str
    world: str
    twins: int
    from_backbone: bool = False
    contaminated: bool = False
    says: str = ""


POOLS = (
    PoolKind("0 twins", "scratch", 0, says="a victim trained from scratch"),
    PoolKind("2 twins", "scratch", 2, says="the same victim"),
    PoolKind("3 twins", "scratch", 3, says="the same victim"),
    PoolKind("12 twins", "scratch", 12, says="the same victim, the pool that the method asks for"),
    PoolKind("contaminated", "scratch", 12, contaminated=True, says="a fine-tuned copy among the innocents"),
    PoolKind("scratch twins", "tuned", 8, says="victim fine-tuned from a backbone, 8 twins from scratch"),
    PoolKind("backbone twins", "tuned", 8, from_backbone=True, says="that victim, 8 twins from the backbone"),
)


class Kept:
    """Networks by their recipe: trained once, then read from the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str, recipe: str) -> Path:
        """Where a network lies; the recipe is a line that says all that decides its weights."""
        return self.folder / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.safetensors"

    def get(self, name: str, recipe: str, make: Callable[[], nn.Module], net: str = "resnet") -> nn.Module:
        """The network of a recipe; ``make`` trains it where it is not there yet."""
        path = self.path(name, recipe)
        if not path.is_file():
            save_weights(make(), path)
        out = fresh(0, net)
        out.load_state_dict(read_weights(path))
        return out.eval().requires_grad_(False)


def fresh(seed: int, net: str = "resnet") -> nn.Module:
    """A new network of a seed; the caller's generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return resolve_arch(SPEC.format(net))()


def garbage() -> tuple[Suspect, ...]:
    """Suspects that know nothing of the task."""

    def noise(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(x.double().sum() * 1e6) % 2**31)
        return 3 * torch.randn(len(x), 10, generator=generator)

    def uniform(x: Tensor) -> Tensor:
        return torch.zeros(len(x), 10)

    def always_7(x: Tensor) -> Tensor:
        return F.one_hot(torch.full((len(x),), 7), 10) * 8.0

    functions = [Suspect(f.__name__, "garbage", f) for f in (noise, uniform, always_7)]
    nets = [Suspect(f"untrained {n}", "garbage", fresh(50, n).eval()) for n in ("resnet", "cnn")]
    return (*nets, *functions)


def _moved(x: Tensor) -> Tensor:
    """Images of a thief: the owner's, and the same moved by a pixel two ways."""
    return torch.cat([x, x.roll(1, 2), x.roll(1, 3)])


def _copies(kept: Kept, victim: nn.Module, key: str, x: Tensor, y: Tensor) -> list[Suspect]:
    """What a thief makes of a victim (``key``: its recipe) with images ``x``, labels ``y``."""

    def student(net: str, labels: attacks.LabelKind) -> nn.Module:
        def recipe(model: nn.Module, images: Tensor, answers: Tensor, seed: int) -> nn.Module:
            return fit(model, images, answers, seed, epochs=8)

        def ask(images: Tensor) -> Tensor:
            out: Tensor = victim(images).softmax(1)
            return out

        return attacks.extract(ask, fresh(31, net), _moved(x), labels=labels, recipe=recipe, seed=31)

    tuned = kept.get("tuned", f"{key} tuned 3", lambda: attacks.fine_tune(victim, x, y, epochs=3, seed=30))
    soft = kept.get("soft", f"{key} soft resnet 8", lambda: student("resnet", "soft"))
    hard = kept.get("hard", f"{key} hard cnn 8", lambda: student("cnn", "hard"), "cnn")
    return [
        Suspect("copy", "copy", copy.deepcopy(victim)),
        Suspect("tuned", "tuned", tuned),
        Suspect("pruned", "pruned", attacks.prune(victim, 0.4)),
        Suspect("soft student", "soft student", soft),
        Suspect("hard student", "hard student", hard),
    ]


def _honest(kept: Kept, data: Dataset, seed: int, nets: tuple[str, ...]) -> list[Suspect]:
    """Honest models of the same task, from scratch on all images that there are, or on two thirds."""
    out = []
    for i, net in enumerate(nets):
        part = data if i % 2 == 0 else data.subset(slice(0, len(data) * 2 // 3))
        s = seed + i
        out.append(
            Suspect(
                f"honest {net}",
                "honest",
                kept.get(
                    f"honest-{net}",
                    f"{net} {data.sha256} {len(part)} {s} {EPOCHS}",
                    lambda net=net, part=part, s=s: fit(  # type: ignore[misc]
                        fresh(s, net), part.x(), part.labels, s, epochs=EPOCHS
                    ),
                    net,
                ),
            )
        )
    return out


def scratch_world(kept: Kept) -> World:
    """A victim trained from scratch on all of the owner's images."""
    data, unseen = load_data("digits:train"), load_data("digits:test")
    key = f"resnet {data.sha256} 0 {EPOCHS}"
    victim = kept.get("victim", key, lambda: fit(fresh(0), data.x(), data.labels, 0, epochs=EPOCHS))
    suspects = _copies(kept, victim, key, data.x(), data.labels)
    suspects += _honest(kept, data, 40, ("resnet", "vgg", "depthwise", "cnn", "mlp"))
    path = kept.path("victim", key)
    return World("scratch", victim, path, data, unseen, (*suspects, *garbage()))


def tuned_world(kept: Kept) -> World:
    """A victim fine-tuned from a public backbone; others fine-tuned the same backbone honestly."""
    whole, unseen = load_data("digits:train"), load_data("digits:test")
    public, owner = whole.subset(slice(0, 300)), whole.subset(slice(300, 600))
    key = f"resnet {public.sha256} 0 {EPOCHS}"
    backbone = kept.get("backbone", key, lambda: fit(fresh(0), public.x(), public.labels, 0, epochs=EPOCHS))
    save_weights(backbone, kept.folder / "backbone.safetensors")

    def further(data: Dataset, seed: int) -> tuple[str, nn.Module]:
        own = f"{key} then {data.sha256} {seed} {FURTHER} {RATE}"

        def make() -> nn.Module:
            start = copy.deepcopy(backbone).requires_grad_(True)
            return fit(start, data.x(), data.labels, seed, epochs=FURTHER, learning_rate=RATE)

        return own, kept.get("further", own, make)

    own, victim = further(owner, 1)
    thief = whole.subset(slice(600, 900))
    suspects = _copies(kept, victim, own, thief.x(), thief.labels)
    parts = {"owner's images": owner, "other images": thief, "half and half": whole.subset(slice(450, 750))}
    siblings = [further(part, 2 + i)[1] for i, part in enumerate(parts.values())]
    suspects += [Suspect(f"sibling, {p}", "sibling", m) for p, m in zip(parts, siblings, strict=True)]
    suspects.append(Suspect("backbone", "backbone", backbone))
    suspects += _honest(kept, thief, 60, ("resnet", "cnn"))
    return World("tuned", victim, kept.path("further", own), owner, unseen, (*suspects, *garbage()))


WORLDS: dict[str, Callable[[Kept], World]] = {"scratch": scratch_world, "tuned": tuned_world}


def _code(files: list[Path]) -> str:
    """Short hash of source files."""
    h = hashlib.sha256()
    for path in sorted(files):
        h.update(path.name.encode() + path.read_bytes())
    return h.hexdigest()[:12]


def pool_manifest(kind: PoolKind, world: World, out: Path) -> Path:
    """Train (or find) the pool and return its manifest.

    ``build_pool`` is asked as its owner would: where it wants to know the start, the owner of scratch twins
    says ``random``, whatever the victim began with.
    """
    package = Path(uapfast.__file__).parent
    code = _code([package / f for f in POOL_CODE])
    folder = out / "pools" / f"{world.name}-{'backbone' if kind.from_backbone else 'random'}-{code}"
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "twins": kind.twins,
        "homologous": HOMOLOGOUS,
        "surrogates": 0,
        "epochs": EPOCHS,
    }
    backbone = out / "models" / "backbone.safetensors"
    if kind.from_backbone:
        own = folder / "recipe.py"
        own.write_text(RECIPE.format(further=FURTHER, rate=RATE, epochs=EPOCHS))
        (folder / "backbone.safetensors").write_bytes(backbone.read_bytes())
        settings["recipe"] = f"{own}:train"
    if "init" in inspect.signature(build_pool).parameters:
        settings["init"] = str(backbone) if kind.from_backbone else "random"
    manifest = Path(build_pool(ARCH, world.weights, world.data, folder / "pool", **settings))
    return _contaminated(manifest, world) if kind.contaminated else manifest


def _contaminated(manifest: Path, world: World) -> Path:
    """The manifest with one honest model more, which is a fine-tuned copy of the victim."""
    images, labels = world.unseen.x()[::2], world.unseen.labels[::2]
    save_weights(
        attacks.fine_tune(world.victim, images, labels, epochs=2, seed=70),
        manifest.with_name("bad.safetensors"),
    )
    with open(manifest, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows, columns = list(reader), list(reader.fieldnames or [])
    pattern = next(r for r in rows if r["relation"] == "homologous" and r["arch"] == ARCH)
    rows.append(pattern | {"path": "bad.safetensors", "name": "homologous-bad"})
    found = manifest.with_name("contaminated.csv")
    with open(found, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    return found


def reference(kind: PoolKind, world: World, out: Path) -> Reference:
    """The pool's reference, kept for the code and the pool that made it; raises what ``generate`` raises."""
    package = Path(uapfast.__file__).parent
    files = [p for p in package.rglob("*.py") if p.relative_to(package).parts[0] not in NOT_OF_REFERENCES]
    manifest = pool_manifest(kind, world, out)
    key = hashlib.sha256(json.dumps([_code(files), str(kind), manifest.read_text()]).encode()).hexdigest()
    path = out / "references" / f"{kind.name.replace(' ', '-')}-{key[:12]}.uapref"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        made = uapfast.generate(world.victim, world.unseen.x(), world.unseen.labels, pool=manifest)
        made.save(path)
    return uapfast.load(path)
