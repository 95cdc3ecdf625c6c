"""``report``: a screening table as one HTML page. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uapfast.cli import options as o
from uapfast.cli.base import app
from uapfast.cli.shell import one_line, only_result_on_stdout


@app.command()
def report(
    table: Annotated[Path, typer.Argument(metavar="TABLE.parquet", help="Written by `uapfast screen`.")],
    out: Annotated[Path, typer.Option("--out", metavar="report.html", help="Where the page goes.")],
    reference: Annotated[
        list[Path] | None,
        typer.Option("--reference", metavar="REF", help="Of the table: shows its UAPs and innocents."),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Heading.")] = None,
    debug: o.Debug = False,
) -> None:
    """Make one HTML page of a screening table; it opens offline."""
    from uapfast.files import require_writable

    require_writable(out, "page")
    with only_result_on_stdout() as stdout:
        from uapfast.reference import load
        from uapfast.report.screened import collect_screen
        from uapfast.report.screened_page import write_screen_report

        known = [load(path) for path in reference or ()]
        write_screen_report(collect_screen(table, known, title=title), out)
        print(f"wrote {one_line(out)}", file=stdout, flush=True)
