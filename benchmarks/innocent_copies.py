"""``python -m benchmarks.innocent_copies --out DIR``: are copies among a pool's innocents told from honest models?

On digits, one world for each network that ships as the victim: 12 twins and 40 honest models as ``uapfast pool``
trains them, then taken for a hand-made pool (whose honest models are refused where they are named), and six
fine-tuned copies of the victim. From each world pools are drawn at random: 0, 3, 6 or 12 twins, 12, 16 or 40
honest models, and 0, 1, 2, 4 or 6 copies among them. Named is whom ``copies_among_innocents`` finds at 0.001. The
rule that was in force before, one spread for all models of a pool, is judged on the same pools.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy import special

import uapfast
from uapfast._version import versions
from uapfast.config import ALPHA
from uapfast.data import Dataset, load_data
from uapfast.files import write_text
from uapfast.method import relatedness
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.method.scaling import Scaling
from uapfast.models.checkpoint import save_weights
from uapfast.models.nets import NETS
from uapfast.models.registry import resolve_arch
from uapfast.pool.attacks import fine_tune
from uapfast.pool.build import build_pool
from uapfast.pool.pool import Pool, PoolModel, load_pool
from uapfast.pool.recipe import default_recipe
from uapfast.models.model import as_model

TWINS, HONEST, COPIES, EPOCHS = 12, 40, 6, 10
THIEF = 300  # images that copies are fine-tuned on
TUNED = ((3, 1e-3), (10, 1e-3), (3, 3e-3), (20, 1e-3), (10, 3e-3), (5, 2e-3))  # passes and rate of each copy
CONFIG = uapfast.GenerateConfig(points=40, views=10, ray=(0.0,), min_fooling=0.0)
DRAWS = 12


class World:
    """One victim, its twins, honest models and copies, by rows of answers ``[M,V,B,n,R]``."""

    def __init__(self, out: Path, arch: str, images: int, seed: int) -> None:
        spec = f"uapfast:{arch}?size=8"
        folder = out / f"{arch}-{images}-{seed}"
        data = load_data("digits")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        own, theirs, unseen = order[:images], order[images : images + THIEF], order[images + THIEF :]
        manifest = self._pool(folder, spec, data.subset(own), seed)
        victim = resolve_arch(spec)()
        self.name = folder.name
        pool = load_pool(manifest)
        assert pool.victim is not None and pool.victim.model.module is not None
        victim = pool.victim.model.module
        copies = [
            fine_tune(victim, data.x(theirs), data.labels[theirs], epochs=e, lr=lr, seed=i)
            for i, (e, lr) in enumerate(TUNED)
        ]
        rows = tuple(
            PoolModel(f"copy-{i}", "homologous", None, "homologous", as_model(m)) for i, m in enumerate(copies)
        )
        names = frozenset(m.name for m in (*pool.homologous, *rows))
        # taken for models of uapfast's own, so that the reference is made whoever is named
        everybody = replace(pool, models=(*pool.models, *rows), trained=names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference = uapfast.generate(
                victim, data.images[unseen], data.labels[unseen], pool=everybody, config=CONFIG
            )
        self.answers = reference.answers.numpy()
        records = reference.records
        self.candidates = [i for i, r in enumerate(records) if r.relation in ("victim", "twin")]
        self.honest = [i for i, r in enumerate(records) if r.name.startswith("homologous")]
        self.copies = [i for i, r in enumerate(records) if r.name.startswith("copy")]
        self.names = [r.name for r in records]
        self.archs = {m.name: str(m.model.arch) for m in pool.models}

    @staticmethod
    def _pool(folder: Path, spec: str, data: Dataset, seed: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "victim.safetensors"
        if not weights.is_file():
            torch.manual_seed(1_000 + seed)
            save_weights(default_recipe(resolve_arch(spec)(), data.x(), data.labels, seed, epochs=EPOCHS), weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build_pool(
                spec, weights, data, folder / "pool", init="random", twins=TWINS, homologous=HONEST,
                surrogates=0, epochs=EPOCHS, seed=seed,
            )  # fmt: skip

    def scorer(self, candidates: list[int], innocents: list[int]) -> LineageScorer:
        """A pool of some of the models."""
        rows = [*candidates, *innocents]
        scaling = Scaling.of(self.answers[candidates])
        features = np.stack([scaling.features(one) for one in self.answers[rows]])
        count = len(candidates)
        roster = Roster(np.arange(count), np.arange(count, len(rows)), np.zeros((0, count), dtype=np.int64))
        return LineageScorer(features, roster)

    def pools(self, seed: int) -> Iterator[tuple[int, int, int, LineageScorer, set[int]]]:
        """Twins, innocents and copies of a pool, the pool, and its rows that are copies."""
        rng = np.random.default_rng(seed)
        for twins in (0, 3, 6, 12):
            for honest in (12, 16, 40):
                own = [self.candidates[0], *rng.choice(self.candidates[1:], twins, replace=False).tolist()]
                for copies in (0, 1, 2, 4, 6):
                    theirs = rng.choice(self.copies, copies, replace=False).tolist()
                    others = rng.choice(self.honest, honest - copies, replace=False).tolist()
                    first = len(own) + len(others)
                    scorer = self.scorer(own, [*others, *theirs])
                    yield twins, honest, copies, scorer, set(range(first, first + copies))


def one_spread(scores: np.ndarray[Any, Any], rest: np.ndarray[Any, Any]) -> list[relatedness.Copy]:
    """The rule that was in force before: all models of a pool have one spread."""
    count, candidates = rest.shape
    twins = candidates - 1
    if not twins:
        z = (scores - rest.mean()) / max(float(rest.std(ddof=1)), 1e-12)
    else:
        apart = rest - rest.mean(1, keepdims=True)
        spread = float(np.sqrt(np.square(apart).sum() / ((count - 1) * twins)))
        z = (scores - scores.mean(1, keepdims=True)) * (candidates / twins)
        z = z / max(spread, 1e-12) / np.sqrt(1.0 + 1.0 / twins)
    p = special.stdtr(count - 1, -z)
    if not twins:
        p = np.where(scores >= relatedness.ALONE, p, 1.0)
    p[:, 1:] *= max(twins, 1)
    place = p.argmin(1)
    return [relatedness.Copy(int(c), float(row[c])) for c, row in zip(place, p, strict=True)]


RULES = {"one spread": one_spread, "now": relatedness._stand_out}


def judge(world: World, draws: int) -> dict[tuple[str, int, int, int], list[tuple[int, int]]]:
    """Honest models and copies named in each pool, by rule, twins, innocents and copies."""
    found: dict[tuple[str, int, int, int], list[tuple[int, int]]] = defaultdict(list)
    for seed in range(draws):
        for twins, honest, copies, scorer, rows in world.pools(seed):
            for name, rule in RULES.items():
                with mock.patch.object(relatedness, "_stand_out", rule):
                    named = set(relatedness.copies_among_innocents(scorer, ALPHA))
                found[name, twins, honest, copies].append((len(named - rows), len(named & rows)))
    return found
