"""The baselines on every suspect of a zoo, before every victim; ``run`` adds them to its table.

    python -m benchmarks.detection compare --zoo DIR [--jobs 2] [--victims ARCH ...]

Fits each baseline of ``baselines.ENTRIES`` on a victim and its pool, asks every suspect, and keeps the rows
in ``DIR/baseline-rows-ARCH.json``; a second run makes what is missing. Prints the AUC of each.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import Tensor

from benchmarks.detection.access import ACCESS
from benchmarks.detection.baselines import ENTRIES, Baseline, Entry, Setting, standardise
from benchmarks.detection.baselines.base import Answer, pool_scores
from benchmarks.detection.judge import Row, require_complete, suspects, truth
from benchmarks.detection.make import Place
from benchmarks.detection.measures import Floats
from benchmarks.detection.options import parser_for
from benchmarks.detection.table import by_score
from benchmarks.detection.workers import over
from benchmarks.detection.zoo import open_zoo
from uapfast.files import write_text
from uapfast.models.checkpoint import load_model
from uapfast.models.model import Model
from uapfast.pool.manifest import load_pool

console = Console(stderr=True)


def setting_of(place: Place, arch: str) -> Setting:
    """One victim of the zoo with its pool."""
    pool = load_pool(place.out / arch / "pool" / "manifest.csv")
    return Setting(
        victim=load_model(place.size.spec(arch), place.victim_path(arch), name="victim"),
        owner=place.data("owner"),
        heldout=place.data("heldout"),
        positives=[m.model for m in pool.piracy("victim")],
        negatives=[m.model for m in (*pool.twins, *pool.homologous)],
    )


def fit(setting: Setting, entry: Entry) -> tuple[Baseline, Floats]:
    """A fitted baseline, and its scores of the pool's negatives."""
    own = replace(setting, queries=entry.queries, access=ACCESS[entry.access])
    baseline = entry.make().fit(own)
    return baseline, pool_scores(own, baseline.score)[1]


def shown(model: Model, access: str) -> Answer:
    """What a suspect answers at an access."""

    def answer(images: Tensor) -> Tensor:
        return ACCESS[access](model.answers(images).probabilities())

    return answer


def compare(place: Place, arch: str) -> list[Row]:
    """Rows of one victim: ``z`` is the score in deviations above the pool's negatives.

    The standardisation is monotone and needs nothing but the owner's pool; without it scores of different
    victims could not stand in one AUC.
    """
    setting, rows = setting_of(place, arch), []
    fitted = []
    for entry in ENTRIES:
        start = time.process_time()
        fitted.append((entry, *fit(setting, entry)))
        console.print(f"{arch}: {entry.score} ({entry.access}), {time.process_time() - start:.1f} s to fit")
    for item, model in suspects(place):
        for entry, baseline, negative in fitted:
            raw = baseline.score(shown(model, entry.access))
            rows.append(
                {
                    "victim": arch,
                    "suspect": item.name,
                    "arch": item.arch,
                    "truth": truth(item, arch),
                    "score": entry.score,
                    "access": entry.access,
                    "z": float(standardise(np.array([raw]), negative)[0]),
                    "raw": raw,
                    "queries": baseline.queries,
                }
            )
    return rows


def rows_path(place: Place, arch: str) -> Path:
    """Where the rows of a victim are kept."""
    return place.out / f"baseline-rows-{arch}.json"


def kept_rows(place: Place, arch: str) -> list[Row]:
    """Rows made before, or none: also where they are of other entries than today's."""
    path = rows_path(place, arch)
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    wanted = {(e.score, e.access) for e in ENTRIES}
    return rows if {(r["score"], r["access"]) for r in rows} == wanted else []


def _task(place: Place, arch: str) -> list[Row]:
    rows = kept_rows(place, arch)
    if not rows:
        rows = compare(place, arch)
        write_text(rows_path(place, arch), json.dumps(rows))
    return rows


def main() -> None:
    """Compare and print."""
    args = parser_for(__doc__, jobs=2, victims=True).parse_args()
    place = open_zoo(args.zoo)
    if not args.victims:
        require_complete(place)
    victims = args.victims or list(place.size.epochs)
    rows = sum(over(partial(_task, place), victims, args.jobs, "victims"), [])
    console.print("\n".join(by_score(rows)), soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
