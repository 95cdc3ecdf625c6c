"""Verdicts in the transfer world: level, power, and what a pool says that does not know the backbone.

    python -m benchmarks.detection transfer-judge --zoo DIR    (from the repository's root)

Every model answers every held-out image once, end to end (``recorded``); references are then made by the
product from subsets of the pool. Writes ``benchmarks/results/transfer.md``.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import uapfast
from benchmarks.detection import few_twins
from benchmarks.detection.few_twins import DEGRADED, Kept
from benchmarks.detection.make import Place
from benchmarks.detection.options import parser_for
from benchmarks.detection.plan import Item, all_items
from benchmarks.detection.recorded import Images, degraded_forms, pool_models, suspects, victim_of
from benchmarks.detection.rules import RULES
from benchmarks.detection.subsets import Suspect, keep_scores, seen_by
from benchmarks.detection.table import head, line
from benchmarks.detection.transfer import STRANGERS, require_backbones
from benchmarks.detection.transfer_plan import TUNED, VICTIM
from benchmarks.detection.zoo import open_zoo
from uapfast.files import write_text
from uapfast.models.model import Model
from uapfast.pool.pool import Pool, PoolModel
from uapfast.reference import Reference

RESULTS = Path(__file__).parents[1] / "results"
PRODUCT = "widened 2"  # of benchmarks.detection.rules: the product's
LEVELS = (0.05, 0.01, 0.001)
# what the owner knows, and what then ``pool.json`` says
STARTS: dict[str, dict[str, str] | None] = {
    "knows": {"start": "factory"},
    "strangers": None,
}
FEWER = (4, 3, 2)  # twins of the references whose verdicts are shown
console = Console(stderr=True)


def group(item: Item) -> str:
    """The row of the tables."""
    if item.group == "modified":
        return "direct modification"
    if item.group == "retrained":
        return "last layer drawn anew"
    arch = item.arch if item.arch in TUNED else "scratch"
    if item.group == "innocent":
        if arch != VICTIM:
            return f"honest, {arch}"
        return f"honest, {arch}, {'the owner' if item.settings['images'] == 'owner' else 'other'}'s images"
    return f"student, {item.settings['labels']} labels, {arch}"


def honest(name: str) -> bool:
    """Whether a group's models were made without the victim."""
    return name.startswith("honest")


@dataclass(frozen=True)
class World:
    """Everybody, as answers."""

    place: Place
    victim: Model
    pool: tuple[tuple[PoolModel, str], ...]
    more: tuple[PoolModel, ...]
    suspects: tuple[tuple[Item, Model], ...]
    degraded: tuple[tuple[Item, str, Model], ...]

    @classmethod
    def of(cls, place: Place, degrades: int) -> World:
        """Read, and ask whoever was not asked yet.

        Args:
            place: of the zoo.
            degrades: how many honest models of each kind are degraded as well.
        """
        images = Images(place.data("heldout").x())
        victim = victim_of(place, VICTIM, images)
        folder = place.out / VICTIM
        pool, more = (pool_models(place, folder / name, images) for name in ("pool", STRANGERS))
        made = [i for i in all_items(place.size) if place.suspect_path(i.name).with_suffix(".json").exists()]
        found = dict(suspects(place, images, [i.name for i in made]))
        chosen: list[Item] = []
        for item in made:
            if item.victim is None and sum(group(i) == group(item) for i in chosen) < degrades:
                chosen.append(item)
        worse = [(i, how, m) for i in chosen for how, m in degraded_forms(place, images, i.name, i.arch)]
        asked = tuple((i, found[i.name]) for i in made)
        return cls(place, victim, tuple(pool), tuple(m for m, _ in more), asked, tuple(worse))

    def reference(self, count: int, knows: str) -> Reference:
        """The product's reference with the first twins, for a key of ``STARTS``."""
        twins = [m for m, _ in self.pool if m.relation == "twin"][:count]
        honest = [m for m, arch in self.pool if m.relation == "homologous" and arch != VICTIM]
        if knows == "strangers":
            honest += self.more
        else:
            honest += [m for m, arch in self.pool if m.relation == "homologous" and arch == VICTIM]
        models = (*twins, *honest)
        trained = frozenset(m.name for m in models if m.relation == "homologous")
        data = self.place.data("heldout")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", uapfast.errors.UapfastWarning)
            return uapfast.generate(
                self.victim,
                data.images,
                data.labels,
                pool=Pool(models, STARTS[knows], trained=trained),
                config=replace(uapfast.GenerateConfig(), ray=(0.0,)),
            )

    def asked(self, reference: Reference) -> Iterator[Suspect]:
        """Every suspect, and the degraded ones."""
        for item, model in self.suspects:
            yield seen_by(reference, item.name, group(item), -1 if item.victim is None else 0, model)
        for item, how, model in self.degraded:
            yield seen_by(reference, item.name, how, -1, model)


