"""Scores of every suspect where the owner has fewer twins, for rules that are told apart on them.

    python -m benchmarks.detection subsets --zoo DIR [--labels] [--jobs 1] [--victims ARCH ...]

A subset is a few candidates of a pool; points and scaling stay as all twins chose them; origin, whitening and
templates are made anew. Suspects are those of the zoo that are made, innocents degraded after training, and
weak students of twins (``tune``), whose twin is then the subset's first. With ``--labels`` they answer with
labels. Keeps ``DIR/subsets-ARCH[-labels].npz``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.detection import tune
from benchmarks.detection.judge import reference_of, suspects, truth
from benchmarks.detection.make import Place
from benchmarks.detection.options import parser_for
from benchmarks.detection.workers import over
from benchmarks.detection.zoo import open_zoo
from benchmarks.one_by_one import extended
from uapfast.arrays import Float64Array
from uapfast.files import make_folder
from uapfast.method.fingerprint import ask, reduce_classes
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.models.checkpoint import load_model
from uapfast.models.forms import Form
from uapfast.models.model import Model
from uapfast.pool import attacks
from uapfast.reference import Reference

TWINS = {
    2: 8,
    3: 5,
    6: 4,
    12: 2,
}  # number of twins -> subsets of so many, disjoint as far as they go; and all
COVARIATES = ("length", "raw length", "placebo spread", "agreement", "confidence")
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Suspect:
    """One model before one pool: who it is, which candidate it derives from (-1: none), its answers."""

    name: str
    kind: str
    source: int
    answers: Floats
    agreement: float
    confidence: float


def degraded(place: Place, name: str, module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """An innocent rounded, pruned and made noisy: no training, no descent."""
    for bits in (4, 3):
        yield f"{bits} bits", attacks.quantise(module, bits)
    for percent in (70, 90):
        yield f"pruned {percent} %", attacks.prune(module, percent / 100)
    yield "noise", attacks.add_noise(module, 0.15, zlib.crc32(name.encode()))


def seen_by(reference: Reference, name: str, kind: str, source: int, model: Model) -> Suspect:
    """One suspect, asked what the reference asks."""
    found = ask(model, reference.plan, reference.classes)[0]
    reduced = reduce_classes(found, reference.keep)
    labels = reduced[:, reference.clean].argmax(-1).numpy()
    sure = float(reduced[:, reference.clean].amax(-1).mean())
    agreement = reference.consensus.agreement(labels)
    return Suspect(name, kind, source, reduced.numpy(), agreement, sure)


def everybody(place: Place, arch: str, reference: Reference) -> Iterator[Suspect]:
    """Every suspect of a victim's reference, asked."""
    asked = partial(seen_by, reference)
    for item, model in suspects(place):
        kind = truth(item, arch)
        yield asked(item.name, kind, 0 if item.victim == arch else -1, model)
        if kind == "innocent" and model.module is not None:
            for how, module in degraded(place, item.name, model.module):
                yield asked(item.name, how, -1, Model(module, name=item.name))
    for twin, kind, item in tune.students(place, arch):
        path = place.out / "tune" / f"{item.name}.safetensors"
        if path.exists():
            yield asked(item.name, kind, twin + 1, load_model(place.size.spec(item.arch), path))


def measure(scorer: LineageScorer, suspect: Floats) -> tuple[Float64Array, Float64Array]:
    """Cosines ``[n+1,C]`` of the innocents and, last, the suspect; and of each its log whitened length, log
    raw length and log spread of cosines with placebo templates (the other innocents) ``[n+1,3]``.
    """
    scores, rest = scorer.scores(suspect)
    full = extended(scorer, suspect)
    every = np.append(scorer.roster.innocents, full.shape[-1] - 1)
    # the suspect is everybody's placebo as well: all rows are treated alike
    found = [_covariates(scorer, full, every, row) for row in every]
    return np.vstack([rest.mean(1), scores.mean(0)]), np.array(found)


def _covariates(
    scorer: LineageScorer, full: Float64Array, every: Float64Array, row: int
) -> tuple[float, float, float]:
    """Of one model, with a whitening by all the others."""
    others, one = every[every != row], np.eye(full.shape[-1])
    white, origin = scorer._fit(full, others)
    residual, placebos = one[row] - origin, one[others] - one[others].mean(0)
    length = np.sqrt(max(residual @ white.metric @ residual, 1e-12))
    raw = max(residual @ full.sum(0) @ residual, 1e-12)
    lengths = np.sqrt(np.maximum(np.einsum("on,nm,om->o", placebos, white.metric, placebos), 1e-12))
    cosines = placebos @ white.metric @ residual / lengths / length
    return np.log(length), 0.5 * np.log(raw), np.log(cosines.std(ddof=1))


