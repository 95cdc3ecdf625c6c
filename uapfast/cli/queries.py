"""``queries``: what is to be asked, written out for somebody else to ask. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uapfast.cli import options as o
from uapfast.cli.base import app
from uapfast.cli.shell import Reporter, one_line, only_result_on_stdout


@app.command()
def queries(
    reference: o.ReferenceArgument,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="A new folder for queries.npz, png/ID.png and README.txt."),
    ],
    debug: o.DebugOption = False,
) -> None:
    """Write the questions for somebody else to ask; `verify --answers` reads what comes back."""
    with only_result_on_stdout() as stdout, Reporter() as progress:
        from uapfast.verbs.queries import write_queries

        found = write_queries(reference, out, progress=progress)
        print(f"wrote {one_line(out)}", *found.lines(), sep="\n", file=stdout, flush=True)
