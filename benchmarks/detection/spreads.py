"""Level and power of the rules by simulation, where the spread of twin scores is not what they assume.

    python -m benchmarks.detection spreads [--runs 20000] [--jobs 1] [--seed 0]
        [--rules NAME ...] [--worlds NAME ...] [--twins M ...]

A score of model i with candidate c is ``pull_c + sigma_i noise_ic``. Each run draws a pool and an innocent
suspect anew; for the power the suspect's score with the victim is raised by a few usual spreads.
Writes ``benchmarks/results/spreads.md``.
"""

from __future__ import annotations

import shlex
import sys
import zlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.detection.measures import share
from benchmarks.detection.options import parser_for
from benchmarks.detection.rules import RULES, Array, Runs
from benchmarks.detection.workers import over
from uapfast.files import write_text

RESULTS = Path(__file__).parents[1] / "results"
LEVELS = (0.01, 0.001, 0.0001)
EFFECTS = (4.0, 6.0, 8.0, 12.0, 20.0)
CHUNK = 2_000


@dataclass(frozen=True)
class World:
    """One way in which scores may come about; standard deviations in units of the usual spread.

    Attributes:
        wide: of the suspect's scores, times the usual spread.
        freedom: of Student t noise scaled to variance 1; infinite for normal.
        mixed: standard deviation of the log spread over models, the suspect among them.
        known: correlation of the covariate with the log spread.
        alike: correlation of the twins' scores with each other, the victim's apart from them.
        central: how much nearer everybody is to the victim.
        pull: spread of the candidates' pulls.
        innocents: n.
    """

    wide: float = 1.0
    freedom: float = np.inf
    mixed: float = 0.0
    known: float = 0.0
    alike: float = 0.0
    central: float = 0.0
    pull: float = 0.5
    innocents: int = 40


MIXED = 0.35
WORLDS = {
    "all alike": World(),
    "suspect 1.5 times as wide": World(wide=1.5),
    "suspect 2 times as wide": World(wide=2.0),
    "suspect 3 times as wide": World(wide=3.0),
    "heavy tails": World(freedom=4.0),
    "mixed spreads, x .9": World(mixed=MIXED, known=0.9),
    "mixed spreads, x .6": World(mixed=MIXED, known=0.6),
    "mixed spreads, x 0": World(mixed=MIXED),
    "mixed, suspect 2 times as wide, x .9": World(mixed=MIXED, known=0.9, wide=2.0),
    "mixed, suspect 2 times as wide, x .6": World(mixed=MIXED, known=0.6, wide=2.0),
    "mixed, suspect 2 times as wide, x 0": World(mixed=MIXED, wide=2.0),
    "twins alike (.5)": World(alike=0.5),
    "central victim (3)": World(central=3.0),
    "central victim, suspect 2 times as wide": World(central=3.0, wide=2.0),
    "20 innocents": World(innocents=20),
    "20 innocents, suspect 2 times as wide": World(innocents=20, wide=2.0),
}


def draw(world: World, twins: int, count: int, rng: np.random.Generator) -> Runs:
    """``count`` pools, each with an innocent suspect as the last row."""
    rows, w = world.innocents + 1, world
    noise = rng.normal(size=(count, rows, twins + 1))
    if np.isfinite(w.freedom):
        noise = rng.standard_t(w.freedom, size=noise.shape) / np.sqrt(w.freedom / (w.freedom - 2))
    if w.alike:
        noise[..., 1:] *= np.sqrt(1 - w.alike)
        noise[..., 1:] += np.sqrt(w.alike) * rng.normal(size=(count, rows, 1))
    log = w.mixed * rng.normal(size=(count, rows))
    if w.wide != 1.0:
        log[:, -1] = np.log(w.wide)
    covariate = rng.normal(size=(count, rows))
    if w.mixed:
        covariate = w.known * log / w.mixed + np.sqrt(1 - w.known**2) * covariate
    pull = w.pull * rng.normal(size=(count, 1, twins + 1))
    pull[..., 0] += w.central
    return Runs(pull + np.exp(log)[..., None] * noise, covariate)


def raised(runs: Runs, effect: float) -> Runs:
    """The same with suspects made from the victim."""
    scores = runs.scores.copy()
    scores[:, -1, 0] += effect
    return replace(runs, scores=scores)


def simulate(runs: int, seed: int, rules: tuple[str, ...], setting: tuple[str, int]) -> dict[str, Array]:
    """Counts of accused at each level, then of convicted at .001 by each effect, of every rule."""
    name, twins = setting
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), twins])
    found = {rule: np.zeros(len(LEVELS) + len(EFFECTS)) for rule in rules}
    for start in range(0, runs, CHUNK):
        given = draw(WORLDS[name], twins, min(CHUNK, runs - start), rng)
        for rule in rules:
            p = RULES[rule](given)
            found[rule][: len(LEVELS)] += [(p <= level).sum() for level in LEVELS]
            if start < runs // 10:
                power = [(RULES[rule](raised(given, e)) <= LEVELS[1]).sum() for e in EFFECTS]
                found[rule][len(LEVELS) :] += power
    return found


def main() -> None:
    """Simulate and write."""
    parser = parser_for(__doc__, zoo=False, jobs=1)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--twins", nargs="+", type=int, default=[2, 3, 6, 12, 16])
    parser.add_argument("--out", type=Path, default=RESULTS / "spreads.md")
    args = parser.parse_args()
    settings = [(name, m) for name in args.worlds for m in args.twins]
    task = partial(simulate, args.runs, args.seed, tuple(args.rules))
    found = dict(zip(settings, over(task, settings, args.jobs, "settings"), strict=True))
    tried = min(args.runs, -(-(args.runs // 10) // CHUNK) * CHUNK)
    lines = []
    for (name, twins), by_rule in found.items():
        for rule, counts in by_rule.items():
            cells = []
            for count in counts[: len(LEVELS)]:
                rate, low, high = share(int(count), args.runs)
                cells.append(f"{100 * rate:.3g} ({100 * low:.2g}-{100 * high:.2g})")
            power = " / ".join(f"{100 * c / tried:.0f}" for c in counts[len(LEVELS) :])
            lines.append("| " + " | ".join([name, str(twins), rule, *cells, power]) + " |")
    write_text(
        args.out, TEXT.format(options=shlex.join(sys.argv[1:]), runs=args.runs, lines="\n".join(lines))
    )


TEXT = """# Rules for the spread of twin scores, by simulation

Made by `python -m benchmarks.detection spreads {options}`;
worlds and rules are in `spreads.py` and `rules.py`. Accused: innocents, % (95 % Wilson), of {runs} runs.
Convicted: at .001, %, where the suspect's score with the victim is raised by 4 / 6 / 8 / 12 / 20 usual
spreads.

| world | twins | rule | accused at .01 | at .001 | at .0001 | convicted |
|---|---|---|---|---|---|---|
{lines}
"""

if __name__ == "__main__":
    main()
