"""``python -m benchmarks.innocent_copies --out DIR``: are copies among innocents told from honest models?

On digits, 600 images: 40 honest models of the five networks that ship, trained on all or half of the images;
for each victim its 12 twins and six fine-tuned copies of it. Pools are drawn at random: 3, 6 or 12 twins, 12,
16 or 40 innocents, 0, 1, 2, 4 or 6 of them copies. *Named* is whom ``copies_among_innocents`` finds at .001,
which is whom the rule before refused; *refused* now is who stands out in its own scale as well, the others
are warned of. *By kind* is a rule that was tried: named by the spread of the models of its own architecture,
moderated with that of all (``SHRINK`` models' worth). Models are kept in DIR; the page is written anew after
every victim.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from uapfast._version import versions
from uapfast.config import ALPHA
from uapfast.data import load_data
from uapfast.files import write_text
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.method.points import disagreement
from uapfast.method.relatedness import LEAST_LEFT, MOST_REMOVED, copies_among_innocents
from uapfast.method.scaling import Scaling
from uapfast.models.checkpoint import fill, read_weights, save_weights
from uapfast.models.registry import resolve_arch
from uapfast.pool.attacks import fine_tune
from uapfast.pool.recipe import default_recipe
from uapfast.pool.train import predict

EPOCHS = {"mlp-small": 60, "cnn-small": 20, "vgg-small": 10, "resnet-small": 10, "depthwise-small": 10}
OWNED, THIEF, TWINS, EACH = 600, 300, 12, 8  # images, and models of each kind
SHARES, RATES = (1.0, 0.5), (0.003, 0.01)  # of honest models, in turn
TUNED = ((3, 1e-3), (10, 1e-3), (3, 3e-3), (20, 1e-3), (10, 3e-3), (5, 2e-3))  # passes and rate of each copy
VIEWS, POINTS = 10, 40
SHRINK = 4.0  # models that the usual spread of all architectures counts for beside those of one
SIZES = [(twins, n) for twins in (3, 6, 12) for n in (12, 16, 40)]


class World:
    """The models that all victims share, trained when they are wanted."""

    def __init__(self, out: Path) -> None:
        self.out, self.data = out, load_data("digits")
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(0))
        self.own, self.theirs = order[:OWNED], order[OWNED : OWNED + THIEF]
        self.unseen = self.data.x(order[OWNED + THIEF :])
        out.mkdir(parents=True, exist_ok=True)
        self.honest = torch.stack(
            [self.answers(self.honest_model(a, i)) for i in range(EACH) for a in EPOCHS]
        )

    def model(self, arch: str, name: str, seed: int, rows: Tensor, rate: float = 0.01) -> nn.Module:
        """One model of the default recipe, from its file if it is there."""
        torch.manual_seed(seed)
        model, path = resolve_arch(f"uapfast:{arch}?size=8")(), self.out / f"{arch}-{name}.safetensors"
        if path.is_file():
            fill(model, read_weights(path), path)
            return model.eval()
        x, y = self.data.x(rows), self.data.labels[rows]
        default_recipe(model, x, y, seed, epochs=EPOCHS[arch], learning_rate=rate)
        save_weights(model, path)
        return model

    def honest_model(self, arch: str, number: int) -> nn.Module:
        """Never the twins' recipe: fewer images, or another rate."""
        seed = 5_000 + number
        drawn = torch.randperm(OWNED, generator=torch.Generator().manual_seed(seed))
        rows = self.own[drawn[: round(SHARES[number % 2] * OWNED)]]
        return self.model(arch, f"honest-{number}", seed, rows, RATES[number // 2 % 2 if number % 2 else 0])

    def answers(self, model: nn.Module) -> Tensor:
        return predict(model, self.unseen)

    def of(self, arch: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Answers ``[M,V,B,n,K]`` of the candidates, the honest models, and the copies of the victim."""
        candidates = [self.model(arch, f"candidate-{i}", 100 + i, self.own) for i in range(TWINS + 1)]
        x, y = self.data.x(self.theirs), self.data.labels[self.theirs]
        copies = [fine_tune(candidates[0], x, y, epochs=e, lr=r, seed=i) for i, (e, r) in enumerate(TUNED)]
        parts = [torch.stack([self.answers(m) for m in ms]) for ms in (candidates, copies)]
        asked = disagreement(torch.cat([parts[0], self.honest]).numpy())
        points = np.random.default_rng(0).permutation(np.argsort(-asked)[: VIEWS * POINTS])
        found = [
            p.numpy()[:, points].reshape(len(p), VIEWS, 1, POINTS, -1)
            for p in (parts[0], self.honest, parts[1])
        ]
        return found[0], found[1], found[2]


def scorer(candidates: np.ndarray, innocents: np.ndarray) -> LineageScorer:
    """A pool of these models."""
    scaling, count = Scaling.of(candidates), len(candidates)
    features = np.stack([scaling.features(one) for one in (*candidates, *innocents)])
    roster = Roster(np.arange(count), np.arange(count, len(features)), np.zeros((0, count), dtype=np.int64))
    return LineageScorer(features, roster)


def by_kind(pool: LineageScorer, kinds: dict[int, str], alpha: float) -> set[int]:
    """Rows named as ``copies_among_innocents`` names them, each in the spread of its own architecture."""
    left, out, found = [int(i) for i in pool.roster.innocents], [], set[int]()
    base = pool
    for _ in range(min(MOST_REMOVED, len(left) // 2, len(left) - LEAST_LEFT)):
        scores = base.innocent_scores()[0]
        first = int(np.argmin(_chances(scores, left, scores, left, kinds)))
        out.append(left.pop(first))
        base = pool.with_innocents(np.array(left))
        own = np.stack([base.scores(base.pool[row])[0].mean(0) for row in out])
        if (_chances(own, out, base.innocent_scores()[0], left, kinds) <= alpha).all():
            found = set(out)
    return found


def _chances(
    scores: np.ndarray, rows: list[int], rest: np.ndarray, others: list[int], kinds: dict[int, str]
) -> np.ndarray:
    """p of each of ``rows`` with its nearest candidate; for a twin times their number."""
    twins = rest.shape[1] - 1
    variance = rest.var(1, ddof=1)
    out = []
    for row, score in zip(rows, scores, strict=True):
        same = np.array([kinds[other] == kinds[row] and other != row for other in others])
        spread = np.sqrt((SHRINK * variance.mean() + variance[same].sum()) / (SHRINK + same.sum()))
        z = (score - score.mean()) * (twins + 1) / twins / spread / np.sqrt(1 + 1 / twins)
        p = special.stdtr((SHRINK + same.sum()) * twins, -z)
        out.append(min(p[0], twins * p[1:].min()))
    return np.array(out)


def judge(world: World, arch: str, draws: int) -> dict[int, Counter[str]]:
    """What is named and refused, by the number of copies, over all sizes of pools."""
    candidates, honest, copies = world.of(arch)
    out: dict[int, Counter[str]] = {}
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        for twins, n in SIZES:
            for k in (0, 1, 2, 4, 6):
                own = np.r_[0, 1 + rng.choice(TWINS, twins, replace=False)]
                some = rng.choice(len(honest), n - k, replace=False)
                theirs = rng.choice(len(copies), k, replace=False)
                pool = scorer(candidates[own], np.concatenate([honest[some], copies[theirs]]))
                found = copies_among_innocents(pool, ALPHA)
                archs = [list(EPOCHS)[i % len(EPOCHS)] for i in some] + [arch] * k
                kinds = dict(zip((int(i) for i in pool.roster.innocents), archs, strict=True))
                tried = by_kind(pool, kinds, ALPHA)
                first, count = len(own) + n - k, out.setdefault(k, Counter())
                for row, copy in found.items():
                    who = "copies" if row >= first else "honest"
                    count[f"{who} named"] += 1
                    count[f"{who} refused"] += copy.sure
                count["pools"] += 1
                count["copies by kind"] += sum(row >= first for row in tried)
                count["pools with an honest model by kind"] += any(row < first for row in tried)
                count["pools with a copy by kind"] += any(row >= first for row in tried)
                count["copies"] += k
                wrong = [copy for row, copy in found.items() if row < first]
                count["pools with an honest model named"] += bool(wrong)
                count["pools with an honest model refused"] += any(copy.sure for copy in wrong)
                count["pools with a copy named"] += any(row >= first for row in found)
                count["pools with a copy refused"] += any(c.sure for row, c in found.items() if row >= first)
    return out


def page(found: dict[str, dict[int, Counter[str]]], draws: int) -> str:
    """The table."""
    said = [
        "# Copies among a pool's innocents", "",
        f"`python -m benchmarks.innocent_copies --draws {draws} --victims {' '.join(found)}`",
        f"({len(SIZES) * draws} pools a line: 3, 6,",
        "12 twins by 12, 16, 40 innocents). *Before*: named by one scale for all models, which was refused.",
        "*Now*: refused only if it stands out in its own scale, too; who else is named is warned of.",
        "*By kind*, tried: named by the spread of its own architecture, moderated with that of all.", "",
        "| victim | copies in the pool | an honest model is refused, of all pools: before | now | by kind | "
        "a copy is refused, of all pools: before | now | by kind | copies named (refused or warned of) | "
        "by kind |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for arch, by_copies in found.items():
        for k, c in sorted(by_copies.items()):
            both = [
                f"{c[f'pools with {who} {how}']} of {c['pools']}"
                for who in ("an honest model", "a copy")
                for how in ("named", "refused", "by kind")
            ]
            shown = [f"{c[f'copies {how}']} of {c['copies']}" if k else "" for how in ("named", "by kind")]
            said.append(
                f"| {arch} | {k} | {' | '.join([*(both if k else [*both[:3], '', '', '']), *shown])} |"
            )
    told = versions()
    return "\n".join([*said, "", ", ".join(f"{name} {value}" for name, value in told.items() if value), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--victims", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--result", type=Path, default=Path("benchmarks/results/innocent_copies.md"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    world, found = World(given.out), {}
    for arch in given.victims:
        found[arch] = judge(world, arch, given.draws)
        write_text(given.result, page(found, given.draws))


if __name__ == "__main__":
    main()
