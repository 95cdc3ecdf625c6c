"""UAPs of 16 candidates, all at once and as others make them, on one GPU and in one run.

    python -m benchmarks.gpu_art --device cuda --out benchmarks/results [--tiny]

A victim and 15 twins: ResNet-18 at 32 px, trained from seeds on textures (``benchmarks/networks.py``). The
Adversarial Robustness Toolbox (the extra ``peers``) makes one perturbation after another with its
``UniversalPerturbation``, in one pass over as many images (40 to 200) as a first look at four says that it
can do in 40 seconds. It gets as many of the 16 as fit its share of the time, at least one; its time for 16 is
its mean times 16. The rate that it reaches on common held-out images is what the others have to reach, on the
mean over the same candidates and from the same images: each is asked for it on a hold-out of its own, then
for a little more, until the common images confirm it; that is timed a second time, for all 16. The plain loop
(``benchmarks/peers/sgd_uap.py``) makes one after another, too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.peers.art_uap import art_uap
from benchmarks.peers.sgd_uap import fooled, sgd_uap
from benchmarks.pipelines import Ceilings, Report, Row, arguments, heard, timed
from uapfast import universal_perturbation

EPS, ASKED, ART_PASSES, HOLDOUT, HELD = 0.1, 0.8, 1, 0.25, 1_000
LEAST, MOST, LOOK = 40, 200, 4  # images
PASSES = 100  # over few images these are few steps
MORE = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
AIM = 20
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("margin, all in one call", {}),
    ("margin, bf16", {"precision": "bf16"}),
    ("margin, steps from the host", {"form": "loop"}),
)


class Case:
    """16 networks, images to train on and common ones to be held against."""

    def __init__(self, device: str, tiny: bool) -> None:
        make, self.count = (networks.resnet18_tiny, 2) if tiny else (networks.resnet18, 16)
        steps, self.least = (25, 16) if tiny else (60, LEAST)
        found = [networks.trained(make, 32, s, device, steps) for s in range(self.count)]
        self.models: list[nn.Module] = [model for model, _ in found]
        self.right = [right for _, right in found]
        self.images, _ = networks.textures(MOST, 32, 96, device)
        self.held, _ = networks.textures(100 if tiny else HELD, 32, 95, device)

    def rate(self, made: Tensor) -> float:
        """Mean share of the common images that each perturbation ``[n,C,H,W]`` fools its network at."""
        rates = [fooled(m, self.held, v) for m, v in zip(self.models, made, strict=False)]
        return sum(rates) / len(rates)


def by_art(case: Case, device: str, seconds: float) -> tuple[Tensor, list[float]]:
    """Perturbations of the first candidates, and what each took; ``case`` keeps the images taken."""

    def give(model: nn.Module, images: Tensor, seed: int) -> tuple[Tensor, float]:
        work = partial(art_uap, model, images, eps=EPS, fooling=ASKED, max_iter=ART_PASSES, seed=seed)
        return timed(work, device)

    give(case.models[0], case.images[:LOOK], 0)  # what is made once
    each = give(case.models[0], case.images[:LOOK], 0)[1] / LOOK
    case.images = case.images[: max(case.least, min(MOST, int(seconds / 2 / each)))]
    made, times, until = [], [], time.monotonic() + seconds
    for seed, model in enumerate(case.models):
        if times and time.monotonic() + max(times) > until:
            break
        v, took = give(model, case.images, seed)
        made.append(v)
        times.append(took)
    return torch.stack(made), times


def plain(case: Case, goal: float) -> Tensor:
    own = round(len(case.images) * HOLDOUT)
    give = partial(
        sgd_uap, images=case.images[own:], held=case.images[:own], eps=EPS, fooling=goal, passes=PASSES
    )
    return torch.stack([give(model, seed=s) for s, model in enumerate(case.models)])


def raced(case: Case, make: Callable[[float], Any], least: float, some: int, device: str) -> Row:
    """The goal at which the common images confirm the rate, and the time of making all with it."""
    row: Row = {}
    for goal in dict.fromkeys(min(0.99, max(0.01, least + more)) for more in MORE):
        with heard() as said:
            made, first = timed(partial(make, goal), device)
        row = {"first time": first, "fooling": case.rate(_v(made)[:some]), "goal": goal}
        if row["fooling"] >= least:
            break
    made, seconds = timed(partial(make, goal), device)
    row |= {"seconds": seconds, "of all": case.rate(_v(made)), "warnings": "; ".join(said) or None}
    return row | {"asked": getattr(made, "forwards", 0) + getattr(made, "backwards", 0)}


def _v(made: Any) -> Tensor:
    v: Tensor = made if isinstance(made, Tensor) else made.v
    return v


def race(report: Report, ceilings: Ceilings, device: str, tiny: bool) -> None:
    case = Case(device, tiny)
    operations, nbytes = networks.counted(case.models[0], case.images[:1])
    right = f"{min(case.right):.2f} to {max(case.right):.2f} right on textures"
    each = f"{operations / 1e9:.3f} GFLOP and {nbytes / 1e6:.1f} MB a forward"
    found, times = by_art(case, device, 2.0 if tiny else 80.0)
    report.facts(candidates=f"{case.count}, {each}, {right}; {len(case.images)} images, eps {EPS}")
    art, least = sum(times) / len(times) * case.count, case.rate(found)
    way = f"ART, {len(times)} of {case.count} made, {min(times):.1f} to {max(times):.1f} s each"
    report.row({"way": way, "seconds": art, "fooling": least})

    def ours(how: dict[str, Any], goal: float) -> Any:
        given = {"eps": EPS, "holdout": HOLDOUT, "seed": 0, "max_passes": PASSES} | how
        return universal_perturbation(models=case.models, images=case.images, fooling=goal, **given)

    ways = [(name, partial(ours, how)) for name, how in WAYS]
    for (name, make), (_, how) in zip(ways, WAYS, strict=True):
        row = raced(case, make, least, len(times), device)
        precision, asked = how.get("precision", "float32"), row.pop("asked")
        moved = asked * nbytes / (2 if precision == "bf16" else 1)
        row["of the roofline"] = (
            f"{100 * ceilings.floor(asked * operations, moved, precision) / row['seconds']:.0f} %"
        )
        _told(report, name, row, least, art)
    row = raced(case, partial(plain, case), least, len(times), device)
    row.pop("asked")
    _told(report, "plain loop", row, least, art)


def _told(report: Report, name: str, row: Row, least: float, art: float) -> None:
    """Write it down; what misses ART's rate is not faster than ART."""
    reached = row["fooling"] >= least
    row["times faster than ART"] = art / row["seconds"] if reached else None
    if name == WAYS[0][0]:
        said = f"{art / row['seconds']:.0f}" if reached else f"missed ART's rate ({least:.2f})"
        report.facts(**{f"aim: {AIM} times faster than ART for all candidates": said})
    report.row({"way": name} | row)


def main() -> int:
    given = arguments(__doc__, 60.0)
    report = Report("UAPs against ART", given.out, "gpu_art", given.seconds, given.device)
    ceilings = report.ceilings(given.device)
    report.part("candidates", partial(race, report, ceilings, given.device, given.tiny))
    print(report.markdown())
    return min(report.failed, 1)


if __name__ == "__main__":
    sys.exit(main())
