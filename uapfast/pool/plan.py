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
from uapfast.models.code import source_sha256
from uapfast.models.nets import NETS
from uapfast.models.registry import arch_file
from uapfast.pool.origin import Start
from uapfast.pool.twins import PREFIXES, TwinKind

TrainingMethod = Literal["train", "branch", "given", "soft", "hard", "finetune"]
SQUARE_ONLY = ("vgg-small", "depthwise-small", "cnn-small", "mlp-small")
PREFERRED = ("cnn-small", "vgg-small", "depthwise-small", "resnet-small")
# (how, which architecture, share of the owner's images); other architectures alternate
SURROGATES: tuple[tuple[TrainingMethod, Literal["same", "other"], float], ...] = (
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
# of the default learning rate where a model begins at weights that know something: 2e-3
TUNING_RATE = 0.2
TUNING_FACTORS = (0.5, 1.0)


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
class TrainingJob:
    """One model to train.

    Attributes:
        name: also of its file.
        relation: ``twin``, ``piracy`` or ``homologous``.
        candidate: what a piracy model is made from.
        kind: what models are compared as; the same for every candidate.
        arch: SPEC as the caller wrote it.
        how: ``train`` on true labels; ``branch``: the same from a checkpoint on; ``given``: it is
            there; ``soft`` or ``hard`` labels of the candidate, ``finetune`` of it.
        share: of the owner's images, drawn by ``seed`` (homologous models: ``train.LEAST_IMAGES`` at least).
        epochs: of the default recipe.
        rate: factor of its learning rate.
        owners_recipe: whether the owner's recipe trains it.
        seed: of initialisation, order and draw.
        start: where its training begins, if not at a candidate (:class:`uapfast.pool.origin.Origin`).
    """

    name: str
    relation: str
    candidate: str | None
    kind: str
    arch: str
    how: TrainingMethod
    share: float
    epochs: int
    rate: float
    owners_recipe: bool
    seed: int
    start: Start = "random"


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


def make_plan(
    arch: str,
    config: PoolConfig,
    others: Sequence[str],
    owners_recipe: bool,
    start: Start = "random",
    twins: TwinKind = "full",
) -> list[TrainingJob]:
    """All jobs, candidates before what is made from them; names and seeds do not depend on the counts.

    Args:
        arch: SPEC of the victim.
        config: how many, and how they are trained.
        others: SPECs of other architectures.
        owners_recipe: whether the owner has one.
        start: where the victim began, and with it whatever is of its architecture.
        twins: which kind.
    """
    candidates = [_twin(i, arch, config, owners_recipe, start, twins) for i in range(config.twins)]
    make = _homologous if start == "random" else _related
    others = [o for o in others if start == "random" or o != arch]
    homologous = [make(i, arch, config, others, owners_recipe, start) for i in range(config.homologous)]
    surrogates = [
        _surrogate(k, name, arch, config, others, start)
        for k in range(config.surrogates)
        for name in ["victim"] + [t.name for t in candidates]
    ]
    return candidates + homologous + surrogates


def _twin(
    i: int, arch: str, config: PoolConfig, owners_recipe: bool, start: Start, kind: TwinKind
) -> TrainingJob:
    name = f"{PREFIXES[kind]}-{i:02d}"
    how: dict[TwinKind, TrainingMethod] = {"full": "train", "branch": "branch", "designated": "given"}
    return TrainingJob(
        name=name,
        relation="twin",
        candidate=None,
        kind="branch" if kind == "branch" else "twin",
        arch=arch,
        how=how[kind],
        share=1.0,
        epochs=config.epochs,
        rate=1.0 if start == "random" else TUNING_RATE,
        owners_recipe=owners_recipe,
        seed=job_seed(config.seed, name),
        start=start,
    )


def _homologous(
    i: int, arch: str, config: PoolConfig, others: Sequence[str], owners_recipe: bool, start: Start
) -> TrainingJob:
    """Architectures in turn, then shares of the data, epochs and rates.

    Every second one of the victim's architecture is made as the twins are, of other images: what they share
    by their recipe alone has to be known. On all images it would be a twin.
    """
    archs = [arch, *others]
    own, turn = archs[i % len(archs)], i // len(archs)
    share = SHARES[turn % len(SHARES)]
    as_twins = own == arch and turn % 2 == 1 and share < 1.0
    by_owner = owners_recipe and (as_twins if own == arch else i % 2 == 1)
    rate = RATE_FACTORS[(i + turn) % 2]
    return _innocent(i, own, config, share, rate, by_owner, start, arch, as_twins)


def _related(
    i: int, arch: str, config: PoolConfig, others: Sequence[str], owners_recipe: bool, start: Start
) -> TrainingJob:
    """As :func:`_homologous`, where the victim did not begin at random weights.

    Every second one is of its architecture and begins where it did: what such models share has to be known.
    The others begin at random, and by the default recipe, since the owner's may load weights.
    """
    mine = i % 2 == 0 or not others
    turn = i // 2 if others else i
    if mine:
        share, second = SHARES[turn % len(SHARES)], turn // 2 % 2  # shares come in pairs
        rate = TUNING_RATE * TUNING_FACTORS[second]
        as_twins = share < 1.0 and not second
        return _innocent(i, arch, config, share, rate, owners_recipe and as_twins, start, arch, as_twins)
    share = SHARES[turn // len(others) % len(SHARES)]
    rate = RATE_FACTORS[(turn + turn // len(others)) % 2]
    own = others[turn % len(others)]
    return _innocent(i, own, config, share, rate, False, "random", arch)


def _innocent(
    i: int,
    own: str,
    config: PoolConfig,
    share: float,
    rate: float,
    by_owner: bool,
    start: Start,
    arch: str,
    as_twins: bool = False,
) -> TrainingJob:
    """The i-th homologous model."""
    epochs = max(1, round(config.epochs * EPOCH_FACTORS[i % 3]))
    if as_twins:
        epochs, rate = config.epochs, 1.0 if start == "random" else TUNING_RATE
    elif own == arch and share == 1.0 and epochs == config.epochs:  # or it would be a twin
        rate = RATE_FACTORS[0] if start == "random" else TUNING_RATE * TUNING_FACTORS[0]
    name = f"homologous-{i:02d}"
    return TrainingJob(
        name=name,
        relation="homologous",
        candidate=None,
        kind="homologous",
        arch=own,
        how="train",
        share=share,
        epochs=epochs,
        rate=rate,
        owners_recipe=by_owner,
        seed=job_seed(config.seed, name),
        start=start if own == arch else "random",
    )


def _surrogate(
    k: int, candidate: str, arch: str, config: PoolConfig, others: Sequence[str], start: Start
) -> TrainingJob:
    """A thief's model. One of the victim's architecture begins where the victim did, as thieves may, too."""
    how, which, share = SURROGATES[k % len(SURROGATES)]
    turn = k // len(SURROGATES) + (1 if how == "hard" else 0)
    own = arch if which == "same" or not others else others[turn % len(others)]
    begin: Start = start if own == arch else "random"
    name = f"piracy-{candidate}-{k:02d}"
    return TrainingJob(
        name=name,
        relation="piracy",
        candidate=candidate,
        kind=f"{k:02d}-{how}-{_short(own)}-{share:g}",
        arch=own,
        how=how,
        share=share,
        epochs=config.epochs,
        rate=1.0 if begin == "random" or how == "finetune" else TUNING_RATE,
        owners_recipe=False,
        seed=job_seed(config.seed, name),
        start=begin,
    )


def _short(arch: str) -> str:
    """A name for humans: the network's, or the file's and factory's."""
    if arch.startswith("uapfast:"):
        return arch.removeprefix("uapfast:").partition("?")[0]
    return Path(arch).name.replace(":", "-")


def file_code_sha256(spec: str, base: Path | None = None) -> str | None:
    """SHA-256 of the file that ``FILE.py:NAME`` names, with what it imports from beside itself, or None."""
    path = arch_file(spec, base=base)
    return None if path is None or not path.is_file() else source_sha256(path)


def relative_arch(arch: str, folder: Path) -> str:
    """``arch`` as a manifest in ``folder`` has to write it: a file becomes relative to the folder."""
    path, _, function = arch.rpartition(":")
    if path.endswith(".py"):
        return f"{os.path.relpath(Path(path).resolve(), folder.resolve())}:{function}"
    return arch
