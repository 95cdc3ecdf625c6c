"""Copies of twins, of every kind that the zoo makes of its victims: what ``relation`` is chosen on.

None stands in a table of suspects: a twin is the victim of each, and its place is the victim's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.detection.make import HOW, Place, candidate
from benchmarks.detection.plan import Item, piracy
from uapfast.files import make_folder
from uapfast.models.checkpoint import save_weights
from uapfast.pool.plan import job_seed

TWINS = 4  # of each pool, spread evenly


def examples(place: Place, victim: str) -> Iterator[tuple[int, Item]]:
    """Number of a twin, and what is made of it."""
    for turn in range(TWINS):
        twin = turn * place.size.twins // TWINS
        for item in piracy(place.size, victim):
            name = f"twin-{twin:02d}-{item.name}"
            yield twin, replace(item, name=name, seed=job_seed(5, name))


def path_of(place: Place, item: Item) -> Path:
    """Weights of an example."""
    return place.out / "relation" / f"{item.name}.safetensors"


def make(place: Place, task: tuple[str, int, Item]) -> None:
    """Make one example, if it is not there."""
    victim, twin, item = task
    path = path_of(place, item)
    if path.exists():
        return
    make_folder(path.parent)
    save_weights(HOW[item.how](place, candidate(place, victim, 1 + twin), item), path)


__all__ = ["TWINS", "examples", "make", "path_of"]
