"""Level and power of the rules on real scores with 2, 3, 6, 12 and all twins.

    python -m benchmarks.detection few-twins --zoo DIR [--students] [--labels] [--rules NAME ...]

Reads what ``subsets`` kept. With ``--students`` it shows weak students of twins and half of the innocents, on
which rules are chosen; without, the zoo's own suspects and the other half (halves of models, not of pairs).
Level: every candidate of a subset in the victim's place. Writes ``few_twins[_KIND][_students][_labels].md``.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy import special

from benchmarks.detection.options import parser_for
from benchmarks.detection.plan import GROUPS
from benchmarks.detection.rules import RULES, Array, Runs
from benchmarks.detection.subsets import COVARIATES, path_of
from benchmarks.detection.table import head, line
from benchmarks.detection.tune import KINDS
from benchmarks.detection.zoo import open_zoo
from uapfast.files import write_text

RESULTS = Path(__file__).parents[1] / "results"
LEVELS = (0.05, 0.01, 0.001, 0.0001)
HONEST = ("innocent", "other lineage")
DEGRADED = ("4 bits", "3 bits", "pruned 70 %", "pruned 90 %", "noise")
SHOWN = {
    "modified": ("modified",),
    "last layer anew": ("retrained",),
    "adversarial": ("adversarial",),
    "students": ("soft", "hard", "ood", "jacobian", "laundered"),
}
COVARIATE = 1  # of subsets.COVARIATES
RESAMPLES = 999


@dataclass(frozen=True)
class Kept:
    """What ``subsets`` kept of one victim; first axis: suspect and subset."""

    suspect: NDArray[np.str_]
    kind: NDArray[np.str_]
    source: NDArray[np.int64]
    scores: Array
    covariates: Array
    chosen: NDArray[np.int64]

    @classmethod
    def of(cls, path: Path) -> Kept:
        """Read a file."""
        with np.load(path) as found:
            given = {name: found[name] for name in found.files}
        floats = {name: given[name].astype(np.float64) for name in ("scores", "covariates")}
        return cls(**(given | floats))

    @property
    def twins(self) -> NDArray[np.int64]:
        """``[R]`` how many of each subset."""
        found: NDArray[np.int64] = (self.chosen >= 0).sum(1) - 1
        return found

    def runs(self, rows: NDArray[np.bool_], place: int = 0) -> Runs:
        """Rows of one number of twins with a candidate in the victim's place."""
        twins = int(self.twins[rows][0])
        order = np.r_[place, np.delete(np.arange(twins + 1), place)]
        return Runs(self.scores[rows][:, :, order], self.covariates[rows][:, :, COVARIATE])


def half(name: str) -> int:
    """Which half of the innocents a model belongs to; what is degraded stays with its original."""
    return zlib.crc32(name.encode()) % 2


def accused(
    kept: Kept, rule: str, kinds: tuple[str, ...], twins: int, halves: tuple[int, ...]
) -> tuple[NDArray[np.str_], Array]:
    """Suspects ``[N]``, and p ``[N,places]``, of honest models with every candidate in the victim's place."""
    rows = np.isin(kept.kind, kinds) & (kept.twins == twins)
    rows &= np.isin([half(name) for name in kept.suspect], halves)
    if not rows.any():
        return np.zeros(0, dtype=str), np.zeros((0, twins + 1))
    found = [RULES[rule](kept.runs(rows, place)) for place in range(twins + 1)]
    return kept.suspect[rows], np.stack(found, axis=1)


def interval(suspects: NDArray[np.str_], hits: Array) -> tuple[float, float, float]:
    """Share of hits ``[N]``, with a 95 % bootstrap interval over models."""
    names, index = np.unique(suspects, return_inverse=True)
    count = np.bincount(index).astype(float)
    hit = np.bincount(index, hits)
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(names), size=(RESAMPLES, len(names)))
    rates = hit[drawn].sum(1) / count[drawn].sum(1)
    return float(hits.mean()), float(np.quantile(rates, 0.025)), float(np.quantile(rates, 0.975))


def levels(every: list[Kept], rule: str, twins: int, halves: tuple[int, ...]) -> Iterator[str]:
    """Cells of accused shares at each level, then of the largest share of one model, then degraded ones."""
    parts = [accused(kept, rule, HONEST, twins, halves) for kept in every]
    names, p = np.concatenate([n for n, _ in parts]), np.concatenate([found for _, found in parts])
    for level in LEVELS:
        rate, low, high = interval(names, (p <= level).mean(1))
        yield f"{100 * rate:.2f} ({100 * low:.2f}-{100 * high:.2f})"
    worst = np.concatenate([accused(kept, rule, DEGRADED, twins, halves)[1].ravel() for kept in every])
    yield f"{100 * (worst <= LEVELS[1]).mean():.2f} / {(worst <= LEVELS[2]).sum()} of {len(worst)}"


