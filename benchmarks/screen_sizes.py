"""Does a screen of thousands convict what the full budget convicts?

    python -m benchmarks.screen_sizes [--work DIR] [--rows 30000]

Real networks on scikit-learn's digits: a victim, 12 twins, 40 innocents, 24 further honest models, and 30
files of one fine-tuned copy with noise on its weights. Their scores, view by view, are drawn from anew: a
suspect is ``m + cos(a) (s_i - m) + sin(a) (s_j - m)`` of two of its kind (m their mean), which keeps mean and
spread. One suspect in a hundred is a copy; weak copies are moved towards the mean of the honest. The product
decides on all views, and with early stopping. Four minutes on one slow core; what was trained is kept in DIR.
Writes ``benchmarks/results/screen_sizes.md``.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import uapfast
from uapfast.config import ALPHA
from uapfast.data import load_data
from uapfast.files import make_folder, write_text
from uapfast.method.decision import Outcome, decide
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.method.sequential import Background, Looks, Stopper
from uapfast.method.standing import assessment
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.models.model import as_model
from uapfast.pool import attacks
from uapfast.pool.recipe import default_recipe
from uapfast.pool.train import fresh_model
from uapfast.screening.table.correction import q_values
from uapfast.verbs.encode import features_of

RESULTS = Path(__file__).parent / "results" / "screen_sizes.md"
NETWORKS = ("resnet", "vgg", "depthwise", "cnn")
SIZES, POOLS, EVERY, FDR = (300, 3_000, 30_000), (8, 16, 40), 100, 0.05
TWINS, HONEST, COPIES, NOISE = 12, 24, 30, 0.02
KEPT = {"fine-tuned": 1.0, "weak": 0.7}  # of what sets copies apart

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Of some suspects: ``own [S,V,C]``, and the innocents' beside each, ``rest [S,n,V,C]``."""

    own: Array
    rest: Array


@dataclass(frozen=True)
class Screened:
    """Of every row: decided on all views, and with early stopping; views asked."""

    full: list[Outcome]
    early: list[Outcome]
    views: NDArray[np.int64]


def arch(network: str) -> str:
    """SPEC of a small network."""
    return f"uapfast:{network}-small?channels=1&classes=10&size=8"


