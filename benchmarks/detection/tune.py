"""What settings of the lineage encoder are chosen on: students of twins, which no table holds.

    python -m benchmarks.detection tune --zoo DIR [--jobs 2] [--victims ARCH ...]

Three weak students of every twin (few images; another architecture; one epoch on labels), made as the zoo
makes its own. Each is judged with its twin in the victim's place; the other places are the innocents.
Writes ``benchmarks/results/detection_tune.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.detection.judge import LEVELS, reference_of
from benchmarks.detection.make import Place, candidate, extract
from benchmarks.detection.measures import auc
from benchmarks.detection.options import parser_for
from benchmarks.detection.plan import ALL_ARCHS, Item
from benchmarks.detection.table import head, line
from benchmarks.detection.variants import FEW, WayKept
from benchmarks.detection.workers import over
from benchmarks.detection.zoo import open_zoo
from uapfast.files import make_folder, write_text
from uapfast.method import rounds, scaling, whitening
from uapfast.method.decision import decide
from uapfast.method.fingerprint import ask, reduce_classes
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.method.scaling import Scaling
from uapfast.method.standing import assessment
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.pool.plan import job_seed
from uapfast.reference import Reference

RESULTS = Path(__file__).parents[1] / "results"
Floats = NDArray[np.float32]
KINDS = ("few images", "another architecture", "one epoch of labels")


def students(place: Place, victim: str) -> Iterator[tuple[int, str, Item]]:
    """Of every twin: its number, the kind, and the student's plan."""
    few, middle, many = place.size.budgets
    other = ALL_ARCHS[(ALL_ARCHS.index(victim) + 1) % len(ALL_ARCHS)]
    plans = (
        (victim, {"labels": "soft", "images": few, "epochs": place.size.student}),
        (other, {"labels": "soft", "images": middle, "epochs": place.size.student}),
        (victim, {"labels": "hard", "images": many, "epochs": 1}),
    )
    for twin, (kind, (arch, settings)) in product(range(place.size.twins), zip(KINDS, plans, strict=True)):
        name = f"{victim}-twin-{twin:02d}-{KINDS.index(kind)}"
        yield twin, kind, Item(name, "soft", victim, arch, "extract", settings, job_seed(3, name))


def train(place: Place, task: tuple[str, int, Item]) -> None:
    """Make one student, if it is not there."""
    victim, twin, item = task
    path = place.out / "tune" / f"{item.name}.safetensors"
    if not path.exists():
        save_weights(extract(place, candidate(place, victim, 1 + twin), item), path)


def answers(place: Place, victim: str, reference: Reference) -> list[tuple[int, str, Floats]]:
    """Twin, kind and answers ``[V,B,n,R]`` of every student."""
    out = []
    for twin, kind, item in students(place, victim):
        model = load_model(place.size.spec(item.arch), place.out / "tune" / f"{item.name}.safetensors")
        asked = ask(model, reference.plan, reference.classes)[0]
        out.append((twin, kind, reduce_classes(asked, reference.keep).numpy()))
    return out


Setting = dict[str, float | str]
DEFAULT: Setting = {
    "shrink": whitening.SHRINK,
    "root": scaling.ROOT,
    "clip": scaling.CLIP,
    "innocents": "all",
    "way": "free",
    "access": "probabilities",
}
SETTINGS: dict[str, Setting] = {
    "default": {},
    **{f"shrinkage {s:g}": {"shrink": s} for s in (0.001, 0.003, 0.03, 0.1)},
    "square roots": {"root": 2},
    "fourth roots": {"root": 4},
    **{f"clip {c:g}": {"clip": c} for c in (0.2, 0.6, 1.0, 5.0)},
    "the way kept": {"way": "kept"},
    f"first {FEW} innocents": {"innocents": "first"},
    f"first {FEW} innocents, the way kept": {"innocents": "first", "way": "kept"},
    "labels": {"access": "labels"},
    "labels, templates of labels": {"access": "labels alone"},
}


