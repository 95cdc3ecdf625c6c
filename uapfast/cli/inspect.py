"""What a file or folder is: ``inspect``. Heavy imports stay inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from uapfast.cli import options as o
from uapfast.cli.base import app
from uapfast.cli.shell import only_result_on_stdout
from uapfast.cli.show import lines


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or folder that may be a suspect.")],
    as_json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> None:
    """Show what a file or folder is, and how it would be queried. Needs no reference; executes nothing."""
    with only_result_on_stdout() as stdout:
        from uapfast.suspects.inspect import inspect as run

        found = run(path)
        if as_json:
            print(json.dumps(found, allow_nan=False), file=stdout, flush=True)
        else:
            print(*lines(found), sep="\n", file=stdout, flush=True)
