"""What each part adds: features; UAPs by norm, eps and algorithm; fewer queries; parts of the pool held out.

    python -m benchmarks.detection ablate --zoo DIR [--jobs 2] [--victims ARCH ...] [--only PREFIX ...]

Writes ``benchmarks/results/detection_ablation[_KIND].{json,md}`` (rows and tables; the rows, megabytes that
nothing else reads, are not kept in the repository). Same zoo, same suspects as ``run``; each
victim and variant is kept in the zoo's folder, so that a second run goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.detection.access import ACCESS
from benchmarks.detection.features import Judge
from benchmarks.detection.features import judges as by_features
from benchmarks.detection.judge import LEVELS, Row, make_reference, suspects, truth
from benchmarks.detection.make import Place
from benchmarks.detection.measures import auc
from benchmarks.detection.options import parser_for
from benchmarks.detection.plan import GROUPS, Item
from benchmarks.detection.table import ATTACKS, INNOCENT, head, line
from benchmarks.detection.variants import PARTS, scorers
from benchmarks.detection.workers import over
from benchmarks.detection.zoo import open_zoo
from uapfast.files import write_text
from uapfast.method.decision import Assessment, decide
from uapfast.method.fingerprint import ask, reduce_classes
from uapfast.method.lineage import LineageScorer
from uapfast.reference import Reference

RESULTS = Path(__file__).parents[1] / "results"
BOTH, NEAR = (0.0, 1.0), (0.0, 0.2)
UAPS: dict[str, dict[str, Any]] = {
    "margin, Linf 0.1, v / 5": {"ray": NEAR},
    "deepfool, Linf 0.1, v / 5": {"uap": "deepfool", "ray": NEAR},
    "contrastive, Linf 0.1, v / 5": {"uap": "contrastive", "ray": NEAR},
    "margin, L2 2, v / 5": {"eps": 2.0, "norm": "l2", "ray": NEAR},
    "margin, Linf 0.02": {"eps": 0.02, "ray": BOTH},
    "margin, Linf 0.05": {"eps": 0.05, "ray": BOTH},
    "margin, Linf 0.1": {"eps": 0.1, "ray": BOTH},
}
BUDGETS: dict[str, dict[str, Any]] = {
    "20": {"points": 20, "views": 1, "ray": (0.0,)},
    "200": {"points": 200, "views": 1, "ray": (0.0,)},
    "200, x and x + 0.2 v": {"points": 100, "views": 1, "ray": NEAR},
    "2000": {"points": 200, "views": 10, "ray": (0.0,)},
    "4000": {"points": 200, "ray": (0.0,)},
    "4000, x and x + 0.2 v": {"points": 100, "ray": NEAR},
    "8000": {"points": 400, "ray": (0.0,)},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "features": {},
    "twins": {},
    "innocents": {},
    **{f"uap: {name}": given for name, given in UAPS.items()},
    **{f"queries: {name}": given for name, given in BUDGETS.items()},
    "held out": {},
}


def _judges(place: Place, victim: str, variant: str, reference: Reference) -> dict[str, Judge]:
    """Part -> a function from a suspect's item and answers ``[V,B,n,K]`` to its assessment, or None."""
    if variant == "features":
        return by_features(reference)
    found = scorers(place, victim, variant, reference)
    return {part: partial(_by_part, scorer, part, reference) for part, scorer in found.items()}


def _by_part(
    scorer: LineageScorer, part: str, reference: Reference, item: Item, answers: Tensor
) -> Assessment | None:
    if part.startswith("architecture ") and not part.endswith(item.arch):
        return None  # held out for the suspects of that architecture
    if part == "labels":
        answers = ACCESS["labels"](answers.flatten(0, -2)).reshape(answers.shape)
    found = reference.statistic.features(reduce_classes(answers, reference.keep), part == "labels")
    return scorer.assess(found[:, PARTS.get(part, slice(None))])


def judge_variant(place: Place, victim: str, variant: str) -> list[Row]:
    """Every suspect by one variant of one victim's reference."""
    given = VARIANTS[variant]
    reference = make_reference(place, victim, given, f"ablation {variant}" if given else "ours")
    judges = _judges(place, victim, variant, reference)
    rows = []
    for item, model in suspects(place):
        answers = ask(model, reference.plan, reference.classes)[0]
        for part, assess in judges.items():
            found = assess(item, answers)
            if found is None:
                continue
            outcome = decide(found, LEVELS[2])
            rows.append(
                {
                    "victim": victim,
                    "suspect": item.name,
                    "truth": truth(item, victim),
                    "variant": variant,
                    "part": part,
                    "z": outcome.z,
                    "p": outcome.p if outcome.rank == 1 else 1.0,
                }
            )
    return rows


def _task(place: Place, pair: tuple[str, str]) -> list[Row]:
    path = place.out / f"ablation-{pair[0]}-{list(VARIANTS).index(pair[1])}.json"
    if not path.exists():
        write_text(path, json.dumps(judge_variant(place, *pair)))
    rows: list[Row] = json.loads(path.read_text())
    return rows


