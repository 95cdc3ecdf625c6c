"""UAPs on a GPU: a large network alone, and a victim with its twins together, in every form of the step.

    python -m benchmarks.gpu_generate --device cuda --out benchmarks/results [--tiny]

The large network has the layers of ResNet-50 at 224 px, trained from a seed for some steps on textures that
are made from seeds (``benchmarks/networks.py``); 2,000 other textures, a ball of 10/255 (linf), a fooling
rate of 0.8 on held-out images to be reached. The small ones are 9 networks of one architecture with other
seeds, as a victim and its twins. Every time is taken twice: "first time" includes what is made once. "Of the
roofline" is the share of the larger of two times: the operations of the samples asked over the rate of a
matrix product of this run, and the bytes that their layers read and write over that of a copy. A backward
counts as a forward, so the share is at least that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.pipelines import Ceilings, Report, Row, arguments, heard, timed
from uapfast import universal_perturbation
from uapfast.models.registry import resolve_arch
from uapfast.types import UniversalPerturbation

EPS, GOAL = 10 / 255, 0.8
CANDIDATES = 9
LARGE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("recorded steps", {"form": "alone"}),
    ("recorded steps, bf16", {"form": "alone", "precision": "bf16"}),
    ("steps on the device", {"form": "alone", "graph": False}),
    ("steps from the host", {"form": "loop"}),
)
SMALL: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one by one, from the host", {"form": "loop"}),
    ("one by one, recorded", {"form": "alone"}),
    ("streams, recorded", {"form": "streams"}),
    ("stacked, recorded", {"form": "stacked"}),
    ("what auto takes", {"form": "auto"}),
)


def mean(value: float | Sequence[float]) -> float:
    return float(torch.tensor(value, dtype=torch.float64).mean())


def measured(
    name: str, work: Any, device: str, forward: tuple[int, int], ceilings: Ceilings, precision: str
) -> tuple[Row, UniversalPerturbation]:
    """A row: time, what it came to, and how near that is to what the device can do."""
    with heard() as said:
        first = timed(work, device)[1]
        made, seconds = timed(work, device)
    row: Row = {"steps": name, "seconds": seconds, "first time": first}
    row |= {"fooling": mean(made.fooling_rate), "random signs": mean(made.random_sign_rate)}
    row |= {"passes": mean(made.passes), "forward": made.forwards, "backward": made.backwards}
    samples = made.forwards + made.backwards
    operations, nbytes = (samples * each for each in forward)
    row["TFLOP/s"] = operations / seconds / 1e12
    nbytes //= 2 if precision == "bf16" else 1
    row["of the roofline"] = f"{100 * ceilings.floor(operations, nbytes, precision) / seconds:.0f} %"
    row["warnings"] = "; ".join(said) or None
    return row, made


def large(report: Report, ceilings: Ceilings, device: str, tiny: bool) -> None:
    make = networks.resnet50_tiny if tiny else networks.resnet50
    side, count, steps = (32, 64, 25) if tiny else (224, 2_000, 150)
    model, right = networks.trained(make, side, 0, device, steps, 16 if tiny else 64)
    images, _ = networks.textures(count, side, 99, device)
    forward = networks.counted(model, images[:1])
    size = sum(p.numel() for p in model.parameters()) / 1e6
    each = f"{forward[0] / 1e9:.2f} GFLOP and {forward[1] / 1e6:.1f} MB a forward"
    network = f"{size:.1f} M parameters, {each}, {right:.3f} right on textures"
    report.facts(**{"large network": network, "images": f"{count} of {side} px"})
    reached: list[float] = []
    for name, how in LARGE:
        work = partial(universal_perturbation, model, images, eps=EPS, fooling=GOAL, seed=0, **how)
        precision = how.get("precision", "float32")
        row, _ = measured(name, work, device, forward, ceilings, precision)
        reached += [row["seconds"]] if row["fooling"] >= GOAL else []
        said = f"{min(reached):.2f} s" if reached else "no form reached the rate"
        report.facts(**{"large, aim 5 s at a fooling rate of 0.8": said})
        report.row(row)


def candidates(arch: str, side: int, count: int, device: str, steps: int) -> list[nn.Module]:
    return [networks.trained(resolve_arch(arch), side, s, device, steps)[0] for s in range(count)]


def small(report: Report, ceilings: Ceilings, kind: str, device: str, tiny: bool) -> None:
    side, count, steps = (16, 48, 25) if tiny else (32, 1_000, 40)
    arch = f"uapfast:{kind}?channels=3&size={side}"
    models = candidates(arch, side, 2 if tiny else CANDIDATES, device, steps)
    images, _ = networks.textures(count, side, 98, device)
    forward = networks.counted(models[0], images[:1])
    base: tuple[Tensor, float] | None = None
    for name, how in SMALL:
        given = {"eps": 0.1, "fooling": 0.95, "max_passes": 2 if tiny else 5, "seed": 0} | how
        work = partial(universal_perturbation, models=models, images=images, **given)
        row, made = measured(name, work, device, forward, ceilings, "float32")
        base = base or (made.v, row["seconds"])
        row["largest difference of v"] = float((made.v - base[0]).abs().max())
        row["times faster"] = base[1] / row["seconds"]
        report.row(row)


def main() -> int:
    given = arguments(__doc__, 90.0)
    report = Report("UAPs", given.out, "gpu_generate", given.seconds, given.device)
    ceilings = report.ceilings(given.device)
    for kind in ("resnet-small", "mlp-small"):
        report.part(kind, partial(small, report, ceilings, kind, given.device, given.tiny))
    report.part("large", partial(large, report, ceilings, given.device, given.tiny))
    print(report.markdown())
    return min(report.failed, 1)


if __name__ == "__main__":
    sys.exit(main())
