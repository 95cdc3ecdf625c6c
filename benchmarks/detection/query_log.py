"""What the owner's query log is worth, and what it does to honest customers.

    python -m benchmarks.detection query-log --zoo DIR [--jobs 1] [--victims ARCH ...]
        [--without ARCH ...] [--adaptive N]

A thief's log are the images that he asked; a suspect that asked nothing (a modified copy) is met with the
thief's whole set. Honest customers asked that whole set and trained on it with true labels: with every
candidate in the victim's place (``--without``: but those of these architectures). With ``--adaptive`` also
logs of Papernot's attack on N candidates of each victim, as if they were asked all the same. Clean points.
Writes ``benchmarks/results/query_log[_KIND].md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.detection import accounts, tune
from benchmarks.detection.judge import suspects, truth
from benchmarks.detection.known import Index, Judge, Known, asked, p_of
from benchmarks.detection.make import Place, candidate
from benchmarks.detection.measures import auc
from benchmarks.detection.options import parser_for
from benchmarks.detection.plan import ALL_ARCHS, GROUPS, Item
from benchmarks.detection.table import head, line
from benchmarks.detection.workers import over
from benchmarks.detection.zoo import open_zoo
from uapfast.config import CHOICE
from uapfast.files import make_folder, write_text
from uapfast.models.checkpoint import load_model
from uapfast.pool.plan import job_seed
from uapfast.pool.recipe import default_recipe
from uapfast.pool.train import fresh_model, predict
from uapfast.verbs.log import SHARE

RESULTS = Path(__file__).parents[1] / "results"
Row = dict[str, Any]
OWN, BOTH, ALONE = "own images", "log and own images", "log alone"
SETTINGS = (OWN, BOTH, ALONE)
HONEST = ("customer", "innocent", "student of another victim")
WITHOUT_QUERIES = ("tune", "prune", "quantise", "noise", "adversarial")


@dataclass
class World:
    """One victim's pool, and references made from it as they are wanted."""

    known: Known
    made: dict[tuple[str, bytes], Judge] = field(default_factory=dict)

    @property
    def places(self) -> range:
        """Every candidate."""
        return range(len(self.known.base.candidates))

    def judge(self, setting: str, log: Index) -> Judge:
        """The reference of a setting for one log (rows of images); as many views as the product takes."""
        key = (setting, b"" if setting == OWN else log.tobytes())
        if key in self.made:
            return self.made[key]
        known, own = self.known, self.known.parts["own"]
        config = known.config
        assert config.points is not None
        views = min(int(SHARE * config.views), max(int(len(log) / CHOICE) // config.points, 1))
        parts = [] if setting == OWN else [known.select(log, views)]
        if setting != ALONE:
            parts.append(known.select(own, config.views - sum(map(len, parts))))
        rows = np.concatenate(parts)
        found = Judge(known.reference(rows, 0 if setting == OWN else views), rows)
        if setting == OWN or any(log is part for part in known.parts.values()):
            self.made[key] = found  # a thief's own log is met once
        return found

    def rows(self, kind: str, module: nn.Module | None, log: Index, places: Iterable[int]) -> Iterator[Row]:
        """What becomes of one suspect by every setting."""
        answers, places = asked(module, self.known.images), list(places)
        for setting in SETTINGS:
            found = self.judge(setting, log).outcomes(answers, places)
            yield {"kind": kind, "setting": setting, "z": [o.z for o in found], "p": [p_of(o) for o in found]}


def honest_accounts(place: Place, without: Sequence[str]) -> list[Item]:
    """The customers but those of slow architectures."""
    return [item for item in accounts.customers(place.size) if item.arch not in without]


def drawn(log: Index, count: int, seed: int) -> Index:
    """The rows of the thief's set that a student of the zoo asked."""
    rows = torch.randperm(len(log), generator=torch.Generator().manual_seed(seed))[:count]
    return np.asarray(log[rows.numpy()])


def everybody(place: Place, arch: str, world: World, without: Sequence[str]) -> Iterator[Row]:
    """Customers, innocents and thieves before one victim."""
    log, spec = world.known.parts["log"], place.size.spec
    for item in honest_accounts(place, without):
        model = load_model(spec(item.arch), place.out / accounts.FOLDER / f"{item.name}.safetensors")
        yield from world.rows("customer", model.module, log, world.places)
    for item, model in suspects(place):
        kind = truth(item, arch)
        if kind == "innocent":
            yield from world.rows(kind, model.module, log, world.places)
        elif kind == "other lineage" and item.group in ("soft", "hard"):
            yield from world.rows("student of another victim", model.module, log, world.places)
        elif item.victim == arch and item.how in ("extract", "launder"):
            own = drawn(log, item.settings["images"], item.seed)
            yield from world.rows(item.group, model.module, own, (0,))
        elif item.victim == arch and item.how in WITHOUT_QUERIES:
            yield from world.rows(item.group, model.module, log, (0,))
    for twin, kind, item in tune.students(place, arch):
        model = load_model(spec(item.arch), place.out / "tune" / f"{item.name}.safetensors")
        own = drawn(log, item.settings["images"], item.seed)
        yield from world.rows(f"of twins: {kind}", model.module, own, (twin + 1,))


def adaptive(place: Place, arch: str, count: int) -> Iterator[Row]:
    """Logs of attacks on ``count`` candidates: innocents, customers with labels of their own, students."""
    recipe, spec = partial(default_recipe, epochs=place.size.student), place.size.spec
    logs: dict[str, Tensor] = {}
    met: list[tuple[int, str, nn.Module]] = []
    for number in range(count):
        seed = job_seed(6, f"{arch}/{number}")
        attacker = ALL_ARCHS[number % len(ALL_ARCHS)]
        victim = candidate(place, arch, number)
        x, y = accounts.adaptive_log(place, victim, attacker, seed)
        logs[str(number)] = x
        for turn, own in enumerate((attacker, ALL_ARCHS[(number + 1) % len(ALL_ARCHS)])):
            for kind, labels in (("customer, adaptive", y), ("student, adaptive", predict(victim, x))):
                model = recipe(fresh_model(spec(own), seed + turn), x, labels, seed + turn)
                met.append((number, kind, model.eval()))
    known = Known.of(place, arch, {"own": place.data("heldout").x(), **logs})
    world = World(known)
    for item, model in suspects(place):
        if truth(item, arch) == "innocent":
            for number in range(count):
                yield from world.rows("innocent, adaptive", model.module, known.parts[str(number)], (number,))
    for number, kind, module in met:
        yield from world.rows(kind, module, known.parts[str(number)], (number,))


def judge(place: Place, count: int, without: Sequence[str], arch: str) -> list[Row]:
    """All rows of one victim; kept in the zoo's folder, so that a second run goes on."""
    path = place.out / f"query-log-{'-'.join((arch, str(count), *without))}.json"
    if not path.exists():
        sets = {"own": place.data("heldout").x(), "log": place.data("thief").x()}
        rows = list(everybody(place, arch, World(Known.of(place, arch, sets)), without))
        write_text(path, json.dumps(rows + (list(adaptive(place, arch, count)) if count else [])))
    found: list[Row] = json.loads(path.read_text())
    return found


def picked(rows: list[Row], kind: str, setting: str, field_: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One number a suspect and place."""
    found = [r[field_] for r in rows if r["kind"] == kind and r["setting"] == setting]
    return np.concatenate(found) if found else np.zeros(0)


def level(rows: list[Row], kinds: Iterable[str]) -> list[str]:
    """Honest models accused, by setting."""
    out = head("who", "asked", "models", "pairs", *(f"accused at {a:g}, %" for a in (0.05, 0.01, 0.001)))
    for kind in kinds:
        for setting in SETTINGS:
            p = picked(rows, kind, setting, "p")
            models = sum(r["kind"] == kind and r["setting"] == setting for r in rows)
            shares = [f"{100 * float((p <= a).mean()):.2f}" for a in (0.05, 0.01, 0.001)]
            out.append(line(kind, setting, models, len(p), *shares))
    return out


def power(rows: list[Row], kinds: Iterable[str], honest: Iterable[str]) -> list[str]:
    """AUC against the honest models, median z and convictions of everybody else."""
    honest = tuple(honest)
    out = head("who", "asked", "models", "AUC", "median z", "convicted at 0.01", "at 0.001")
    for kind in kinds:
        for setting in SETTINGS:
            z, p = (picked(rows, kind, setting, f) for f in ("z", "p"))
            rest = np.concatenate([picked(rows, h, setting, "z") for h in honest])
            if len(z):
                cells = [
                    f"{auc(z, rest):.3f}",
                    f"{np.median(z):.2f}",
                    int((p <= 0.01).sum()),
                    int((p <= 0.001).sum()),
                ]
                out.append(line(GROUPS.get(kind, f"students {kind}"), setting, len(z), *cells))
    return out


def text(rows: list[Row], command: str, adaptive_too: bool) -> str:
    """The page."""
    twins = [f"of twins: {kind}" for kind in tune.KINDS]
    parts = [TEXT.format(command=command), "## Honest models", *level(rows, HONEST)]
    parts += ["", "## Students of twins, on which settings are chosen", *power(rows, twins, HONEST)]
    parts += ["", "## The zoo's own", *power(rows, [g for g in GROUPS if g != "innocent"], HONEST)]
    if adaptive_too:
        honest = ("innocent, adaptive", "customer, adaptive")
        parts += ["", "## Adaptive logs, if they were asked", *level(rows, honest), ""]
        parts += power(rows, ["student, adaptive"], honest)
    return "\n".join(parts) + "\n"


def main() -> None:
    """Train, judge and write."""
    parser = parser_for(__doc__, jobs=1, victims=True)
    parser.add_argument("--without", nargs="+", metavar="ARCH", choices=ALL_ARCHS, default=[])
    parser.add_argument("--adaptive", type=int, default=0, metavar="N")
    args = parser.parse_args()
    place, kind = open_zoo(args.zoo), json.loads((args.zoo / "zoo.json").read_text())["kind"]
    victims = [a for a in place.size.epochs if args.victims is None or a in args.victims]
    for folder in (accounts.FOLDER, "tune"):
        make_folder(place.out / folder)
    over(partial(accounts.make, place), honest_accounts(place, args.without), args.jobs, "customers")
    todo = [(v, twin, item) for v in victims for twin, _, item in tune.students(place, v)]
    over(partial(tune.train, place), todo, args.jobs, "students of twins")
    rows = sum(over(partial(judge, place, args.adaptive, args.without), victims, args.jobs, "victims"), [])
    options = " --victims " + " ".join(args.victims) if args.victims else ""
    options += " --without " + " ".join(args.without) if args.without else ""
    options += f" --adaptive {args.adaptive}" if args.adaptive else ""
    suffix = "" if kind == "full" else f"_{kind}"
    content = text(
        rows, f"python -m benchmarks.detection query-log --zoo DIR{options} (zoo: {kind})", args.adaptive > 0
    )
    write_text(RESULTS / f"query_log{suffix}.md", content)
    Console(stderr=True).print(content)


TEXT = """# The owner's query log

Made by `{command}`. Same number of queries in the first two rows of each: all out of the owner's unseen
images, or up to half of them out of the log; then the log's part alone. *Customers* asked all images of the
thief's set and trained on them with true labels; accused with every candidate in the victim's place. A
student's log are the images that he asked; copies that asked nothing are met with the thief's whole set.
"""

if __name__ == "__main__":
    main()