def level_rows(kept: Kept, pool: str, groups: Sequence[str]) -> Iterator[str]:
    """Shares of honest models accused, every candidate of a subset in the victim's place."""
    for twins in sorted({int(t) for t in np.unique(kept.twins)}):
        rows = [*(g for g in groups if honest(g)), "honest, all"]
        for name in [*rows, "degraded"] if np.isin(kept.kind, DEGRADED).any() else rows:
            kinds = (name,)
            if name == "honest, all":
                kinds = tuple(g for g in groups if honest(g))
            elif name == "degraded":
                kinds = DEGRADED
            names, p = few_twins.accused(kept, PRODUCT, kinds, twins, (0, 1))
            cells = []
            for level in LEVELS:
                rate, low, high = few_twins.interval(names, (p <= level).mean(1))
                cells.append(f"{100 * rate:.2f} ({100 * low:.2f}-{100 * high:.2f})")
            cells.append(f"{p.min():.2g}")
            yield line(pool, twins, name, len(np.unique(names)), *cells)


def power_rows(kept: Kept, pool: str, groups: Sequence[str]) -> Iterator[str]:
    """Copies convicted at .001 and at .01, and ranked first, means over subsets."""
    for twins in sorted({int(t) for t in np.unique(kept.twins)}):
        cells = []
        for name in (g for g in groups if not honest(g)):
            rows = (kept.kind == name) & (kept.twins == twins)
            runs, who = kept.runs(rows), kept.suspect[rows]
            p = RULES[PRODUCT](runs)
            shares = [mean_share(who, p <= level) for level in (0.001, 0.01)]
            cells.append(f"{shares[0]:.1f} / {shares[1]:.1f} / {mean_share(who, runs.first):.1f}")
        yield line(pool, twins, *cells)


def mean_share(names: NDArray[np.str_], hits: NDArray[np.bool_]) -> float:
    """Sum over models of the share of their subsets in which something holds."""
    return float(sum(hits[names == name].mean() for name in np.unique(names)))


@dataclass(frozen=True)
class Judged:
    """The product's verdicts by one reference."""

    title: str
    reference: Reference
    rows: dict[str, list[uapfast.Verdict]]

    @classmethod
    def of(cls, world: World, title: str, reference: Reference) -> Judged:
        """Verify everybody."""
        rows: dict[str, list[uapfast.Verdict]] = {}
        for item, model in world.suspects:
            rows.setdefault(group(item), []).append(uapfast.verify(reference, model))
        return cls(title, reference, rows)

    def lines(self) -> Iterator[str]:
        """Decisions of each group, and the smallest p."""
        for name, verdicts in self.rows.items():
            said = Counter(v.decision for v in verdicts)
            p = [v.p_value for v in verdicts if v.p_value is not None]
            shown = [said[d] for d in ("piracy", "inconclusive", "independent", "invalid")]
            first = sum(v.rank == 1 for v in verdicts)
            least, median = (f"{f(p):.2g}" if p else "-" for f in (min, np.median))
            yield line(self.title, name, len(verdicts), *shown, first, least, median)

    def told(self) -> str:
        """What the reference warns of, as Markdown."""
        found = [f"limit: {text}" for text in self.reference.limits]
        found += [f"warning: {text}" for text in self.reference.warnings]
        return "\n".join([f"**{self.title}**", "", *(f"* {text}" for text in found or ["nothing"]), ""])


def references(world: World) -> dict[tuple[str, int], Reference]:
    """Every reference, by what its owner knows and its number of twins."""
    return {(knows, n): world.reference(n, knows) for knows in STARTS for n in FEWER}


