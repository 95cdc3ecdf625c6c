"""``python -m benchmarks.related_innocents --out DIR``: how many innocents must know the victim's backbone?

On digits. A victim and its twins are fine-tuned from one backbone: *near* (the backbone knew the task, four
passes) or *new task* (it knew five classes; a new head, twelve passes); or they are trained from scratch.
Pools of 24 innocents, k of them fine-tuned from that backbone as ``uapfast pool --init`` makes them, the
others from scratch. Suspects are in no pool: honest fine-tunings of the same backbone, on the owner's images
(half of them by the twins' very recipe) and on others, and models from scratch. Level: every candidate in the
victim's place. *Closeness* (:func:`uapfast.method.relatedness.closeness`) is what a reference sees of it.
Answers and p-values are kept in DIR; a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.detection.few_twins import interval
from benchmarks.detection.table import head, line
from uapfast._version import versions
from uapfast.config import ALPHA
from uapfast.data import load_data
from uapfast.files import atomic_path, write_text
from uapfast.method.decision import decide
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.method.points import disagreement
from uapfast.method.relatedness import closeness
from uapfast.method.scaling import Scaling
from uapfast.method.standing import assessment
from uapfast.models.registry import resolve_arch
from uapfast.pool.recipe import default_recipe
from uapfast.pool.train import predict

ARCHS = ("resnet-small", "cnn-small")  # of victims
EPOCHS = {"mlp-small": 60, "cnn-small": 20, "vgg-small": 10, "resnet-small": 10, "depthwise-small": 10}
STARTS = ("near", "new task", "scratch")
BACKBONE, OWNED, THEIRS = 300, 300, 300  # images; the others are asked
TWINS, RELATED, STRANGERS, SUSPECTS = 8, 12, 24, 10  # models of each kind
PASSES = {"near": 4, "new task": 12}
RATE, SCRATCH = 2e-3, 1e-2
SHARES = (1.0, 1.0, 0.5, 0.5, 0.25, 0.25)  # of the owner's images: related innocents, two at a time
VIEWS, POINTS, INNOCENTS = 10, 40, 24
SOME_TWINS, SOME_RELATED = (2, 3, 4, 8), (0, 1, 2, 3, 4, 6, 8, 12)
LEVELS = (0.05, 0.01, ALPHA)
AT = [f"accused at {level:g}, % (95 %)" for level in LEVELS]


@dataclass(frozen=True)
class Answers:
    """Probabilities ``[M,N,K]`` of one world's models on the images that nobody was trained on."""

    candidates: NDArray[np.float32]
    related: NDArray[np.float32]
    strangers: NDArray[np.float32]
    owners: NDArray[np.float32]  # honest suspects: from the same start, on the owner's images
    others: NDArray[np.float32]  # the same on others' images
    scratch: NDArray[np.float32]  # honest suspects from scratch


