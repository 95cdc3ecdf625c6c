"""``python -m benchmarks.branches --out FILE``: full twins, branch twins, the trajectory test; on digits.

Small networks (an MLP of 48 units, 150 steps of Adam), several victims. Each victim's training is kept at
every fifth; branches are reruns from a third, a half and two thirds on, as many as there are full twins.
Suspects are copies and students of the victim, honest models, and degraded honest models, none in a
pool. The trajectory test compares, fifth by fifth, the victim's state with reruns of it: given the past the
ranks are independent, so that the product of all five has a known distribution. A suspect whose answers
cannot be used ranks last.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import uapfast
from uapfast._version import versions
from uapfast.files import write_text
from uapfast.pool import degraded
from uapfast.pool.attacks import add_noise, prune, quantise
from uapfast.pool.pool import Pool
from uapfast.reference import Reference

STEPS, SEGMENTS, OWN, THIEF = 150, 5, slice(0, 700), slice(700, 1200)
UNSEEN = slice(1200, 1797)
CONFIG = uapfast.GenerateConfig(points=50, views=10, ray=(0.0,), uap_images=100, eps=0.2, min_fooling=0.0)
WORSE: dict[str, Callable[[nn.Module], nn.Module]] = {
    "4 bits": lambda m: quantise(m, 4), "3 bits": lambda m: quantise(m, 3),
    "pruned 70 %": lambda m: prune(m, 0.7), "pruned 90 %": lambda m: prune(m, 0.9),
    "noise": lambda m: add_noise(m, 0.2, 1),
}  # fmt: skip
State = tuple[nn.Module, torch.optim.Adam]


class World:
    """Digits, and one way to train."""

    def __init__(self) -> None:
        digits = load_digits()
        self.x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
        self.y = torch.tensor(digits.target)

    def start(self, seed: int, width: int = 48) -> State:
        """A new network and its optimiser."""
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        return net, torch.optim.Adam(net.parameters(), lr=0.01)

    def go_on(self, state: State, seed: int, steps: int, x: Tensor, y: Tensor) -> State:
        """A copy of a state, trained further in an order of its own."""
        net, optimiser = copy.deepcopy(state)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            rows = torch.randint(len(x), (128,), generator=generator)
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return net, optimiser

    def trained(self, seed: int, rows: Tensor | slice, width: int = 48, y: Tensor | None = None) -> nn.Module:
        """A model of its own."""
        labels = self.y[rows] if y is None else y
        return self.go_on(self.start(seed, width), seed, STEPS, self.x[rows], labels)[0].eval()

    def states(self, seed: int) -> list[State]:
        """A victim's training: its beginning, and its state after every segment."""
        out, step = [self.start(seed)], STEPS // SEGMENTS
        for part in range(SEGMENTS):
            out.append(self.go_on(out[-1], 1000 * seed + part, step, self.x[OWN], self.y[OWN]))
        return out

    def part(self, seed: int) -> Tensor:
        """Images of an honest model."""
        return torch.randperm(1200, generator=torch.Generator().manual_seed(seed))[: 250 + 150 * (seed % 3)]


def innocents(world: World, first: int, count: int) -> list[nn.Module]:
    """Honest models on images and widths of their own."""
    return [world.trained(first + i, world.part(first + i), 24 + 12 * (i % 4)) for i in range(count)]


def copies(world: World, victim: nn.Module, seed: int) -> dict[str, nn.Module]:
    """What was made from the victim."""
    x = world.x[THIEF]
    with torch.no_grad():
        soft, hard = victim(x).softmax(-1), victim(x).argmax(-1)
    tuned = world.go_on((victim, torch.optim.Adam(victim.parameters(), lr=1e-3)), seed, 30, x, world.y[THIEF])
    return {
        "fine-tuned": tuned[0].eval(), "pruned 50 %": prune(victim, 0.5), "5 bits": quantise(victim, 5),
        "student, soft labels": world.trained(seed, THIEF, y=soft),
        "student, hard labels": world.trained(seed + 1, THIEF, y=hard),
    }  # fmt: skip


def reference(world: World, victim: nn.Module, pool: Pool) -> Reference:
    """As the product makes it."""
    return uapfast.generate(victim.eval(), world.x[UNSEEN], pool=pool, config=CONFIG)