def _z(rows: list[Row], truths: tuple[str, ...]) -> NDArray[np.float64]:
    return np.array([r["z"] for r in rows if r["truth"] in truths])


def _cells(rows: list[Row]) -> Iterator[str]:
    innocents = _z(rows, INNOCENT)
    for groups in (tuple(ATTACKS), *((g,) for g in ATTACKS)):
        found = _z(rows, groups)
        yield f"{auc(found, innocents):.3f}" if len(found) else "-"
    thieves, honest = ([r for r in rows if r["truth"] in g] for g in (tuple(ATTACKS), INNOCENT))
    yield f"{np.mean([r['p'] <= 0.001 for r in thieves]):.0%}"
    yield f"{sum(r['p'] <= 0.001 for r in honest)} of {len(honest)}"


def table(rows: list[Row], prefix: str) -> str:
    """AUC by attack of each variant and part whose name starts with ``prefix``."""
    if not any(r["variant"].startswith(prefix) for r in rows):
        return "Not run."
    short = [GROUPS[g].replace("extraction, ", "").split(" (")[0] for g in ATTACKS]
    lines = head("variant", "part", "overall", *short, "convicted at 0.001", "innocents accused")
    keys = dict.fromkeys((r["variant"], r["part"]) for r in rows if r["variant"].startswith(prefix))
    for variant, part in keys:
        kept = [r for r in rows if (r["variant"], r["part"]) == (variant, part)]
        lines.append(line(variant.removeprefix(prefix), part, *_cells(kept)))
    return "\n".join(lines)


def _held_out(rows: list[Row]) -> list[Row]:
    """The architectures of the suspects, each held out in turn, as one row of the table."""
    return [
        r | {"part": "each suspect's architecture"} if r["part"].startswith("architecture ") else r
        for r in rows
        if r["variant"] == "held out"
    ]


def _who(rows: list[Row]) -> str:
    """Which victims and how many suspects the tables are of."""
    judged: dict[str, set[str]] = {}
    for row in rows:
        judged.setdefault(row["victim"], set()).add(row["suspect"])
    return "Judged: " + ", ".join(f"{len(names)} suspects of {v}" for v, names in judged.items()) + "."


def _command(args: argparse.Namespace) -> str:
    """What was asked for, without where it lies."""
    given = {"--victims": args.victims or [], "--only": [name for name in args.only if name]}
    options = [" " + shlex.join([option, *values]) for option, values in given.items() if values]
    return "python -m benchmarks.detection ablate --zoo DIR" + "".join(options)


def main() -> None:
    """Judge and write."""
    parser = parser_for(__doc__, jobs=2, victims=True)
    parser.add_argument("--only", nargs="+", default=[""], help="variants whose names start so")
    args = parser.parse_args()
    place, kind = open_zoo(args.zoo), json.loads((args.zoo / "zoo.json").read_text())["kind"]
    victims = [a for a in place.size.epochs if args.victims is None or a in args.victims]
    pairs = [(arch, name) for name in VARIANTS for arch in victims if name.startswith(tuple(args.only))]
    rows = sum(over(partial(_task, place), pairs, args.jobs, "ablation"), [])
    suffix = "" if kind == "full" else f"_{kind}"
    content = TEXT.format(
        kind=kind,
        command=_command(args),
        who=_who(rows),
        features=table(rows, "features"),
        twins=table(rows, "twins"),
        innocents=table(rows, "innocents"),
        uaps=table(rows, "uap: "),
        budgets=table(rows, "queries: "),
        held_out=table(_held_out(rows), "held out"),
    )
    write_text(RESULTS / f"detection_ablation{suffix}.md", content)
    short = [{k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    write_text(RESULTS / f"detection_ablation{suffix}.json", json.dumps(short) + "\n")


TEXT = """# Detection: what each part adds

Made by `{command}` (zoo: {kind}; `detection.md` describes it). AUC of
each attack against all innocents, all victims pooled; the share of piracy models and the number of
innocents at p <= 0.001 and first rank. {who}

## Features

Of the same answers: cube roots of probabilities as they are; their residuals softly clipped point by point;
brought to one confidence and one class balance; both, the default (`uapfast/method/scaling.py`); both with
square roots.

{features}

## Twins

The first m twins with their surrogates alone; points and UAPs as all twins chose them.

{twins}

## Innocents

Of the 40 homologous models of a pool the first 16; all 20 trained on half of the owner's images or more;
all. `the way to them kept`: whitening without its last step, which takes out the direction from the
innocents' mean to the candidates' (`uapfast/method/whitening.py`).

{innocents}

## UAPs: norm, eps, algorithm

Each candidate has its own UAP. Part `x only`: what the same points give without any UAP, for half of the
queries.

{uaps}

## Queries

Clean points, but where x + 0.2 v is named: then a point is two queries. Where a data set has few held-out
images, views have fewer points than named (`judge.settled`).

{budgets}

## Held out of the pool

`each suspect's architecture`: the pool holds no homologous model and no surrogate of the architecture of the
suspect that is judged (twins excepted).

{held_out}
"""

if __name__ == "__main__":
    main()