class World:
    """One split of the digits, and one victim's architecture and start."""

    def __init__(self, arch: str, start: str, seed: int) -> None:
        data = load_data("digits")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        ends = np.cumsum([BACKBONE, OWNED, THEIRS]).tolist()
        self.data, self.arch, self.start, self.seed = data, arch, start, seed
        self.first, self.own, self.theirs = (
            order[: ends[0]],
            order[ends[0] : ends[1]],
            order[ends[1] : ends[2]],
        )
        self.unseen = data.x(order[ends[2] :])
        self.began = self._backbone() if start != "scratch" else None

    def _fresh(self, arch: str, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return resolve_arch(f"uapfast:{arch}?size=8")()

    def _trained(self, model: nn.Module, rows: Tensor, seed: int, passes: int, rate: float) -> nn.Module:
        return default_recipe(
            model, self.data.x(rows), self.data.labels[rows], seed, epochs=passes, learning_rate=rate
        )

    def _backbone(self) -> dict[str, Tensor]:
        known = self.first if self.start == "near" else self.first[self.data.labels[self.first] < 5]
        model = self._trained(self._fresh(self.arch, self.seed), known, self.seed, EPOCHS[self.arch], SCRATCH)
        return model.state_dict()

    def tuned(self, number: int, rows: Tensor, passes: float = 1.0, rate: float = 1.0) -> Tensor:
        """A model that begins where the victim did; factors of the victim's passes and rate."""
        seed = 10_000 * self.seed + number
        model = self._fresh(self.arch, seed)
        if self.began is None:
            whole, peak = EPOCHS[self.arch], SCRATCH
        else:
            head_names = list(self.began)[-2:] if self.start == "new task" else []
            kept = {name: t for name, t in self.began.items() if name not in head_names}
            model.load_state_dict(model.state_dict() | kept)
            whole, peak = PASSES[self.start], RATE
        return self.asked(self._trained(model, rows, seed, max(1, round(passes * whole)), rate * peak))

    def foreign(self, number: int, rows: Tensor) -> Tensor:
        """A model from scratch, of the five networks in turn."""
        arch, seed = list(EPOCHS)[number % len(EPOCHS)], 10_000 * self.seed + 5_000 + number
        rate = SCRATCH * (0.3, 1.0)[number // len(EPOCHS) % 2]
        return self.asked(self._trained(self._fresh(arch, seed), rows, seed, EPOCHS[arch], rate))

    def asked(self, model: nn.Module) -> Tensor:
        return predict(model, self.unseen)

    def part(self, rows: Tensor, share: float, seed: int) -> Tensor:
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        return rows[drawn[: round(share * len(rows))]]

    def _innocent(self, i: int) -> Tensor:
        """As ``uapfast pool --init`` has them: of parts of the images as the twins, or otherwise."""
        share, odd = SHARES[i % len(SHARES)], i % 2
        rows = self.part(self.own, share, 300 + i)
        as_twins = share < 1 and not odd
        return self.tuned(300 + i, rows, *((1.0, 1.0) if as_twins else ((0.6, 1.5)[odd], 0.5)))

    def _suspect(self, i: int, rows: Tensor) -> Tensor:
        """Half of them as the twins are made: on the owner's images such a model is one more twin."""
        number = (600 if rows is self.own else 700) + i
        if i % 2:
            return self.tuned(number, rows)
        return self.tuned(
            number, self.part(rows, (1.0, 0.5)[i // 2 % 2], number), 1.5, (0.5, 1.5)[i // 4 % 2]
        )

    def answers(self) -> Answers:
        rows = {"own": self.own, "both": torch.cat([self.own, self.theirs]), "theirs": self.theirs}
        kinds = list(rows)
        made = {
            "candidates": [self.tuned(i, self.own) for i in range(TWINS + 1)],
            "related": [self._innocent(i) for i in range(RELATED)],
            "strangers": [
                self.foreign(i, self.part(rows[kinds[i % 3]], (1.0, 0.5)[i % 2], i)) for i in range(STRANGERS)
            ],
            "owners": [self._suspect(i, self.own) for i in range(SUSPECTS)],
            "others": [self._suspect(i, self.theirs) for i in range(SUSPECTS)],
            "scratch": [
                self.foreign(100 + i, self.part(rows[kinds[i % 3]], 0.8, 100 + i)) for i in range(SUSPECTS)
            ],
        }  # fmt: skip
        return Answers(**{name: torch.stack(found).numpy() for name, found in made.items()})


def read(out: Path, arch: str, start: str, seed: int) -> Answers:
    """A world's answers, made if they are not there."""
    path = out / f"{arch}-{start.replace(' ', '-')}-{seed}.npz"
    if not path.is_file():
        found = World(arch, start, seed).answers()
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **vars(found))
        print(f"made {path}", flush=True)
    with np.load(path) as kept:
        return Answers(**{name: kept[name] for name in kept.files})


@dataclass(frozen=True)
class Pool:
    """Candidates and innocents drawn out of a world, as features of the points where they disagree."""

    scorer: LineageScorer
    suspects: dict[str, NDArray[np.float32]]
    close: float

    @classmethod
    def of(
        cls, world: Answers, twins: int, related: int, seed: int, strangers: Sequence[int] | None = None
    ) -> Pool:
        """``strangers``: those that innocents from scratch are, else as many as fill ``INNOCENTS``."""
        rng = np.random.default_rng(seed)
        own = world.candidates[rng.choice(len(world.candidates), twins + 1, replace=False)]
        some = world.related[rng.choice(RELATED, related, replace=False)]
        drawn = rng.choice(STRANGERS, INNOCENTS - related, replace=False) if strangers is None else strangers
        rest = world.strangers[list(drawn)]
        models = np.concatenate([own, some, rest])
        asked = disagreement(own)
        points = rng.permutation(np.argsort(-asked)[: VIEWS * POINTS])

        def cut(p: NDArray[np.float32]) -> NDArray[np.float32]:
            return p[:, points].reshape(len(p), VIEWS, 1, POINTS, -1)

        scaling = Scaling.of(cut(own))
        features = np.stack([scaling.features(one) for one in cut(models)])
        count = len(own)
        roster = Roster(np.arange(count), np.arange(count, len(models)), np.zeros((0, count), dtype=np.int64))
        scorer = LineageScorer(features, roster)
        groups = {name: getattr(world, name) for name in ("owners", "others", "scratch")}
        return cls(
            scorer,
            {name: np.stack([scaling.features(one) for one in cut(p)]) for name, p in groups.items()},
            closeness(scorer),
        )

    def p_values(self, group: str) -> NDArray[np.float64]:
        """``[S,C]`` of each suspect, every candidate in the victim's place."""
        out = []
        for suspect in self.suspects[group]:
            own, rest = self.scorer.scores(suspect)
            places = range(own.shape[1])
            out.append([decide(assessment(own, rest, place=place), ALPHA).p for place in places])
        return np.array(out)


@dataclass
class Found:
    """What all pools of one start and number of related innocents came to."""

    names: dict[str, list[str]]
    p: dict[str, list[NDArray[np.float64]]]  # of a suspect, every candidate in the victim's place
    close: list[float]

    def rates(self, group: str) -> list[str]:
        """Cells: share accused at each level with its interval by model, and the smallest p."""
        cells, names = [], np.array(self.names[group])
        for level in LEVELS:
            rate, low, high = interval(names, np.array([(one <= level).mean() for one in self.p[group]]))
            cells.append(f"{100 * rate:.2f} ({100 * low:.2f}-{100 * high:.2f})")
        return [*cells, f"{min(float(one.min()) for one in self.p[group]):.2g}"]


Ways = dict[tuple[int, int], Found]  # by twins and related innocents


def judge(out: Path, start: str, seeds: int, draws: int) -> Ways:
    """By twins and related innocents, over all worlds of a start."""
    path = out / f"judged-{start.replace(' ', '-')}-{seeds}-{draws}.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {(m, k): Found(names, {g: [np.array(p) for p in ps] for g, ps in by.items()}, close)
                for m, k, names, by, close in kept}  # fmt: skip
    found: Ways = {}
    for arch, seed in product(ARCHS, range(seeds)):
        world = read(out, arch, start, seed)
        for twins, k, draw in product(SOME_TWINS, SOME_RELATED, range(draws)):
            pool = Pool.of(world, twins, k, 100 * seed + draw)
            one = found.setdefault((twins, k), Found({}, {}, []))
            one.close.append(pool.close)
            for group in pool.suspects:
                p = list(pool.p_values(group))
                one.p.setdefault(group, []).extend(p)
                one.names.setdefault(group, []).extend(f"{arch} {seed} {i}" for i in range(len(p)))
    rows = [(*key, one.names, {g: [p.tolist() for p in ps] for g, ps in one.p.items()}, one.close)
            for key, one in found.items()]  # fmt: skip
    write_text(path, json.dumps(rows) + "\n")
    return found


def near(out: Path, start: str, seeds: int, strangers: Sequence[int]) -> list[float]:
    """Closeness of pools of these innocents from scratch alone, one draw of twins each."""
    found = []
    for arch, seed in product(ARCHS, range(seeds)):
        world = read(out, arch, start, seed)
        found += [Pool.of(world, twins, 0, 100 * seed, strangers).close for twins in SOME_TWINS]
    return found


def joined(found: Ways, related: int, groups: tuple[str, ...]) -> Found:
    """Over all numbers of twins, and some groups of suspects as one."""
    parts = [one for (_, k), one in found.items() if k == related]
    names = [f"{g} {n}" for one in parts for g in groups for n in one.names[g]]
    p = [v for one in parts for g in groups for v in one.p[g]]
    return Found({"all": names}, {"all": p}, [c for one in parts for c in one.close])


GROUPS = {
    "the same start, the owner's images": ("owners",),
    "the same start, other images": ("others",),
    "the same start, all": ("owners", "others"),
    "from scratch": ("scratch",),
}


def page(found: dict[str, Ways], more: dict[tuple[str, str], list[float]], seeds: int, draws: int) -> str:
    """The tables; ``more`` is the closeness of other pools, by their innocents and start."""
    said = [
        "# Innocents that know the victim's backbone", "",
        f"`python -m benchmarks.related_innocents --seeds {seeds} --draws {draws}`: digits, victims of",
        f"{' and '.join(ARCHS)}, {seeds} splits each, {', '.join(map(str, SOME_TWINS))} twins, {INNOCENTS}",
        f"innocents of which k began where the victim did, {draws} draws of a pool each; suspects in no",
        f"pool, every candidate in the victim's place. {2 * SUSPECTS} honest fine-tunings of the backbone a",
        f"world, {SUSPECTS} models from scratch. *scratch* has no backbone: its k are of the victim's",
        "architecture, and so are its suspects of the same start. Intervals by model.", "",
        *head("start", "k", "suspects", *AT, "smallest p"),
    ]  # fmt: skip
    for start, ways in found.items():
        for related in SOME_RELATED:
            for name, groups in GROUPS.items():
                one = joined(ways, related, groups)
                said.append(line(start, related, name, *one.rates("all")))
    said += ["", "## The same by twins, at 0.001: k that began there, by start", ""]
    said += head("start", "twins", *(f"k = {k}" for k in SOME_RELATED))
    for start, ways in found.items():
        for twins in SOME_TWINS:
            cells = []
            for related in SOME_RELATED:
                one = {key: f for key, f in ways.items() if key == (twins, related)}
                cells.append(joined(one, related, ("owners", "others")).rates("all")[2])
            said.append(line(start, twins, *cells))
    said += [
        "", "## Closeness", "",
        "Mean distance between candidates over that of the nearest innocent from them: smallest, 5 %,",
        "median, 95 % and largest over pools.", "",
        *head("start", "k", "smallest", "5 %", "median", "95 %", "largest"),
    ]  # fmt: skip
    for start, ways in found.items():
        for related in SOME_RELATED:
            close = joined(ways, related, ("owners",)).close
            cells = [f"{q:.2f}" for q in np.quantile(close, (0, 0.05, 0.5, 0.95, 1))]
            said.append(line(start, related, *cells))
    said += [
        "", "The same with k = 0 and other innocents from scratch.", "",
        *head("innocents", "start", "pools", "smallest", "5 %", "median", "95 %", "largest"),
    ]  # fmt: skip
    for (name, start), close in more.items():
        cells = [f"{q:.2f}" for q in np.quantile(close, (0, 0.05, 0.5, 0.95, 1))]
        said.append(line(name, start, len(close), *cells))
    told = versions()
    return "\n".join([*said, "", ", ".join(f"{name} {value}" for name, value in told.items() if value), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--result", type=Path, default=Path("benchmarks/results/related_innocents.md"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    how = (given.seeds, given.draws)
    found: dict[str, Ways] = {s: judge(given.out, s, *how) for s in STARTS}
    few = {f"{count} of all kinds": [*range(count)] for count in (6, 12)}
    few["8, trained on other images than the owner's"] = [*range(2, STRANGERS, 3)]
    few["5, MLPs alone"] = [*range(0, STRANGERS, len(EPOCHS))]
    more = {(name, s): near(given.out, s, given.seeds, some) for name, some in few.items() for s in STARTS}
    write_text(given.result, page(found, more, *how))


if __name__ == "__main__":
    main()