def branches(world: World, states: list[State], seed: int, at: float, count: int) -> list[nn.Module]:
    """Reruns of the victim's training from the share ``at`` on (states in between are made anew)."""
    done = round(at * STEPS)
    whole, rest = divmod(done, STEPS // SEGMENTS)
    state = states[whole]
    if rest:  # the state of the victim itself: the order of a segment is that of its seed
        state = world.go_on(state, 1000 * seed + whole, rest, world.x[OWN], world.y[OWN])
    own = (world.x[OWN], world.y[OWN])
    return [world.go_on(state, 7000 + 100 * seed + i, STEPS - done, *own)[0].eval() for i in range(count)]


def tail(product: int, count: int) -> float:
    """Probability that the product of ``SEGMENTS`` ranks, uniform in 1..count, is at most ``product``."""
    weights = {1: 1.0}
    for _ in range(SEGMENTS):
        new: dict[int, float] = {}
        for value, weight in weights.items():
            for rank in range(1, count + 1):
                new[value * rank] = new.get(value * rank, 0.0) + weight / count
        weights = new
    return sum(weight for value, weight in weights.items() if value <= product)


def trajectory(
    world: World, states: list[State], seed: int, count: int, honest: list[nn.Module]
) -> Callable[[nn.Module], float]:
    """P of a suspect's ranks over all segments; each segment has points and whitening of its own."""
    found, step = [], STEPS // SEGMENTS
    for part in range(SEGMENTS):
        own = (world.x[OWN], world.y[OWN])
        reruns = [
            world.go_on(states[part], 9000 + 100 * seed + 10 * part + i, step, *own)[0] for i in range(count)
        ]
        pool = Pool.from_models(twins=[m.eval() for m in reruns], homologous=honest, branches=True)
        found.append(reference(world, states[part + 1][0], pool))

    def p(suspect: nn.Module) -> float:
        ranks = [uapfast.verify(ref, suspect).rank or count + 1 for ref in found]
        return tail(int(np.prod(ranks)), count + 1)

    return p


def judged(ref: Reference, suspects: dict[str, nn.Module], name: str) -> list[tuple[str, str, float, float]]:
    """Row, suspect, p-value, z; p is 1 where the verdict has none."""
    out = []
    for suspect, model in suspects.items():
        verdict = uapfast.verify(ref, model)
        out.append((name, suspect, 1.0 if verdict.p_value is None else verdict.p_value, verdict.z or 0.0))
    return out


def one_victim(world: World, seed: int, count: int) -> list[tuple[str, str, float, float]]:
    """All references of one victim, and what they say of all suspects."""
    states = world.states(seed)
    victim = states[-1][0].eval()
    honest, others = innocents(world, 100, 24), innocents(world, 500 + 20 * seed, 10)
    suspects = copies(world, victim, 300 + 10 * seed)
    suspects["continued from a half by another"] = branches(world, states, seed, 0.5, count + 1)[-1]
    suspects |= {f"honest {i}": m for i, m in enumerate(others)}
    suspects |= {
        f"honest {i}, {how}": change(m) for i, m in enumerate(others) for how, change in WORSE.items()
    }
    out = []
    full = [world.trained(4000 + 100 * seed + i, OWN) for i in range(12)]
    for number in (count, 12):
        pool = Pool.from_models(twins=full[:number], homologous=honest, init="random")
        out += judged(reference(world, victim, pool), suspects, f"{number} full twins")
    for at in (1 / 3, 1 / 2, 2 / 3):
        twins = branches(world, states, seed, at, count)
        pool = Pool.from_models(twins=twins, homologous=honest, branches=True, init="random")
        out += judged(reference(world, victim, pool), suspects, f"{count} branches from {at:.2f}")
        kinds = tuple(replace(m, kind="twin", parent=None) for m in pool.models)
        plain = replace(pool, models=kinds)
        name = f"{count} branches from {at:.2f}, no degraded innocents"
        out += judged(reference(world, victim, plain), suspects, name)
    p = trajectory(world, states, seed, count, honest)
    return out + [(f"trajectory, {SEGMENTS} x {count}", s, p(m), 0.0) for s, m in suspects.items()]


def table(rows: list[tuple[str, str, float, float]], victims: int, count: int) -> str:
    """What ``--out`` holds."""
    kinds: dict[str, Callable[[str], bool]] = {
        name: name.__eq__
        for name in ("fine-tuned", "pruned 50 %", "5 bits", "student, soft labels", "student, hard labels",
                     "continued from a half by another")
    }  # fmt: skip
    kinds |= {
        "honest": lambda s: s.startswith("honest") and "," not in s,
        "honest, degraded": lambda s: s.startswith("honest") and "," in s,
    }
    lines = [
        "# Branch twins and the trajectory test, digits", "",
        f"Made by `python -m benchmarks.branches --victims {victims} --twins {count}`. Small MLPs on",
        "digits; 24 homologous models (with branches a quarter of them degraded). Each cell: p at or below",
        "0.01, at or below 0.001, of how many; median z. The trajectory's product is exact; its floor is",
        f"{(count + 1.0) ** -SEGMENTS:.1g}.", "",
        "| twins | " + " | ".join(kinds) + " |", "|" + "---|" * (len(kinds) + 1),
    ]  # fmt: skip
    for name in dict.fromkeys(row[0] for row in rows):
        cells = []
        for chosen in kinds.values():
            own = [(p, z) for n, s, p, z in rows if n == name and chosen(s)]
            at = [sum(p <= level for p, _ in own) for level in (0.01, 0.001)]
            z = "" if name.startswith("trajectory") else f"; z {np.median([z for _, z in own]):.1f}"
            cells.append(f"{at[0]}, {at[1]} of {len(own)}{z}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    smallest = {
        n: min(p for m, s, p, _ in rows if m == n and s.startswith("honest")) for n in {r[0] for r in rows}
    }
    lines += ["", "Smallest p of an honest model, degraded ones included:", ""]
    lines += [f"* {name}: {smallest[name]:.1g}" for name in dict.fromkeys(row[0] for row in rows)]
    return "\n".join([*lines, "", f"Versions: {versions()}", ""])


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--victims", type=int, default=6)
    parser.add_argument("--twins", type=int, default=4, help="branches, and full twins beside them")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    world, rows = World(), []
    assert degraded.EVERY == 4  # the table's text says a quarter
    for seed in range(given.victims):
        rows += one_victim(world, seed + 1, given.twins)
        write_text(given.out, table(rows, seed + 1, given.twins))


if __name__ == "__main__":
    main()
