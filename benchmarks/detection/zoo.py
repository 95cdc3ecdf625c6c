"""The zoo: victims, their pools, piracy models and innocents, from seeds only. Resumable.

    python -m benchmarks.detection zoo --out DIR [--small | --digits] [--jobs 2]
        [--victims ARCH ...] [--without ARCH ...]

Three victims of different architectures; for each a pool made by ``uapfast.pool.build.build_pool`` as a user
would (twins, surrogates, homologous models), and suspects that are in no pool. ``DIR/zoo.json`` records the
extent; a model counts as made once its record is in place, and a second run goes on where the first stopped.
With ``--victims`` only these, what derives from them and the innocents are made; ``--without`` leaves out
models of slow architectures, from the suspects and from the pools.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.detection.make import Place, make_suspect, make_victim
from benchmarks.detection.options import parser_for
from benchmarks.detection.plan import ALL_ARCHS, SIZES, all_items
from benchmarks.detection.transfer_plan import TRANSFER
from benchmarks.detection.workers import workers
from uapfast.data import load_data
from uapfast.files import make_folder, write_text
from uapfast.pool.build import build_pool

console = Console(stderr=True)
WORLDS = SIZES | {"transfer": TRANSFER}


def open_zoo(out: Path, kind: str | None = None) -> Place:
    """The zoo in a folder; with ``kind`` (a key of ``WORLDS``) it is begun if the folder is new.

    Raises:
        SystemExit: no zoo, or one of another extent or of other plans.
    """
    path = out / "zoo.json"
    if path.is_file():
        found = json.loads(path.read_text())
        kind = kind or found["kind"]
        if found != _stamp(kind):
            raise SystemExit(f"{out} holds the zoo {found['kind']!r} of another plan: use a new folder")
    elif kind is None:
        raise SystemExit(f"no zoo in {out}: python -m benchmarks.detection zoo --out {out}")
    else:
        make_folder(out / "suspects")
        write_text(path, json.dumps(_stamp(kind), indent=1))
    return Place(out, WORLDS[kind])


def _stamp(kind: str) -> dict[str, str]:
    plan = json.dumps([asdict(WORLDS[kind]), [asdict(i) for i in all_items(WORLDS[kind])]], sort_keys=True)
    return {"kind": kind, "plan": hashlib.sha256(plan.encode()).hexdigest()}


def split_data(place: Place) -> None:
    """Three disjoint sets: the owner's, the thief's, and images that no training saw."""
    size = place.size
    train, test = load_data(size.data), load_data(size.test)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).numpy()
    x, y = train.images.numpy(), train.labels.numpy()
    rows = {"owner": order[: size.owner], "thief": order[-size.thief :]}
    if size.owner + size.thief > len(train):
        raise SystemExit(f"{size.data} has {len(train)} images, {size.owner + size.thief} are wanted")
    for name, index in rows.items():
        if not (place.out / f"{name}.npz").exists():
            np.savez(place.out / f"{name}.npz", x=x[index], y=y[index])
    if not (place.out / "heldout.npz").exists():
        kept = size.unseen(len(test))
        np.savez(place.out / "heldout.npz", x=test.images[:kept].numpy(), y=test.labels[:kept].numpy())


def make_all(
    what: str, make: Callable[[Place, Any], str], place: Place, todo: Sequence[Any], jobs: int
) -> None:
    """Make models in processes of one thread each; a failure ends the run after what is under way."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar, workers(jobs) as pool:
        task = bar.add_task(what, total=len(todo))
        try:
            for future in as_completed([pool.submit(make, place, item) for item in todo]):
                bar.update(task, advance=1, description=f"{what}: {future.result()}")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def build(place: Place, jobs: int, archs: Sequence[str], without: Sequence[str]) -> None:
    """Make whatever is missing of the victims ``archs``: they, their suspects, innocents, then each pool."""
    size = place.size
    split_data(place)
    victims = [a for a in archs if not place.victim_path(a).with_suffix(".json").exists()]
    make_all("victims", make_victim, place, victims, jobs)
    items = [i for i in all_items(size) if (i.victim is None or i.victim in archs) and i.arch not in without]
    todo = [i for i in items if not place.suspect_path(i.name).with_suffix(".json").exists()]
    make_all("suspects", make_suspect, place, todo, jobs)
    for arch, epochs in ((a, e) for a, e in size.epochs.items() if a in archs):
        console.print(f"pool of {arch}")
        build_pool(
            size.spec(arch),
            place.victim_path(arch),
            place.data("owner"),
            place.out / arch / "pool",
            init="random",
            twins=size.twins,
            surrogates=size.surrogates,
            homologous=size.homologous,
            epochs=epochs,
            seed=100,
            jobs=jobs,
            other_archs=[size.spec(a) for a in ALL_ARCHS if a not in (arch, *without)] if without else (),
            progress=lambda done, total, name: console.print(f"  {done}/{total} {name}"),
        )


def main() -> None:
    """Parse the command line and build."""
    parser = parser_for(__doc__, zoo=False, jobs=2)
    parser.add_argument("--out", type=Path, required=True)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--small", action="store_const", const="small", dest="kind")
    kind.add_argument("--digits", action="store_const", const="digits", dest="kind")
    parser.add_argument("--victims", nargs="+", metavar="ARCH", help="of the plan's; all by default")
    parser.add_argument("--without", nargs="+", metavar="ARCH", choices=ALL_ARCHS, default=[])
    args = parser.parse_args()
    start = time.perf_counter()
    make_folder(args.out)
    place = open_zoo(args.out, args.kind or "full")
    build(place, args.jobs, args.victims or list(place.size.epochs), args.without)
    console.print(f"{args.out}: complete after {(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
