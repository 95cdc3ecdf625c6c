"""The ways in which one reference is used for the ablation: by blocks of the ray, or by parts of its pool."""

from __future__ import annotations

import csv
import json

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.make import Place
from uapfast.arrays import Float64Array
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.models.forms import LABELS
from uapfast.reference import Reference

TWINS = (3, 6, 12)  # and all
FEW = 16  # innocents: all of them trained on half of the images or more
PARTS = {"x and x + v": [0, 1], "x + v only": [1], "x only": [0]}


class WayKept(LineageScorer):
    """Whitening that leaves the way from the innocents' mean to the candidates' where it is."""

    def _base(self, origin: Float64Array) -> Float64Array | None:
        return None


def without(reference: Reference, archs: dict[str, str], arch: str) -> Roster:
    """The roster without any model of one architecture but the candidates."""
    roster = reference.roster()
    names = [r.name for r in reference.records]
    innocents = np.array([i for i in roster.innocents if archs[names[i]] != arch])
    kinds = [k for k in roster.surrogates if archs[names[k[0]]] != arch]
    return Roster(roster.candidates, innocents, np.array(kinds, dtype=np.int64).reshape(len(kinds), -1))


def fewer_twins(roster: Roster, twins: int) -> Roster:
    """The roster with the first twins alone, and their surrogates."""
    kept = slice(0, twins + 1)
    return Roster(roster.candidates[kept], roster.innocents, roster.surrogates[:, kept])


def _innocents(place: Place, victim: str, reference: Reference) -> dict[str, LineageScorer]:
    """By what the pool knows of innocents."""
    pool, roster = reference.statistic.pool_features(), reference.roster()
    folder = place.out / victim / "pool" / "models"
    share = [
        json.loads((folder / f"{reference.records[i].name}.json").read_text())["share"]
        for i in roster.innocents
    ]

    def by(innocents: slice | NDArray[np.bool_]) -> Roster:
        return Roster(roster.candidates, roster.innocents[innocents], roster.surrogates)

    return {
        f"first {FEW}, the way to them kept": WayKept(pool, by(slice(FEW))),
        f"first {FEW}": LineageScorer(pool, by(slice(FEW))),
        "half of the images or more": LineageScorer(pool, by(np.array(share) >= 0.5)),
        f"all {len(share)}, the way to them kept": WayKept(pool, roster),
        f"all {len(share)}": LineageScorer(pool, roster),
    }


def scorers(place: Place, victim: str, variant: str, reference: Reference) -> dict[str, LineageScorer]:
    """Scorers by the part of the variant that they show."""
    pool, roster = reference.statistic.pool_features(), reference.roster()
    if variant.startswith("uap: "):
        return {part: LineageScorer(pool[:, :, b], roster) for part, b in PARTS.items()}
    if variant == "twins":
        return {
            f"{m} twins": LineageScorer(pool, fewer_twins(roster, m))
            for m in (*TWINS, len(roster.candidates) - 1)
        }
    if variant == "innocents":
        return _innocents(place, victim, reference)
    if variant.startswith("queries: "):
        return {
            "probabilities": reference.statistic.scorer(),  # type: ignore[dict-item]
            "labels": reference.statistic.scorer(LABELS),  # type: ignore[dict-item]
        }
    with (place.out / victim / "pool" / "manifest.csv").open(newline="") as file:
        archs = {r["name"]: r["arch"].removeprefix("uapfast:").split("?")[0] for r in csv.DictReader(file)}
    out = {
        f"architecture {arch}": LineageScorer(pool, without(reference, archs, arch))
        for arch in sorted(set(archs.values()))
    }
    for k, row in enumerate(roster.surrogates):
        kind = reference.records[row[0]].kind.split("-", 1)[1]
        left = Roster(roster.candidates, roster.innocents, np.delete(roster.surrogates, k, axis=0))
        out[f"surrogates {kind}"] = LineageScorer(pool, left)
    none = Roster(roster.candidates, roster.innocents, roster.surrogates[:0])
    return out | {"all surrogates": LineageScorer(pool, none), "nothing": LineageScorer(pool, roster)}


PARTS = {"x and x + v": [0, 1], "x + v only": [1], "x only": [0]}