def features(work: Path) -> tuple[LineageScorer, list[Array], list[Array]]:
    """The pool's scorer, and features of the honest models and of the copies; trains what is missing."""
    data, test = load_data("digits:train"), load_data("digits:test")
    x, y = data.x(), data.labels
    half = len(x) // 2

    def train(label: str, spec: str, part: slice, seed: int) -> nn.Module:
        path = work / f"{label}.safetensors"
        if not path.exists():
            save_weights(default_recipe(fresh_model(spec, seed), x[part], y[part], seed, epochs=8), path)
        module = load_model(spec, path).module
        assert module is not None
        return module

    own, other = slice(0, half), slice(half, None)
    victim = train("victim", arch("resnet"), own, 0)
    reference = work / "victim.uapref"
    if not reference.exists():
        twins = [train(f"twin-{s}", arch("resnet"), own, s) for s in range(1, TWINS + 1)]
        pool = [
            train(f"pool-{s}", arch(NETWORKS[s % 4]), (own, other)[s % 3 == 0], 100 + s)
            for s in range(max(POOLS))
        ]
        made = uapfast.Pool.from_models(twins=twins, homologous=pool)
        config = uapfast.GenerateConfig(uap_images=300, min_fooling=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            uapfast.generate(victim, test.x(), test.labels, pool=made, config=config).save(reference)
    ref = uapfast.load(reference)

    def asked(model: nn.Module) -> Array:
        return np.asarray(features_of(ref, as_model(model))[0])

    honest = [
        asked(train(f"honest-{s}", arch(NETWORKS[s % 4]), (own, other)[s % 3 == 0], 200 + s))
        for s in range(HONEST)
    ]
    tuned = attacks.fine_tune(victim, x[other][:300], y[other][:300], epochs=1, lr=3e-4)
    copies = [asked(noisy(tuned, s)) for s in range(COPIES)]
    scorer = ref.statistic.scorer()
    assert isinstance(scorer, LineageScorer)
    return scorer, honest, copies


def noisy(model: nn.Module, seed: int) -> nn.Module:
    """The same network with relative noise on its weights."""
    found = attacks.prune(model, 0.0)  # a copy
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in found.parameters():
            p.mul_(1 + NOISE * torch.randn(p.shape, generator=generator))
    return found


def with_innocents(scorer: LineageScorer, count: int) -> LineageScorer:
    """The scorer of the same pool with its first ``count`` innocents."""
    r = scorer.roster
    return LineageScorer(scorer.pool, Roster(r.candidates, r.innocents[:count], r.surrogates))


def score(scorer: LineageScorer, some: list[Array]) -> Scores:
    """Score real suspects."""
    found = [scorer.scores(one.astype(np.float32)) for one in some]
    return Scores(np.stack([f[0] for f in found]), np.stack([f[1] for f in found]))


def draw(scores: Scores, rng: np.random.Generator) -> tuple[Array, Array]:
    """One more suspect of a kind, and the innocents beside it."""
    i, j = rng.choice(len(scores.own), 2, replace=False)
    angle, mean = rng.uniform(0, 2 * np.pi), scores.own.mean(0)
    moved = np.cos(angle) * (scores.own[i] - mean) + np.sin(angle) * (scores.own[j] - mean)
    return mean + moved, scores.rest[i]


def screen(honest: Scores, copies: Scores, background: Background, rows: int, kept: float) -> Screened:
    """Every hundredth row a copy; decided on all views, and with early stopping."""
    rng = np.random.default_rng(rows)
    looks = Looks.default(honest.own.shape[1])
    full, early, views = [], [], []
    for row in range(rows):
        own, rest = draw(copies if row % EVERY == 0 else honest, rng)
        if row % EVERY == 0:
            own = kept * own + (1 - kept) * honest.own.mean(0)
        full.append(decide(assessment(own, rest), ALPHA))
        stopper = Stopper(looks, background, ALPHA)
        stop = next(s for k in looks.views if (s := stopper.look(own[:k], rest[:, :k])) is not None)
        early.append(stop.outcome)
        views.append(stop.views)
    return Screened(full, early, np.array(views))


def convicted(outcomes: list[Outcome]) -> NDArray[np.bool_]:
    """Who is convicted among so many: by the decision, and by the q-value."""
    q = np.array(q_values([o.p for o in outcomes], ALPHA))
    return np.array([o.decision == "piracy" for o in outcomes]) & (q <= FDR)


def lines(name: str, pool: int, found: Screened, sizes: list[int]) -> list[str]:
    """Rows of the table."""
    out = []
    for size in sizes:
        full, early = convicted(found.full[:size]), convicted(found.early[:size])
        copy = np.arange(size) % EVERY == 0
        asked = found.views[:size].mean() / found.views.max()
        cells = (
            name, pool, f"{size:,}", copy.sum(), full[copy].sum(), early[copy].sum(), (full & ~early).sum(),
            full[~copy].sum(), early[~copy].sum(), f"{asked:.1%}",
        )  # fmt: skip
        out.append("| " + " | ".join(str(c) for c in cells) + " |")
        print(out[-1], flush=True)
    return out


HEADS = (
    "copies", "innocents in the pool", "rows", "of them copies", "convicted by the full budget",
    "convicted when stopping early", "lost", "innocents accused by the full budget",
    "and when stopping early", "queries asked",
)  # fmt: skip


def main() -> None:
    """Train, draw, decide, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path)
    parser.add_argument("--rows", type=int, default=max(SIZES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        whole, honest, copies = features(make_folder(args.work or Path(temporary)))
    sizes = [s for s in SIZES if s < args.rows] + [args.rows]
    table = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    for pool in POOLS:
        scorer = with_innocents(whole, pool)
        background = Background.of(scorer)
        real = score(scorer, honest), score(scorer, copies)
        for name, kept in KEPT.items():
            table += lines(name, pool, screen(*real, background, args.rows, kept), sizes)
    write_text(RESULTS, TEXT.format(table="\n".join(table), alpha=ALPHA, fdr=FDR))


TEXT = """# Screens of many rows: convicted when stopping early, and by the full budget

Made by `python -m benchmarks.screen_sizes`; what the suspects are is in that file's head. Level {alpha:g},
q-values at most {fdr:g}, one row in a hundred a copy.

{table}
"""

if __name__ == "__main__":
    main()
