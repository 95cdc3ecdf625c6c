"""What an owner runs before a pool is trained, or a model published: ``plan`` and ``designate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from uapfast.cli import options as o
from uapfast.cli.base import app
from uapfast.cli.shell import one_line, only_result_on_stdout
from uapfast.cli.show import plan_lines


@app.command()
def plan(
    twins: Annotated[
        str, typer.Option("--twins", metavar="M[,M...]", help="The numbers of twins to compare.")
    ] = "2,3,6,12",
    homologous: o.HomologousOption = 40,
    surrogates: o.SurrogatesOption = 2,
    branch_at: o.BranchAtOption = None,
    victim_hours: Annotated[
        float | None,
        typer.Option("--victim-hours", metavar="H", help="How many hours one training of the victim takes."),
    ] = None,
    as_json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Say before any training how many trainings a pool costs, and what it will find."""
    with only_result_on_stdout() as stdout:
        from uapfast.pool.forecast import forecast

        found = forecast(
            o.whole_numbers(twins, "--twins") or (), homologous, surrogates=surrogates, branch_at=branch_at,
            victim_hours=victim_hours,
        )  # fmt: skip
        text = [json.dumps(found, allow_nan=False)] if as_json else plan_lines(found)
        print(*text, sep="\n", file=stdout, flush=True)


@app.command()
def designate(
    weights: Annotated[
        list[Path], typer.Argument(metavar="WEIGHTS...", help="Weights of models that were trained alike.")
    ],
    arch: o.ArchOption,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="RECORD",
            help="The record of the draw (JSON) is written here; no file may be there yet.",
        ),
    ],
    debug: o.DebugOption = False,
) -> None:
    """Draw which of several models trained alike is published; the others are its twins."""
    with only_result_on_stdout() as stdout:
        from uapfast.pool.draw import designate as draw

        record = draw(arch, list(weights), out)
        print(
            f"drawn: {one_line(record['drawn'])} of {len(record['models'])} at {record['time']}",
            f"wrote {one_line(out)}",
            f"SHA-256 {record['sha256']}: have it dated by somebody else before you publish the model",
            sep="\n",
            file=stdout,
            flush=True,
        )
