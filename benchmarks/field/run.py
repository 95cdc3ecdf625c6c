"""Every suspect asked in every way against every pool; one row a verdict."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

import uapfast
from benchmarks.field.causes import Row
from benchmarks.field.ways import WAYS, Way
from benchmarks.field.worlds import POOLS, WORLDS, Kept, PoolKind, Suspect, World, reference
from uapfast.errors import UapfastError
from uapfast.reference import Reference

console = Console(stderr=True)


def _outcome(found: Reference, suspect: Suspect, way: Way) -> Row:
    """The verdict, or what was raised: ``refused`` (typed), ``raised`` (the asker's), ``crashed``."""
    try:
        verdict = uapfast.verify(found, way.target(suspect.target), output=way.output)
    except UapfastError as exc:
        return {"outcome": "refused", "reasons": [f"{type(exc).__name__}: {exc}"]}
    except ConnectionError as exc:
        return {"outcome": "raised", "reasons": [f"{type(exc).__name__}: {exc}"]}
    except Exception as exc:  # an untyped error is a finding, not the end of the run
        return {"outcome": "crashed", "reasons": [f"{type(exc).__name__}: {exc}"]}
    row: Row = {"outcome": verdict.decision, "reasons": list(verdict.reasons)}
    for name in ("p_value", "z", "output"):
        value: Any = getattr(verdict, name, None)
        row[name] = float(f"{value:.4g}") if isinstance(value, float) else value
    return row


def _rows(kind: PoolKind, world: World, found: Reference, only: set[str]) -> Iterator[Row]:
    ways = [w for w in WAYS if not only & {v.name for v in WAYS} or w.name in only]
    kinds = {s.kind for s in world.suspects}
    for suspect in world.suspects:
        if only & kinds and suspect.kind not in only:
            continue
        for way in ways:
            if suspect.kind != "garbage" or way.garbage:
                row = {"pool": kind.name, "world": world.name, "kind": suspect.kind, "suspect": suspect.name}
                yield row | {"way": way.name} | _outcome(found, suspect, way)


def run(out: Path, only: set[str]) -> dict[str, Any]:
    """Ask everything (or what ``only`` names: pools, ways, kinds); ``rows``, and what each pool was."""
    kept = Kept(out)
    worlds: dict[str, World] = {}
    rows: list[Row] = []
    pools: dict[str, dict[str, Any]] = {}
    start = time.process_time()
    for kind in POOLS:
        if only & {k.name for k in POOLS} and kind.name not in only:
            continue
        if kind.world not in worlds:
            worlds[kind.world] = WORLDS[kind.world](kept)
        world = worlds[kind.world]
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                found = reference(kind, world, out)
            except UapfastError as exc:
                pools[kind.name] = {"refused": f"{type(exc).__name__}: {exc}"}
                console.print(f"{kind.name}: refused, {exc}")
                continue
            pools[kind.name] = {
                "limits": list(getattr(found, "limits", ())),
                "warnings": list(getattr(found, "warnings", ())) or [str(w.message) for w in told],
            }
            rows += _rows(kind, world, found, only)
        console.print(f"{kind.name}: {len(rows)} verdicts so far, {time.process_time() - start:.0f} s of CPU")
    return {"pools": pools, "rows": rows, "cpu_seconds": round(time.process_time() - start)}