def features_of(reference: Reference, access: str) -> tuple[Floats, Callable[[Floats], Floats]]:
    """The pool's features, and how a suspect's answers become features."""
    pool, roster = reference.answers.numpy(), reference.roster()
    way = Scaling.of(pool[roster.candidates])
    if access == "probabilities":
        return np.stack([way.features(one) for one in pool]), way.features

    def labels(answers: Floats) -> Floats:
        return way.label_features(np.eye(answers.shape[-1], dtype=np.float32)[answers.argmax(-1)])

    seen = range(len(pool)) if access == "labels alone" else roster.innocents
    return np.stack([(labels if i in seen else way.features)(one) for i, one in enumerate(pool)]), labels


def judge(
    reference: Reference, found: list[tuple[int, str, Floats]], given: Setting
) -> Iterator[tuple[str, float]]:
    """z of every student with its own twin (its kind), and with everybody else's (``""``)."""
    setting, roster = DEFAULT | given, reference.roster()
    scorer_of: Callable[..., LineageScorer] = WayKept if setting["way"] == "kept" else LineageScorer
    if setting["innocents"] == "first":
        roster = Roster(roster.candidates, roster.innocents[:FEW], roster.surrogates)
    with (
        mock.patch.object(scaling, "CLIP", setting["clip"]),
        mock.patch.object(scaling, "ROOT", setting["root"]),
        mock.patch.object(rounds, "SHRINK", setting["shrink"]),
    ):
        pool, way = features_of(reference, str(setting["access"]))
        scorer = scorer_of(pool, roster)
        for twin, kind, given_answers in found:
            scores = scorer.scores(way(given_answers))
            for place in range(len(roster.candidates)):
                z = decide(assessment(*scores, place=place), LEVELS[2]).z
                yield (kind if place == twin + 1 else ""), z


def rows(place: Place, victim: str) -> list[str]:
    """The table's rows of one victim."""
    reference = reference_of(place, victim, "ours")
    found, lines = answers(place, victim, reference), []
    for name, given in SETTINGS.items():
        z: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "")}
        for kind, value in judge(reference, found, given):
            z[kind].append(value)
        honest = np.array(z[""])
        cells = [f"{auc(np.array(z[k]), honest):.3f} / {np.median(z[k]):.2f}" for k in KINDS]
        every = np.concatenate([z[k] for k in KINDS])
        lines.append(line(victim, name, f"{auc(every, honest):.3f}", *cells, f"{honest.std():.2f}"))
    return lines


def main() -> None:
    """Train, judge and write."""
    args = parser_for(__doc__, jobs=2, victims=True).parse_args()
    place, console = open_zoo(args.zoo), Console(stderr=True)
    victims = [a for a in place.size.epochs if args.victims is None or a in args.victims]
    make_folder(place.out / "tune")
    todo = [(victim, twin, item) for victim in victims for twin, _, item in students(place, victim)]
    over(partial(train, place), todo, args.jobs, "students")
    parts = over(partial(rows, place), victims, args.jobs, "victims")
    table = head(
        "victim", "setting", "AUC, all", *(f"{k}: AUC / median z" for k in KINDS), "spread of honest z"
    )
    options = " --victims " + " ".join(args.victims) if args.victims else ""
    content = TEXT.format(options=options, **DEFAULT, table="\n".join([*table, *sum(parts, [])]))
    write_text(RESULTS / "detection_tune.md", content)
    console.print(content)


TEXT = """# Detection: what its settings were chosen on

Made by `python -m benchmarks.detection tune --zoo DIR{options}`. Weak students of the pool's twins,
three of each, none of which stands in `detection.md`; each judged with its twin in the victim's place,
against itself in everybody else's. Otherwise as by default: 4,000 clean points, cube roots, shrinkage
{shrink:g}, clip {clip:g}, 40 innocents in the pool, the way from their mean to the candidates' taken out.
`labels`: students and innocents answer with labels, templates are made of the candidates' probabilities;
`templates of labels`: of their labels.

{table}
"""

if __name__ == "__main__":
    main()