def kept_of(world: World, knows: str, reference: Reference) -> Kept:
    """Scores of everybody with subsets of twins."""
    path = world.place.out / f"transfer-{knows}.npz"
    return Kept.of(keep_scores(reference, world.asked(reference), False, path))


def text(world: World, degraded: int) -> str:
    """The page; ``degraded`` as the command was given it."""
    place = world.place
    groups = list(dict.fromkeys(group(item) for item, _ in world.suspects))
    made = references(world)
    kept = {k: kept_of(world, k, made[k, place.size.twins]) for k in STARTS}
    verdicts = [Judged.of(world, f"{k}, {n} twins", reference) for (k, n), reference in made.items()]
    accuracy: dict[str, list[float]] = {}
    for item, _ in world.suspects:
        record = json.loads(place.suspect_path(item.name).with_suffix(".json").read_text())
        accuracy.setdefault(group(item), []).append(record["test_accuracy"])
    copies = [g for g in groups if not honest(g)]
    counts = {g: len(accuracy[g]) for g in groups}
    columns = ("accused at 0.05, % (95 %)", "at 0.01", "at 0.001", "smallest p")
    levels = head("pool", "twins", "who", "models", *columns)
    power = head("pool", "twins", *(f"{g} (of {counts[g]})" for g in copies))
    decided = head(
        "pool", "who", "models", "piracy", "inconclusive", "independent", "invalid", "victim first",
        "smallest p", "median p",
    )  # fmt: skip
    homologous = [arch for m, arch in world.pool if m.relation == "homologous"]
    victim = json.loads(place.victim_path(VICTIM).with_suffix(".json").read_text())
    return TEXT.format(
        degraded=degraded,
        size=place.size,
        accuracy=victim["test_accuracy"],
        innocents=len(homologous),
        known=homologous.count(VICTIM),
        more=len(world.more),
        points=verdicts[0].reference.plan.queries,
        who="\n".join(
            [
                *head("who", "models", "test accuracy"),
                *(line(g, counts[g], f"{min(a):.3f}-{max(a):.3f}") for g, a in accuracy.items()),
            ]
        ),
        levels="\n".join([*levels, *(row for n, k in kept.items() for row in level_rows(k, n, groups))]),
        power="\n".join([*power, *(row for n, k in kept.items() for row in power_rows(k, n, groups))]),
        verdicts="\n".join([*decided, *(row for one in verdicts for row in one.lines())]),
        told="\n".join(one.told() for one in verdicts),
    )


def main() -> None:
    """Judge and write."""
    parser = parser_for(__doc__)
    parser.add_argument("--degraded", type=int, default=2, metavar="N", help="honest models of each kind")
    parser.add_argument("--out", type=Path, default=RESULTS / "transfer.md")
    args = parser.parse_args()
    require_backbones()
    content = text(World.of(open_zoo(args.zoo), args.degraded), args.degraded)
    write_text(args.out, content)
    console.print(content, soft_wrap=True)


TEXT = """# The transfer world

Made by `python -m benchmarks.detection transfer --out DIR` and
`python -m benchmarks.detection transfer-judge --zoo DIR --degraded {degraded}`.

Fashion-MNIST enlarged to 48 px. The victim (test
accuracy {accuracy}) is EfficientNet-lite0 at its public ImageNet weights, fine-tuned on {size.owner} images
of the owner; all is frozen but the last block, the head and the new last layer. Its pool is that of
`uapfast pool --init factory --recipe`: {size.twins} twins, no surrogates, {innocents} homologous models,
{known} of them from the backbone, the others small networks from scratch. Thieves have {size.thief} other
images. References ask {points} held-out images. No suspect is in the pool.

{who}

## Level: honest models accused, every candidate in the victim's place

`knows`: the pool as it is. `strangers`: the same twins, but instead of the homologous models from the
backbone {more} more from scratch (an owner who made the twins rightly and took models from scratch as
innocents). Subsets of the twins as in `few_twins`; intervals by model. Degraded: 4 and 3 bits, 70 and 90 %
pruned, noise.

{levels}

## Power: copies convicted at 0.001 / at 0.01 / victim first, means over subsets of twins

{power}

## What the product says

`generate` with the first twins, `verify` of everybody, at 0.001. `strangers` does not say where the victim
began.

{verdicts}

### What these references warn of

{told}"""

if __name__ == "__main__":
    main()
