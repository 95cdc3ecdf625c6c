"""Level of the decision by simulation: innocents accused at stated levels, setting by setting.

    python -m benchmarks.detection levels [--runs 10000] [--jobs 2]

Each run draws a pool and one innocent suspect anew and takes the decision of the product. A score of
model i with candidate c is ``offset_i + pull_c + noise_ic``, view by view: ``offset`` is what moves a model
towards all candidates alike (architecture, accuracy), ``pull`` what draws every model to one candidate.
Writes ``benchmarks/results/levels.{md,json}``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.measures import share
from benchmarks.detection.options import parser_for
from benchmarks.detection.workers import over
from uapfast.files import write_text
from uapfast.method.decision import decide
from uapfast.method.standing import assessment

RESULTS = Path(__file__).parents[1] / "results"
LEVELS = (0.05, 0.01, 0.001)
VIEWS = 20


@dataclass(frozen=True)
class Setting:
    """One way in which the world may be; standard deviations in units of the noise.

    Attributes:
        twins: m.
        innocents: n.
        offset: spread of the models' common offsets.
        pull: spread of the candidates' pulls.
        central: added to the victim's pull: it is nearer to everybody than its twins are.
        mixed: share of the twins that are of another recipe, and pull ``-mixed_pull``.
        mixed_pull: see ``mixed``.
        freedom: of Student t noise; infinite for normal.
        scale: of the suspect's noise beside the pool's innocents' (a suspect that the pool does not
            represent).
    """

    twins: int = 16
    innocents: int = 16
    offset: float = 1.0
    pull: float = 0.5
    central: float = 0.0
    mixed: float = 0.0
    mixed_pull: float = 0.0
    freedom: float = np.inf
    scale: float = 1.0


SETTINGS = {
    "normal scores, 16 twins": Setting(),
    "8 twins, 16 innocents": Setting(twins=8),
    "4 twins, 8 innocents": Setting(twins=4, innocents=8),
    "central victim, 3 noise deviations": Setting(central=3.0),
    "half of the twins by another recipe": Setting(mixed=0.5, mixed_pull=2.0),
    "all twins by another recipe": Setting(mixed=1.0, mixed_pull=2.0),
    "Student t noise, 4 degrees of freedom": Setting(freedom=4.0),
    "suspect twice as variable as the pool": Setting(scale=2.0),
    "central victim and a suspect twice as variable": Setting(central=3.0, scale=2.0),
}


def draw(setting: Setting, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of an innocent suspect ``[V,C]`` and of the pool's innocents ``[n,V,C]``."""
    s, models, candidates = setting, setting.innocents + 1, setting.twins + 1
    pull = s.pull * rng.normal(size=candidates)
    pull[0] += s.central
    pull[1 : 1 + round(s.mixed * s.twins)] -= s.mixed_pull
    noise = rng.normal(size=(models, candidates))
    if np.isfinite(s.freedom):
        noise = rng.standard_t(s.freedom, size=noise.shape)
    noise[0] *= s.scale
    mean = s.offset * rng.normal(size=(models, 1)) + pull + noise
    views = mean[:, None, :] + 0.5 * rng.normal(size=(models, VIEWS, candidates))
    scores = 0.05 * views
    return scores[0], scores[1:]


def simulate(runs: int, name: str) -> NDArray[np.float64]:
    """``[runs]``: each run's p-value of a conviction; 1 where the victim did not rank first."""
    rng = np.random.default_rng(sum(map(ord, name)))
    out = []
    for _ in range(runs):
        found = decide(assessment(*draw(SETTINGS[name], rng)), LEVELS[-1])
        out.append(found.p if found.rank == 1 else 1.0)
    return np.array(out)


def table(found: dict[str, NDArray[np.float64]]) -> str:
    """Observed levels with their Wilson intervals."""
    heads = ["setting", *(f"accused at {level:g} (95 %)" for level in LEVELS)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, p in found.items():
        cells = []
        for level in LEVELS:
            rate, low, high = share(int((p <= level).sum()), len(p))
            cells.append(f"{rate:.2%} ({low:.2%}-{high:.2%})")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Simulate every setting and write the table."""
    parser = parser_for(__doc__, zoo=False, jobs=2)
    parser.add_argument("--runs", type=int, default=10_000)
    args = parser.parse_args()
    parts = over(partial(simulate, args.runs), list(SETTINGS), args.jobs, "settings")
    found = dict(zip(SETTINGS, parts, strict=True))
    write_text(RESULTS / "levels.md", TEXT.format(runs=args.runs, table=table(found)))
    counts = {n: {f"{x:g}": int((p <= x).sum()) for x in LEVELS} for n, p in found.items()}
    write_text(RESULTS / "levels.json", json.dumps({"runs": args.runs, "accused": counts}, indent=1) + "\n")


TEXT = """# Level of the decision, by simulation

Made by `python -m benchmarks.detection levels`: {runs} pools and innocent suspects a setting, each drawn
anew, decided by the product's own decision (both sides, first rank). The settings are in that file.

{table}

Stopping early accuses nobody else: looks only let suspects go, and a conviction rests on all views
(`uapfast/method/sequential.py`).

The first three rows meet the assumptions of both sides. A central victim, or twins of another recipe, void
the candidate side; a suspect that the pool does not represent voids the suspect side; the last row voids
both.
"""

if __name__ == "__main__":
    main()