def subsets(total: int, first: int) -> Iterator[NDArray[np.int64]]:
    """Positions of candidates, ``first`` first: subsets of each number of twins, then all of them."""
    rng = np.random.default_rng(first)
    others = np.delete(np.arange(total), first)
    for twins, count in TWINS.items():
        if twins < len(others):
            turns = np.concatenate([rng.permutation(others) for _ in range(twins)])  # none twice in a row
            for i in range(min(count, len(others))):
                found = list(dict.fromkeys(turns[i * twins :].tolist()))[:twins]
                yield np.r_[first, np.sort(found)]
    yield np.r_[first, others]


def fewer(roster: Roster, chosen: NDArray[np.int64]) -> Roster:
    """The roster with some of its candidates."""
    return Roster(roster.candidates[chosen], roster.innocents, roster.surrogates[:, chosen])


def path_of(place: Place, arch: str, labels: bool) -> Path:
    """Where the arrays of one victim lie."""
    return place.out / f"subsets-{arch}{'-labels' if labels else ''}.npz"


def collect(place: Place, labels: bool, arch: str) -> Path:
    """All arrays of one victim."""
    reference = reference_of(place, arch, "ours")
    return keep_scores(reference, everybody(place, arch, reference), labels, path_of(place, arch, labels))


def keep_scores(reference: Reference, every: Iterable[Suspect], labels: bool, path: Path) -> Path:
    """All arrays of one reference; ``[n+1,C]`` scores are padded with NaN to all candidates."""
    base = reference.statistic.scorer(Form(labels=labels))
    assert isinstance(base, LineageScorer)
    roster, total = base.roster, len(base.roster.candidates)
    majority = reference.consensus
    pool = np.array(
        [
            (majority.agreement(reference.labels[i, :, reference.clean].numpy()),
             float(reference.answers[i, :, reference.clean].amax(-1).mean()))
            for i in roster.innocents
        ]
    )  # fmt: skip
    names, kinds, sources, scores, covariates, chosen_rows = [], [], [], [], [], []
    scorers: dict[tuple[int, ...], LineageScorer] = {}
    for suspect in every:
        answers = torch.from_numpy(suspect.answers)
        if labels:
            answers = torch.nn.functional.one_hot(answers.argmax(-1), answers.shape[-1]).float()
        features = reference.statistic.features(answers, labels)
        for chosen in subsets(total, max(suspect.source, 0)):
            scorer = scorers.get(tuple(chosen)) or LineageScorer(base.pool, fewer(roster, chosen))
            if chosen[0] == 0:  # the others serve three students
                scorers[tuple(chosen)] = scorer
            found, x = measure(scorer, features)
            padded = np.full((len(found), total), np.nan, np.float32)
            padded[:, : len(chosen)] = found
            seen = np.vstack([pool, [suspect.agreement, suspect.confidence]])
            names.append(suspect.name)
            kinds.append(suspect.kind)
            sources.append(suspect.source)
            scores.append(padded)
            covariates.append(np.hstack([x, seen]).astype(np.float32))
            chosen_rows.append(np.pad(chosen, (0, total - len(chosen)), constant_values=-1))
    np.savez_compressed(
        path,
        suspect=np.array(names),
        kind=np.array(kinds),
        source=np.array(sources),
        scores=np.stack(scores),
        covariates=np.stack(covariates),
        chosen=np.stack(chosen_rows),
    )
    return path


def main() -> None:
    """Score and keep."""
    parser = parser_for(__doc__, jobs=1, victims=True)
    parser.add_argument("--labels", action="store_true")
    args = parser.parse_args()
    place = open_zoo(args.zoo)
    victims = [a for a in place.size.epochs if args.victims is None or a in args.victims]
    make_folder(place.out / "tune")
    students = [(v, twin, item) for v in victims for twin, _, item in tune.students(place, v)]
    over(partial(tune.train, place), students, args.jobs, "students of twins")
    over(partial(collect, place, args.labels), victims, args.jobs, "victims")


if __name__ == "__main__":
    main()