def power(every: list[Kept], rule: str, twins: int, kinds: tuple[str, ...]) -> str:
    """Mean number convicted at .001 over subsets, of how many."""
    total, of = 0.0, 0
    for kept in every:
        rows = np.isin(kept.kind, kinds) & (kept.source >= 0) & (kept.twins == twins)
        if rows.any():
            names = kept.suspect[rows]
            p = RULES[rule](kept.runs(rows))
            for name in np.unique(names):
                total += float((p[names == name] <= LEVELS[2]).mean())
                of += 1
    return f"{total:.1f} of {of}"


def spreads(found: dict[str, Kept]) -> Iterator[str]:
    """Rows: how much the spread of twin scores varies over honest models, and what goes with it.

    All twins; a model's twins are all candidates, less what each draws everybody by.
    """
    for arch, kept in found.items():
        rows = kept.twins == kept.twins.max()
        scores, x = kept.scores[rows], kept.covariates[rows]
        apart = scores - scores[:, :-1].mean(1, keepdims=True)
        log = np.log(apart.std(-1, ddof=1))
        kind, source = kept.kind[rows], kept.source[rows]
        honest, low = np.isin(kind, HONEST), np.isin(kind, DEGRADED)
        noise = special.polygamma(1, (scores.shape[-1] - 1) / 2) / 4
        own, usual = log[honest, -1], log[:, :-1].mean()
        real = np.sqrt(max(own.var() - noise, 0.0))
        means = (own.mean() - usual, log[low, -1].mean() - usual)
        within = [f"{np.corrcoef(own, x[honest, -1, j])[0, 1]:.2f}" for j in range(len(COVARIATES))]
        copies = x[source == 0]
        lost = [
            f"{((c[:, -1] < c[:, :-1].min(1)) | (c[:, -1] > c[:, :-1].max(1))).mean():.0%}"
            for c in np.moveaxis(copies, -1, 0)
        ]
        cells = [f"{r} ({share})" for r, share in zip(within, lost, strict=True)]
        yield line(arch, f"{np.exp(real):.2f}", *(f"{np.exp(m):.2f}" for m in means), *cells)


def main() -> None:
    """Read, count and write."""
    parser = parser_for(__doc__)
    parser.add_argument("--students", action="store_true")
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    place, kind = open_zoo(args.zoo), json.loads((args.zoo / "zoo.json").read_text())["kind"]
    paths = {a: path_of(place, a, args.labels) for a in place.size.epochs}
    found = {a: Kept.of(path) for a, path in paths.items() if path.exists()}
    if not found:
        parser.error(f"`subsets` must have kept {', '.join(map(str, paths.values()))}, got none of them")
    every = list(found.values())
    shown = {k: (k,) for k in KINDS} if args.students else SHOWN
    columns = [f"accused at {level:g}, %" for level in LEVELS]
    lines = head("twins", "rule", *columns, "degraded: at .01, % / at .001", *shown)
    for twins in sorted({int(t) for kept in every for t in np.unique(kept.twins)}):
        for rule in args.rules:
            cells = levels(every, rule, twins, (0,) if args.students else (1,))
            caught = (power(every, rule, twins, kinds) for kinds in shown.values())
            lines.append(line(str(twins), rule, *cells, *caught))
    given = [option for option in ("students", "labels") if getattr(args, option)]
    suffix = "".join(f"_{part}" for part in (kind, *given) if part != "full")
    options = "".join(f" --{option}" for option in given)
    about = head("victim", "varies by a factor of", "suspects' beside the pool's", "degraded", *COVARIATES)
    content = TEXT.format(
        kind=kind,
        victims=", ".join(found),
        table="\n".join(lines),
        options=options,
        spreads="\n".join([*about, *spreads(found)]),
    )
    write_text(args.out or RESULTS / f"few_twins{suffix}.md", content)
    Console(stderr=True).print(content, soft_wrap=True)


assert set(kind for kinds in SHOWN.values() for kind in kinds) | {"innocent"} == set(GROUPS)

TEXT = """# Few twins: level and power of the rules

Made by `python -m benchmarks.detection few-twins --zoo DIR{options}` (zoo: {kind}; victims: {victims}).
Accused: honest models, every candidate of a subset in the victim's place; 95 % bootstrap over models.
Convicted: at .001, means over subsets.

{table}

## The spread itself

Of honest suspects' scores with all candidates: the factor that is one standard deviation of it, sampling
taken out; its mean beside that of the pool's innocents, and that of degraded ones. Then the correlation of
the log spread (sampling noise included) with what may tell it, and in brackets the share of copies that lie
outside the innocents' range of that.

{spreads}
"""

if __name__ == "__main__":
    main()
