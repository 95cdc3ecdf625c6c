"""Screening on a GPU: checkpoints a second, against a plain loop on the same device in the same run.

    python -m benchmarks.gpu_screen --device cuda --out benchmarks/results [--tiny]

Checkpoints of ResNet-18 at 32 px and of a small CNN, written just before, so that they are in the page cache;
one reference each with 512 pairs of queries (x and x + t v), all of them asked of everybody (``early=False``)
unless the row says otherwise. "per second" is the rate after the first quarter, "with the start" that of all.
The plain loop builds the network, ``torch.load``s, ``load_state_dict``s, verifies, one checkpoint after the
other, once before it is timed. Twins and innocents are trained for a moment on textures only
(``benchmarks/networks.py``): how well they tell thieves from others is no subject here, that both ways say
the same is. "Of the roofline" is the share of the larger of two rates: operations of the queries' forwards
over a matrix product's of this run, bytes that their layers read and write over a copy's.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

import uapfast
from benchmarks import networks
from benchmarks.pipelines import Ceilings, Report, Row, arguments, heard, timed
from uapfast.models.registry import resolve_arch
from uapfast.screening.listing.collection import from_folder
from uapfast.screening.listing.entry import Defaults

HERE = Path(__file__).with_name("networks.py")
ALPHA = 1e-3
HONEST_STEPS = 60  # of 25 most small networks learn nothing, and generate refuses the pool


class Case(NamedTuple):
    """A population to be screened: how many files, and of how many the plain loop takes its time."""

    name: str
    arch: str
    files: int
    plain: int
    steps: int
    aim: int  # checkpoints a second


def cases(tiny: bool) -> list[Case]:
    small = "uapfast:cnn-small?channels=3&size=32"
    if tiny:
        return [
            Case("small CNN", small, 12, 4, 25, 500),
            Case("ResNet-18", f"{HERE}:resnet18_tiny", 6, 3, 25, 100),
        ]
    return [
        Case("small CNN", small, 2_000, 100, 60, 500),
        Case("ResNet-18", f"{HERE}:resnet18", 160, 24, 60, 100),
    ]


def reference_of(case: Case, device: str, tiny: bool) -> tuple[uapfast.Reference, dict[str, Tensor]]:
    """A reference of 512 pairs, and the victim's weights."""
    make = resolve_arch(case.arch)
    twins, others = (2, 6) if tiny else (5, 10)
    victim, *pool = (networks.trained(make, 32, s, device, case.steps)[0] for s in range(1 + twins))
    kinds = ("resnet", "vgg", "cnn")
    honest = [
        networks.trained(
            resolve_arch(f"uapfast:{kinds[s % 3]}-small?channels=3&size=32"), 32, 50 + s, device, HONEST_STEPS
        )[0]
        for s in range(others)
    ]
    images, labels = networks.textures(1_536 if not tiny else 200, 32, 97, device)
    views = 16 if not tiny else 4
    config = uapfast.GenerateConfig(points=32, views=views, uap_images=256, min_fooling=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = uapfast.Pool.from_models(twins=pool, homologous=honest, device=device)
        made = uapfast.generate(victim, images.cpu(), labels.cpu(), pool=models, config=config, device=device)
    return made, {k: v.detach().cpu() for k, v in victim.state_dict().items()}


def populate(folder: Path, case: Case, base: dict[str, Tensor]) -> None:
    """Files that differ in their weights and in nothing that a verdict sees; some as pickles as well."""
    (folder / "pt").mkdir(parents=True)
    (folder / "st").mkdir()
    for i in range(case.files):
        state = {k: v * (1 + 1e-6 * i) if v.is_floating_point() else v for k, v in base.items()}
        save_file(state, folder / "st" / f"{i:05d}.safetensors")
        if i < case.plain:
            torch.save(state, folder / "pt" / f"{i:05d}.pt")


def plain_loop(case: Case, folder: Path, reference: uapfast.Reference, device: str) -> dict[str, str]:
    found = {}
    for path in sorted((folder / "pt").glob("*.pt")):
        module = resolve_arch(case.arch)()
        module.load_state_dict(torch.load(path, weights_only=True))
        found[path.stem] = uapfast.verify(reference, module.eval(), alpha=ALPHA, device=device).decision
    return found


def screened(
    case: Case, folder: Path, reference: uapfast.Reference, device: str, **how: Any
) -> tuple[dict[str, str], Row]:
    """Decisions by file; the rate after the first quarter, and mean milliseconds of what rows tell."""
    suspects = from_folder(folder / "st", Defaults((case.arch,)))
    stamps: list[float] = []

    def seen(done: int, total: int, what: str) -> None:
        if done:
            stamps.append(time.perf_counter())

    with uapfast.screen(
        reference, suspects, alpha=ALPHA, fdr=1.0, device=device, progress=seen, **how
    ) as screening:
        rows = list(screening)
    kinds = ("read", "load", "forward", "score")
    spent = {f"ms {k}": 1e3 * sum(getattr(r, f"seconds_{k}") or 0 for r in rows) / len(rows) for k in kinds}
    begin = len(stamps) // 4  # networks are built and graphs recorded before
    steady = (len(stamps) - 1 - begin) / (stamps[-1] - stamps[begin])
    return {Path(r.name).stem: r.decision for r in rows}, {"steady": steady} | spent


def ways(tiny: bool) -> list[tuple[str, dict[str, Any]]]:
    some = [1, 2] if tiny else [2, 4, 8]
    return [
        *((f"float32, {w} workers", {"early": False, "workers": w}) for w in some),
        *((f"bf16, {w} workers", {"early": False, "workers": w, "precision": "bf16"}) for w in some[1:]),
        ("float32, early stopping", {"early": True, "workers": some[-1]}),
        ("bf16, early stopping", {"early": True, "workers": some[-1], "precision": "bf16"}),
    ]


def measure(report: Report, ceilings: Ceilings, case: Case, device: str, tiny: bool) -> None:
    reference, base = reference_of(case, device, tiny)
    queries = reference.plan.queries
    sample = torch.zeros(1, 3, 32, 32, device=device)
    operations, nbytes = networks.counted(resolve_arch(case.arch)().to(device).eval(), sample)
    size = sum(v.nbytes for v in base.values()) / 1e6
    work = f"{operations / 1e9:.3f} GFLOP and {nbytes / 1e6:.1f} MB a query, {queries} queries"
    report.facts(**{case.name: f"{size:.1f} MB, {work}"})
    folder = Path(tempfile.mkdtemp(prefix="gpu-screen-"))
    try:
        populate(folder, case, base)
        plainly = partial(plain_loop, case, folder, reference, device)
        plainly()  # what is made once is not the loop's
        want, seconds = timed(plainly, device)
        rate, best = len(want) / seconds, 0.0
        report.row({"way": "plain loop", "per second": rate, "times faster": 1.0})
        for name, how in ways(tiny):
            row = _row(partial(screened, case, folder, reference, device, **how), want, rate, device)
            if not how["early"]:
                precision = how.get("precision", "float32")
                moved = nbytes // (2 if precision == "bf16" else 1)
                floor = ceilings.floor(operations * queries, moved * queries, precision)
                row["TFLOP/s"] = operations * queries * row["per second"] / 1e12
                row["of the roofline"] = f"{100 * floor * row['per second']:.0f} %"
                if row["per second"] > best:
                    best = row["per second"]
                    told = f"{best:.0f} and {row['times faster']:.1f} ({name})"
                    aim = f"{case.name}, aim {case.aim} a second and 10 times the plain loop"
                    report.facts(**{aim: told})
            report.row({"way": name} | row)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _row(work: Callable[[], Any], want: dict[str, str], rate: float, device: str) -> Row:
    with heard() as said:
        (found, spent), seconds = timed(work, device)
    steady = spent.pop("steady")
    row: Row = {"per second": steady, "with the start": len(found) / seconds, "times faster": steady / rate}
    row["other decisions"] = sum(found[k] != v for k, v in want.items())
    return row | spent | {"warnings": "; ".join(said) or None}


def main() -> int:
    given = arguments(__doc__, 60.0)
    report = Report("Screening", given.out, "gpu_screen", given.seconds, given.device)
    ceilings = report.ceilings(given.device)
    for case in cases(given.tiny):
        report.part(case.name, partial(measure, report, ceilings, case, given.device, given.tiny))
    print(report.markdown())
    return min(report.failed, 1)


if __name__ == "__main__":
    sys.exit(main())
