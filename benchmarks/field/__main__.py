"""Ask every suspect in every way against every pool, and make the table.

    python -m benchmarks.field --out DIR [--before FILE] [--page FILE] [--only NAME ...]

What was trained stays in DIR, and ``DIR/results.json`` holds every verdict with its reasons. ``--before`` is
the ``results.json`` of other code: the table then has two columns. ``--only`` takes names of pools, ways or
kinds of suspect, and writes no page unless told where.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.field.page import page
from benchmarks.field.run import run
from uapfast._version import versions
from uapfast.files import write_text

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.field",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--only", nargs="+", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    found = run(args.out, set(args.only)) | {"versions": versions()}
    write_text(args.out / "results.json", json.dumps(found, indent=0) + "\n")
    earlier = json.loads(args.before.read_text()) if args.before else None
    text = page(found, earlier)
    target = args.page or (None if args.only else RESULTS / "field.md")
    if target is not None:
        write_text(target, text)
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
