"""What a pool is made of: one job a model, each with a name and a seed of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uapfast.config import check
from uapfast.data import Dataset
from uapfast.models.nets import NETS

How = Literal["train", "soft", "hard", "finetune"]
SQUARE_ONLY = ("vgg-small", "depthwise-small", "cnn-small", "mlp-small")
PREFERRED = ("cnn-small", "vgg-small", "depthwise-small", "resnet-small")
# (how, which architecture, share of the owner's images); other architectures alternate
SURROGATES: tuple[tuple[How, Literal["same", "other"], float], ...] = (
    ("soft", "other", 1.0),
    ("soft", "same", 1.0),
    ("hard", "other", 1.0),
    ("soft", "same", 0.5),
    ("finetune", "same", 0.5),
)
# of homologous models, one for each turn through the architectures: models that know little are what weak
# copies are to be told from (docs/method.md), and cost little
SHARES = (1.0, 0.5, 1.0, 0.5, 0.25, 0.1, 0.25, 0.1)
EPOCH_FACTORS = (1.0, 0.6, 1.5)
RATE_FACTORS = (0.3, 1.0)


@dataclass(frozen=True)
class PoolConfig:
    """How many models of each relation, and how they are trained.

    Attributes:
        twins: models of the victim's recipe with other seeds, m.
        surrogates: piracy models of each candidate (the victim and every twin), the same kinds of each.
        homologous: honest models of other architectures, data and settings, n.
        epochs: of the default recipe.
        seed: base of every job's seed.
        other_archs: SPECs for surrogates and homologous models; shipped networks by default.
    """

    twins: int = 8
    surrogates: int = 2
    homologous: int = 40
    epochs: int = 5
    seed: int = 0
    other_archs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers; raises ``InputError``."""
        for name, least in (("twins", 0), ("surrogates", 0), ("homologous", 0), ("epochs", 1), ("seed", 0)):
            value = getattr(self, name)
            good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= 100_000
            check(good, "pool", name, f"a whole number >= {least}", repr(value))


@dataclass(frozen=True)
class Job:
    """One model to train.

    Attributes:
        name: also of its file.
        relation: ``twin``, ``piracy`` or ``homologous``.
        candidate: what a piracy model is made from.
        kind: what models are compared as; the same for every candidate.
        arch: SPEC as the caller wrote it.
        how: ``train`` on true labels, ``soft`` or ``hard`` labels of the candidate, ``finetune`` of it.
        share: of the owner's images, drawn by ``seed`` (homologous models: ``train.LEAST_IMAGES`` at least).
        epochs: of the default recipe.
        rate: factor of its learning rate.
        owners_recipe: whether the owner's recipe trains it.
        seed: of initialisation, order and draw.
    """

    name: str
    relation: str
    candidate: str | None
    kind: str
    arch: str
    how: How
    share: float
    epochs: int
    rate: float
    owners_recipe: bool
    seed: int


def default_archs(arch: str, data: Dataset, classes: int) -> tuple[str, ...]:
    """Shipped networks that fit the images and the victim's ``classes``, the victim's own left out."""
    channels, height, width = data.images.shape[1:]
    options = f"?channels={channels}&classes={classes}&size={height}"
    names = [n for n in PREFERRED if height == width or n not in SQUARE_ONLY]
    own = arch.removeprefix("uapfast:").partition("?")[0] if arch.startswith("uapfast:") else ""
    return tuple(f"uapfast:{n}{options}" for n in names if n in NETS and n != own)


def job_seed(base: int, name: str) -> int:
    """A seed of its own for every model: neighbouring bases, or the victim's own seed, never meet it."""
    return int.from_bytes(hashlib.sha256(f"{base}/{name}".encode()).digest()[:4], "big") >> 1


def make_plan(arch: str, config: PoolConfig, others: Sequence[str], owners_recipe: bool) -> list[Job]:
    """All jobs, candidates before what is made from them; names and seeds do not depend on the counts."""
    twins = [_twin(i, arch, config, owners_recipe) for i in range(config.twins)]
    homologous = [_homologous(i, arch, config, others, owners_recipe) for i in range(config.homologous)]
    candidates = ["victim"] + [t.name for t in twins]
    surrogates = [
        _surrogate(k, name, arch, config, others) for k in range(config.surrogates) for name in candidates
    ]
    return twins + homologous + surrogates


def _twin(i: int, arch: str, config: PoolConfig, owners_recipe: bool) -> Job:
    name = f"twin-{i:02d}"
    return Job(
        name=name,
        relation="twin",
        candidate=None,
        kind="twin",
        arch=arch,
        how="train",
        share=1.0,
        epochs=config.epochs,
        rate=1.0,
        owners_recipe=owners_recipe,
        seed=job_seed(config.seed, name),
    )


def _homologous(i: int, arch: str, config: PoolConfig, others: Sequence[str], owners_recipe: bool) -> Job:
    """Architectures in turn, then shares of the data, epochs and rates; never the twins' recipe."""
    archs = [arch, *others]
    own, share = archs[i % len(archs)], SHARES[(i // len(archs)) % len(SHARES)]
    epochs = max(1, round(config.epochs * EPOCH_FACTORS[i % 3]))
    rate = RATE_FACTORS[(i + i // len(archs)) % 2]
    if own == arch and share == 1.0 and epochs == config.epochs and rate == 1.0:
        rate = RATE_FACTORS[0]
    name = f"homologous-{i:02d}"
    return Job(
        name=name,
        relation="homologous",
        candidate=None,
        kind="homologous",
        arch=own,
        how="train",
        share=share,
        epochs=epochs,
        rate=rate,
        # the owner's recipe on the victim's architecture and all data would make a twin
        owners_recipe=owners_recipe and i % 2 == 1 and (own != arch or share < 1.0),
        seed=job_seed(config.seed, name),
    )


def _surrogate(k: int, candidate: str, arch: str, config: PoolConfig, others: Sequence[str]) -> Job:
    how, which, share = SURROGATES[k % len(SURROGATES)]
    turn = k // len(SURROGATES) + (1 if how == "hard" else 0)
    own = arch if which == "same" or not others else others[turn % len(others)]
    name = f"piracy-{candidate}-{k:02d}"
    return Job(
        name=name,
        relation="piracy",
        candidate=candidate,
        kind=f"{k:02d}-{how}-{_short(own)}-{share:g}",
        arch=own,
        how=how,
        share=share,
        epochs=config.epochs,
        rate=1.0,
        owners_recipe=False,
        seed=job_seed(config.seed, name),
    )


def _short(arch: str) -> str:
    """A name for humans: the network's, or the file's and factory's."""
    if arch.startswith("uapfast:"):
        return arch.removeprefix("uapfast:").partition("?")[0]
    return Path(arch).name.replace(":", "-")


def relative_arch(arch: str, folder: Path) -> str:
    """``arch`` as a manifest in ``folder`` has to write it: a file becomes relative to the folder."""
    path, _, function = arch.rpartition(":")
    if path.endswith(".py"):
        return f"{os.path.relpath(Path(path).resolve(), folder.resolve())}:{function}"
    return arch
