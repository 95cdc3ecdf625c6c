"""What is said of how copies were made, held against how they were made.

    python -m benchmarks.detection relation --zoo DIR [--examples] [--jobs 2] [--victims ARCH ...]

Judges the zoo's piracy models by their probabilities and by their labels alone; only those that are
convicted have a relation. With ``--examples`` it makes copies of twins, judges them with their twin in the
victim's place, and shows those instead: on them the rule was chosen. Writes
``benchmarks/results/relation_KIND[_examples].md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.detection import relation_examples
from benchmarks.detection.access import ACCESS
from benchmarks.detection.judge import LEVELS, reference_of
from benchmarks.detection.make import Place
from benchmarks.detection.measures import share
from benchmarks.detection.options import parser_for
from benchmarks.detection.plan import GROUPS, Item, piracy
from benchmarks.detection.table import head, line
from benchmarks.detection.workers import over
from benchmarks.detection.zoo import open_zoo
from uapfast.examination.design import shares_of
from uapfast.files import write_text
from uapfast.method.decision import decide
from uapfast.method.fingerprint import ask, reduce_classes
from uapfast.method.relation import LEVEL, MODIFIED, TRAINED, Shares
from uapfast.method.standing import assessment
from uapfast.models.checkpoint import load_model
from uapfast.models.forms import LABELS, WHOLE
from uapfast.reference import Reference

RESULTS = Path(__file__).parents[1] / "results"
SHOWN = ("probabilities", "labels")
WEIGHTS = ("modified", "retrained", "adversarial")  # groups that are made from the victim's weights
SAID = ("modification", "extraction", "unclear")
Row = dict[str, Any]


def copies(place: Place, arch: str, examples: bool) -> Iterator[tuple[int, Item, Path]]:
    """Place of the candidate that each was made from, its plan, its weights; those that are made."""
    if examples:
        found = (
            (t + 1, i, relation_examples.path_of(place, i))
            for t, i in relation_examples.examples(place, arch)
        )
    else:
        found = ((0, i, place.suspect_path(i.name)) for i in piracy(place.size, arch))
    yield from (entry for entry in found if entry[2].exists())


def judge(place: Place, examples: bool, arch: str) -> list[Row]:
    """A row for every copy and access."""
    reference = reference_of(place, arch, "ours")
    known: dict[tuple[str, int], Shares | None] = {}
    rows = []
    for candidate, item, path in copies(place, arch, examples):
        model = load_model(place.size.spec(item.arch), path)
        answers = ask(model, reference.plan, reference.classes)[0]
        for access in SHOWN:
            key = access, candidate
            if key not in known:
                known[key] = shares_of(reference, LABELS if access == "labels" else WHOLE, place=candidate)
            shown = reduce_classes(
                ACCESS[access](answers.flatten(0, -2)).reshape(answers.shape), reference.keep
            )
            said = _row(reference, known[key], shown, access == "labels", candidate)
            rows.append({"victim": arch, "name": item.name, "group": item.group, "access": access, **said})
    return rows


def _row(
    reference: Reference, shares: Shares | None, shown: torch.Tensor, labels: bool, candidate: int
) -> Row:
    assert shares is not None
    features = reference.statistic.features(shown, labels).numpy()
    scores = reference.statistic.scorer(LABELS if labels else WHOLE).scores(features)
    outcome = decide(assessment(*scores, place=candidate), LEVELS[2])
    told = shares.tell(features)
    return {
        "decision": outcome.decision,
        "relation": told.relation,
        "share": told.share,
        "margin": told.margin,
        "students": shares.students,
    }


def confusion(rows: list[Row]) -> list[str]:
    """Of each group: how many are convicted, what is said of these, and the shares that all of them keep."""
    lines = head("made by", "models", "convicted", *SAID, "share kept, of convicted", "of all")
    sums = {"**made from the weights**": WEIGHTS, "**trained on answers**": tuple(set(GROUPS) - set(WEIGHTS))}
    for label, groups in [(GROUPS[g], (g,)) for g in GROUPS if g != "innocent"] + list(sums.items()):
        own = [r for r in rows if r["group"] in groups]
        convicted = [r for r in own if r["decision"] == "piracy"]
        counts = [sum(r["relation"] == s for r in convicted) for s in SAID]
        lines.append(line(label, len(own), len(convicted), *counts, _range(convicted), _range(own)))
    return lines


def _range(rows: list[Row]) -> str:
    if not rows:
        return "-"
    found: NDArray[np.float64] = np.array([r["share"] for r in rows], dtype=np.float64)
    low, middle, high = np.quantile(found, (0.0, 0.5, 1.0))
    return f"{low:.2f} / {middle:.2f} / {high:.2f}"


def errors(rows: list[Row]) -> list[str]:
    """Wrong statements of each sort, of the convicted and as if all had been convicted."""
    lines = head("access", "wrong statement", "of the convicted (95 %)", "as if all were convicted")
    for access in SHOWN:
        for said, of, what in (
            ("modification", False, "trained on answers, called modification"),
            ("extraction", True, "made from the weights, called extraction"),
        ):
            own = [r for r in rows if r["access"] == access and (r["group"] in WEIGHTS) == of]
            cells = []
            for part in ([r for r in own if r["decision"] == "piracy"], own):
                wrong = sum(r["relation"] == said for r in part)
                rate, low, high = share(wrong, len(part)) if part else (0.0, 0.0, 1.0)
                cells.append(f"{wrong} of {len(part)}: {100 * rate:.1f} % ({100 * low:.1f}-{100 * high:.1f})")
            lines.append(line(access, what, *cells))
    return lines


def wrong(rows: list[Row]) -> list[str]:
    """The convicted of which something wrong is said, by name."""
    out = []
    for r in rows:
        other = "extraction" if r["group"] in WEIGHTS else "modification"
        if r["decision"] == "piracy" and r["relation"] == other:
            out.append(
                f"* {r['name']} ({r['access']}): {other}, share kept {r['share']:.2f} +- {r['margin']:.2f}"
            )
    return out or ["None."]


def page(rows: list[Row], command: str, examples: bool) -> str:
    """The Markdown file."""
    margins = {a: [r["margin"] for r in rows if r["access"] == a] for a in SHOWN}
    students = {a: max(r["students"] for r in rows if r["access"] == a) for a in SHOWN}
    return TEXT.format(
        command=command,
        whom=EXAMPLES if examples else SUSPECTS,
        tables="\n\n".join(
            f"### By {a}\n\n" + "\n".join(confusion([r for r in rows if r["access"] == a])) for a in SHOWN
        ),
        errors="\n".join(errors(rows)),
        wrong="\n".join(wrong(rows)),
        margins="; ".join(f"by {a} {min(found):.2f} to {max(found):.2f}" for a, found in margins.items()),
        students=", ".join(f"by {a} {v:.2f}" for a, v in students.items()),
        modified=MODIFIED,
        trained=TRAINED,
        level=LEVEL,
    )


def main() -> None:
    """Make what is wanted, judge, write."""
    parser = parser_for(__doc__, jobs=2, victims=True)
    parser.add_argument("--examples", action="store_true")
    args = parser.parse_args()
    place, kind = open_zoo(args.zoo), json.loads((args.zoo / "zoo.json").read_text())["kind"]
    victims = [a for a in place.size.epochs if args.victims is None or a in args.victims]
    if args.examples:
        todo = [(a, twin, item) for a in victims for twin, item in relation_examples.examples(place, a)]
        over(partial(relation_examples.make, place), todo, args.jobs, "examples")
    rows = sum(over(partial(judge, place, args.examples), victims, args.jobs, "victims"), [])
    options = " --examples" * args.examples
    options += " --victims " + " ".join(victims) if args.victims else ""
    command = f"python -m benchmarks.detection relation --zoo DIR{options} (zoo: {kind})"
    content = page(rows, command, args.examples)
    write_text(RESULTS / f"relation_{kind}{'_examples' * args.examples}.md", content)
    Console(stderr=True).print(content)


SUSPECTS = "The zoo's piracy models, on which nothing was chosen."
EXAMPLES = (
    "Copies of four twins of each pool, made in every way in which the zoo makes copies of its victims, each "
    "judged with its twin in the victim's place: what the rule was chosen on. None is a suspect of the zoo."
)
TEXT = """# How a copy was made

Made by `{command}`. {whom}

`relation` is said of convicted suspects only (level 0.001). The share kept is that of what sets the victim
apart from its twins; its margin ({level:.0%} on either side, from the pool's innocents) is {margins}.
`modification`: the share less its margin is at least {modified:g}, and above what students in the pool reach
(at most {students}). `extraction`: the share with its margin is at most {trained:g}, by probabilities only.
Shares are smallest / median / largest.

## What is said of whom

{tables}

## Wrong statements

Shares of models with Wilson intervals; models of one victim are not independent of each other.

{errors}

By name, of the convicted:

{wrong}
"""

if __name__ == "__main__":
    main()
