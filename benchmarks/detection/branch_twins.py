"""Branches of the zoo's victims against as many full twins: who is convicted, and who is accused.

    python -m benchmarks.detection.branch_twins --zoo DIR [--jobs 1] [--victims ARCH ...]

Each victim's training is run once more and kept at a third, a half and two thirds; it has to end with the
zoo's own weights. Branches go on from there in an order of their own: the rest of the running pass first,
then whole passes. References are as the product makes them, with the pool's homologous models and no
surrogates (a branch has none); every model is asked every held-out image once. Writes
``benchmarks/results/branches[_KIND].md``.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from benchmarks.detection.few_twins import DEGRADED, SHOWN, interval
from benchmarks.detection.judge import LEVELS, settled, suspects, truth
from benchmarks.detection.known import Judge, p_of
from benchmarks.detection.make import Place
from benchmarks.detection.subsets import degraded, fewer
from benchmarks.detection.table import head, line
from benchmarks.detection.workers import over
from benchmarks.detection.zoo import open_zoo
from uapfast.errors import UapfastWarning
from uapfast.files import make_folder, write_text
from uapfast.method.decision import decide
from uapfast.method.fingerprint import QueryPlan
from uapfast.method.lineage import LineageScorer
from uapfast.method.standing import assessment
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.pool.degraded import with_degraded
from uapfast.pool.manifest import load_pool
from uapfast.pool.plan import job_seed
from uapfast.pool.pool import CHECKPOINT, Pool, PoolModel
from uapfast.pool.recipe import BATCH, LEARNING_RATE, WEIGHT_DECAY
from uapfast.pool.train import fresh_model, predict
from uapfast.reference import Reference
from uapfast.verbs.entries import ordered
from uapfast.verbs.findings import Findings
from uapfast.verbs.points import select_points
from uapfast.verbs.pool_checks import examine_pool

RESULTS = Path(__file__).parents[1] / "results"
FULL, PLACES = "full", {"one third": 1 / 3, "one half": 1 / 2, "two thirds": 2 / 3}
BRANCHES, OTHERS = 8, 2  # twins from each place, and models that somebody else continued from there
COUNTS = {3: 2, 4: 2, 8: 1}  # twins of a reference -> subsets of so many
CONTINUED = {at: f"continued by somebody else from {at}" for at in PLACES}
Row = dict[str, Any]


@dataclass
class State:
    """A training under way: what the default recipe holds after some steps.

    Attributes:
        left: images of the running pass that were not seen yet.
        passes: whole passes to come.
        generator: state of the order's generator.
    """

    model: nn.Module
    optimiser: torch.optim.AdamW
    schedule: torch.optim.lr_scheduler.OneCycleLR
    left: Tensor
    passes: int
    generator: Tensor


def begin(model: nn.Module, images: int, seed: int, epochs: int) -> State:
    """The state before the first step of ``uapfast.pool.recipe.default_recipe``."""
    steps = epochs * -(-images // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, max(steps, 2))
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(seed).get_state()
    return State(model, optimiser, schedule, torch.zeros(0, dtype=torch.int64), epochs, generator)


def go_on(state: State, x: Tensor, y: Tensor, steps: int | None = None) -> State:
    """A copy of a state after so many steps more, or at the end. No shipped network draws while it trains."""
    out = copy.deepcopy(state)
    generator = torch.Generator()
    generator.set_state(out.generator)
    with torch.enable_grad():
        while (steps is None or steps > 0) and (len(out.left) or out.passes):
            if not len(out.left):
                out.left, out.passes = torch.randperm(len(x), generator=generator), out.passes - 1
            rows, out.left = out.left[:BATCH], out.left[BATCH:]
            steps = None if steps is None else steps - 1
            if len(rows) < 2:
                continue
            loss = nn.functional.cross_entropy(out.model(x[rows]), y[rows])
            out.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            out.optimiser.step()
            out.schedule.step()
    out.generator = generator.get_state()
    return out


def finished(state: State) -> nn.Module:
    """The model of a training that ended."""
    out: nn.Module = state.model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return out


def reordered(state: State, seed: int) -> State:
    """A copy with an order of its own from here on; images left of the running pass stay the same."""
    generator = torch.Generator().manual_seed(seed)
    out = copy.deepcopy(state)
    out.left = out.left[torch.randperm(len(out.left), generator=generator)]
    out.generator = generator.get_state()
    return out


def path_of(place: Place, arch: str, at: str, number: int) -> Path:
    """Weights of a branch; those after the first ``BRANCHES`` are somebody else's continuations."""
    return place.out / arch / "branches" / f"{at.replace(' ', '-')}-{number:02d}.safetensors"


