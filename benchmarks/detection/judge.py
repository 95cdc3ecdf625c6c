"""Every suspect of a zoo before every victim: scores of each method, and verdicts of ours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import uapfast
from benchmarks.detection.access import ACCESS
from benchmarks.detection.make import Place
from benchmarks.detection.plan import Item, all_items
from uapfast.arrays import Float64Array
from uapfast.method.decision import decide, view_level_p
from uapfast.method.fingerprint import ask, reduce_classes
from uapfast.method.lineage import LineageScorer
from uapfast.method.sequential import Background, Looks, Stop, Stopper
from uapfast.method.standing import assessment
from uapfast.models.checkpoint import load_model
from uapfast.models.forms import LABELS, form_of
from uapfast.models.model import Model
from uapfast.reference import Reference

OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, clean answers only": {"ray": (0.0,)},
    "ours, x and x + 0.2 v": {"ray": (0.0, 0.2)},
    "ours, x + v only": {"ray": (1.0,)},
    "ours, x + 0.2 v only": {"ray": (0.2,)},
    "paper": {"encoder": "paper"},
}
LEVELS = (0.05, 0.01, 0.001, 0.0001)
Row = dict[str, Any]


def reference_of(place: Place, arch: str, name: str) -> Reference:
    """The reference of a victim for one of ``OURS``; made once, kept beside the pool."""
    return make_reference(place, arch, OURS[name], name)


def make_reference(place: Place, arch: str, settings: dict[str, Any], name: str) -> Reference:
    """The reference of a victim with some settings other than the defaults; kept under ``name``.

    A data set with few held-out images gets fewer points a view.
    """
    config = settled(place, settings)
    slug = "".join(c if c.isalnum() else "-" for c in name)
    path = place.out / arch / f"{slug}.uapref"
    if not path.exists():
        victim = load_model(place.size.spec(arch), place.victim_path(arch), name="victim")
        images = place.data("heldout").x()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", uapfast.errors.UapfastWarning)
            pool = place.out / arch / "pool" / "manifest.csv"
            uapfast.generate(victim, images, pool=pool, config=config).save(path)
    return uapfast.load(path)


def settled(place: Place, settings: dict[str, Any]) -> uapfast.GenerateConfig:
    """The settings of a reference as they are taken on this zoo's held-out images."""
    images = len(place.data("heldout").x())
    config = replace(uapfast.GenerateConfig(), **settings).settled(images)
    assert config.points is not None
    return replace(config, points=min(config.points, config.most_points(images)))


def scores(place: Place) -> list[str]:
    """Those of ``OURS`` that differ from the default on this zoo, and the default."""
    default = settled(place, {})
    same = [n for n in OURS if n != "ours" and settled(place, OURS[n]) == default]
    return [name for name in OURS if name not in same]


def suspects(place: Place) -> Iterator[tuple[Item, Model]]:
    """Every suspect that is made, loaded one at a time."""
    for item in all_items(place.size):
        if place.suspect_path(item.name).with_suffix(".json").exists():
            yield item, load_model(place.size.spec(item.arch), place.suspect_path(item.name))


def require_complete(place: Place) -> None:
    """A table of all suspects needs all of them; raises ``SystemExit``."""
    every = all_items(place.size)
    made = sum(place.suspect_path(item.name).with_suffix(".json").exists() for item in every)
    if made < len(every):
        raise SystemExit(
            f"{place.out} has {made} of {len(every)} suspects: run `benchmarks.detection zoo` again"
        )


def truth(item: Item, arch: str) -> str:
    """The row of the table: a group if the suspect derives from this victim, else which kind of innocent."""
    if item.victim == arch:
        return item.group
    return "innocent" if item.victim is None else "other lineage"


def judge(place: Place, arch: str, name: str) -> list[Row]:
    """Verdicts on all suspects by one reference, also with every candidate in the victim's place."""
    reference = reference_of(place, arch, name)
    rows = []
    for item, model in suspects(place):
        answers = ask(model, reference.plan, reference.classes)[0]
        for access, change in ACCESS.items():
            if access == "probabilities" or name == "ours":
                shown = change(answers.flatten(0, -2)).reshape(answers.shape)
                rows.append(_row(reference, shown, access) | _who(item, arch, name, access))
    return rows


def _who(item: Item, arch: str, name: str, access: str) -> Row:
    return {
        "victim": arch,
        "suspect": item.name,
        "arch": item.arch,
        "truth": truth(item, arch),
        "score": name,
        "access": access,
    }


def _row(reference: Reference, shown: Tensor, access: str) -> Row:
    """One verdict; for the lineage encoder also the p-values with each twin as the victim."""
    form = LABELS if access == "labels" else form_of(shown.flatten(0, -2))
    scorer = reference.statistic.scorer(form)
    features = reference.statistic.features(reduce_classes(shown, reference.keep), form.labels).numpy()
    if not isinstance(scorer, LineageScorer):
        found = scorer.assess(features)
        outcome = decide(found, LEVELS[2])
        p_view = view_level_p(found.views, found.innocent_views)
        return {"z": found.similarity, "p": outcome.p, "decision": outcome.decision, "p_view": p_view}
    own, rest = scorer.scores(features)
    first = decide(assessment(own, rest), LEVELS[2])
    row = {"z": first.z, "p": first.p, "decision": first.decision, "rank": first.rank}
    return row if access != "probabilities" else row | _details(scorer, features, own, rest)


def _details(
    scorer: LineageScorer, features: NDArray[np.float32], own: Float64Array, rest: Float64Array
) -> Row:
    """With every candidate in the victim's place, with fewer views, and with early stopping."""
    outcomes = [decide(assessment(own, rest, place=c), LEVELS[2]) for c in range(own.shape[1])]
    fewer = {k: decide(scorer.assess(features, views=k), LEVELS[2]) for k in (2, 5, 10) if k < len(own)}
    stop = _stopped(scorer, features)
    return {
        # a conviction needs the first rank, whatever p is
        "p_by_place": [o.p if o.rank == 1 else 1.0 for o in outcomes],
        "p_by_views": {str(k): o.p if o.rank == 1 else 1.0 for k, o in fewer.items()},
        "z_by_views": {str(k): o.z for k, o in fewer.items()},
        "stopped_after": stop.views,
        "stopped_decision": stop.outcome.decision,
    }


def _stopped(scorer: LineageScorer, features: NDArray[np.float32]) -> Stop:
    """The same suspect with early stopping."""
    stopper = Stopper(Looks.default(len(features)), _background(scorer), LEVELS[2])
    for views in stopper.looks.views:
        stop = stopper.look(*scorer.scores(features, views))
        if stop is not None:
            return stop
    raise AssertionError("the last look stops")


@cache
def _background(scorer: LineageScorer) -> Background:
    return Background.of(scorer)