def make(place: Place, arch: str) -> None:
    """All branches of a victim that are not there yet."""
    todo = [
        (at, number)
        for at, number in product(PLACES, range(BRANCHES + OTHERS))
        if not path_of(place, arch, at, number).exists()
    ]
    if not todo:
        return
    owner, epochs = place.data("owner"), place.size.epochs[arch]
    x, y, seed = owner.x(), owner.labels, list(place.size.epochs).index(arch)
    state, done, kept = begin(fresh_model(place.size.spec(arch), seed), len(x), seed, epochs), 0, {}
    for at, share in PLACES.items():
        steps = round(share * epochs * -(-len(x) // BATCH))
        state, done = go_on(state, x, y, steps - done), steps
        kept[at] = state
    theirs = load_model(place.size.spec(arch), place.victim_path(arch)).module
    assert theirs is not None
    own, want = finished(go_on(state, x, y)).state_dict(), theirs.state_dict()
    if any(not torch.equal(own[name], want[name]) for name in want):
        raise SystemExit(f"{arch} does not come out as the zoo has it: another machine, or other threads")
    make_folder(place.out / arch / "branches")
    for at, number in todo:
        made = go_on(reordered(kept[at], job_seed(7, f"{arch}/{at}/{number}")), x, y)
        save_weights(finished(made), path_of(place, arch, at, number))


def pool_of(place: Place, arch: str, kind: str) -> Pool:
    """The pool's homologous models, and full twins or branches; without surrogates."""
    pool = load_pool(place.out / arch / "pool" / "manifest.csv")
    kept = ("twin", "homologous") if kind == FULL else ("homologous",)
    models = [m for m in pool.models if m.relation in kept]
    if kind != FULL:
        for number in range(BRANCHES):
            name = f"branch-{number:02d}"
            model = load_model(place.size.spec(arch), path_of(place, arch, kind, number), name=name)
            models.append(PoolModel(name, "twin", None, "branch", model, CHECKPOINT))
    return with_degraded(replace(pool, models=tuple(models), made=None, manifest_sha256=None), 0)


def reference(place: Place, arch: str, kind: str, images: Tensor, asked: dict[str, Tensor]) -> Judge:
    """What ``uapfast.generate`` makes of that pool; ``asked`` keeps what models answer, by SHA-256."""
    pool = pool_of(place, arch, kind)
    victim = load_model(place.size.spec(arch), place.victim_path(arch), name="victim")
    entries, config = ordered(victim, pool), settled(place, {"ray": (0.0,)})
    for _, model in entries:
        assert model.module is not None and model.sha256 is not None
        if model.sha256 not in asked:
            asked[model.sha256] = predict(model.module, images)
    answers = torch.stack([asked[str(model.sha256)] for _, model in entries])
    rows = select_points(answers, entries, config)
    flat = rows.reshape(-1)
    shown = answers[:, flat].reshape(len(entries), len(rows), 1, rows.shape[1], -1)
    where = torch.zeros(1, len(flat), dtype=torch.int64)
    plan = QueryPlan(images[flat], images[:0], where, (0.0,), len(rows))
    settings = {"config": config.to_dict(), "twins": pool.twins_told, "init": pool.init}
    records, classes = tuple(record for record, _ in entries), answers.shape[-1]
    made = Reference(plan, records, shown, shown.argmax(-1), None, classes, "lineage", {}, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UapfastWarning)
        return Judge(examine_pool(made, {}, Findings(), pool.trained), rows)


def everybody(place: Place, arch: str) -> Iterator[tuple[str, str, bool, nn.Module]]:
    """Name, kind and whether it derives from the victim: the zoo's, innocents degraded, continuations."""
    for item, model in suspects(place):
        kind = truth(item, arch)
        assert model.module is not None
        yield item.name, kind, item.victim == arch, model.module
        if kind == "innocent":
            for how, module in degraded(place, item.name, model.module):
                yield item.name, how, False, module
    for at, number in product(PLACES, range(BRANCHES, BRANCHES + OTHERS)):
        module = load_model(place.size.spec(arch), path_of(place, arch, at, number)).module
        assert module is not None
        yield f"{at} {number}", CONTINUED[at], True, module


def subsets(total: int) -> Iterator[NDArray[np.int64]]:
    """Candidates of each reference, the victim first."""
    rng = np.random.default_rng(0)
    for twins, count in COUNTS.items():
        for _ in range(count):
            yield np.r_[0, 1 + np.sort(rng.permutation(total - 1)[:twins])]


def judge(place: Place, arch: str) -> list[Row]:
    """A row for every suspect, kind of twins and subset; honest ones with every candidate as the victim."""
    path = place.out / f"branches-{arch}.json"
    if path.exists():
        found: list[Row] = json.loads(path.read_text())
        return found
    images, asked, rows = place.data("heldout").x(), dict[str, Tensor](), []
    judges: dict[str, tuple[Judge, list[LineageScorer]]] = {}
    for kind in (FULL, *PLACES):
        made = reference(place, arch, kind, images, asked)
        base = made.reference.statistic.scorer()
        assert isinstance(base, LineageScorer)
        chosen = subsets(len(base.roster.candidates))
        judges[kind] = made, [LineageScorer(base.pool, fewer(base.roster, c)) for c in chosen]
    for name, what, derives, module in everybody(place, arch):
        answers = predict(module, images)
        for kind, (made, scorers) in judges.items():
            features = made.features(answers)
            for scorer in scorers:
                scores, count = scorer.scores(features), len(scorer.roster.candidates)
                places = (0,) if derives else range(count)
                outcomes = [decide(assessment(*scores, place=c), LEVELS[2]) for c in places]
                rows.append(
                    {"victim": arch, "twins": count - 1, "of": kind, "name": name, "kind": what}
                    | {"p": [p_of(o) for o in outcomes], "z": outcomes[0].z}
                )
    write_text(path, json.dumps(rows))
    return rows


HONEST = ("innocent", "other lineage")


def power(rows: list[Row], twins: int, kind: str) -> list[str]:
    """Mean number convicted at .001 over subsets, of how many; of students also by the median of z."""
    cells = []
    for kinds in (*SHOWN.values(), *((name,) for name in CONTINUED.values())):
        own = [r for r in rows if (r["twins"], r["of"]) == (twins, kind) and r["kind"] in kinds]
        models = len({(r["victim"], r["name"]) for r in own})
        caught = sum(r["p"][0] <= LEVELS[2] for r in own) / max(COUNTS[twins], 1)
        shown = f"{caught:.1f} of {models}"
        cells.append(f"{shown}; z {np.median([r['z'] for r in own]):.1f}" if len(kinds) > 2 else shown)
    return cells


def level(rows: list[Row], twins: int, kind: str) -> list[str]:
    """Shares of honest models accused, and of degraded ones; intervals by model."""
    cells = []
    for kinds, levels in ((HONEST, LEVELS[:3]), (DEGRADED, LEVELS[1:3])):
        own = [r for r in rows if (r["twins"], r["of"]) == (twins, kind) and r["kind"] in kinds]
        p = np.array([r["p"] for r in own])
        for at in levels:
            rate, low, high = interval(np.array([r["name"] for r in own]), (p <= at).mean(1))
            cells.append(f"{100 * rate:.2f} ({100 * low:.2f}-{100 * high:.2f})")
        cells[-1] += f", {int((p <= LEVELS[2]).sum())} of {p.size}"
    return cells


def main() -> None:
    """Train, judge and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--victims", nargs="+", metavar="ARCH")
    args = parser.parse_args()
    place, kind = open_zoo(args.zoo), json.loads((args.zoo / "zoo.json").read_text())["kind"]
    victims = [a for a in place.size.epochs if args.victims is None or a in args.victims]
    over(partial(make, place), victims, args.jobs, "branches")
    rows = sum(over(partial(judge, place), victims, args.jobs, "victims"), [])
    names = {FULL: "full", **{at: f"branches from {at}" for at in PLACES}}
    caught = head("twins", *SHOWN, *CONTINUED.values())
    accused = head(
        "twins",
        *(f"accused at {a:g}, %" for a in LEVELS[:3]),
        *(f"degraded, at {a:g}, %" for a in LEVELS[1:3]),
    )
    for twins, of in product(COUNTS, names):
        caught.append(line(f"{twins} {names[of]}", *power(rows, twins, of)))
        accused.append(line(f"{twins} {names[of]}", *level(rows, twins, of)))
    options = " --victims " + " ".join(args.victims) if args.victims else ""
    command = f"python -m benchmarks.detection.branch_twins --zoo DIR{options}"
    content = TEXT.format(
        command=command,
        kind=kind,
        victims=", ".join(victims),
        caught="\n".join(caught),
        accused="\n".join(accused),
    )
    write_text(RESULTS / f"branches{'' if kind == 'full' else f'_{kind}'}.md", content)
    Console(stderr=True).print(content, soft_wrap=True)


TEXT = """# Branch twins

Made by `{command}` (zoo: {kind}; victims: {victims}).
The product's rule and its references, without surrogates; with branches every fourth innocent of the pool is
replaced by its degraded form. Convicted: at .001, means over subsets; median z of students.

{caught}

Accused: honest models, every candidate of a subset in the victim's place; 95 % bootstrap over models.
Degraded: innocents of 4 and 3 bits, pruned by 70 and 90 %, noisy.

{accused}
"""

if __name__ == "__main__":
    main()
