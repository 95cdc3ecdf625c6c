"""``report``: a screening table as one HTML page, a conviction as an ML-BOM. Heavy imports stay inside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uapfast.cli import options as o
from uapfast.cli.base import app
from uapfast.cli.shell import one_line, only_result_on_stdout

if TYPE_CHECKING:
    from uapfast.report.bom import Accused


@app.command()
def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A table of `uapfast screen`; for --bom also a statement of `verify`."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="report.html", help="Write the page of a table here.")
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            "--reference",
            metavar="REF",
            help="The reference of the table; the page then shows its UAPs and innocents.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Heading of the page.")] = None,
    pages: Annotated[
        Path | None,
        typer.Option(
            "--pages",
            metavar="DIR",
            help="Folder for a page of each convicted or inconclusive row (needs --reference).",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="DIR", help="Folder of `screen --record`; --pages link it."),
    ] = None,
    most: Annotated[int, typer.Option("--most", metavar="N", help="Most pages of --pages.")] = 50,
    bom: Annotated[
        Path | None,
        typer.Option("--bom", metavar="BOM.json", help="CycloneDX 1.7 ML-BOM of the convicted (p_holm)."),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model",
            metavar="ORG/NAME",
            help="The victim's name on a hub; suggests a base_model line, in --bom and here.",
        ),
    ] = None,
    debug: o.DebugOption = False,
) -> None:
    """Make one HTML page of a screening table (it opens offline), or an ML-BOM of what is convicted.

    An ML-BOM is written for convictions only: it accuses, with evidence and counter-evidence, and settles
    nothing. Whoever is not convicted is not named in it.
    """
    from uapfast.files import require_writable

    _check_options(out, bom, pages, record, base_model)
    with only_result_on_stdout() as stdout:
        for path, kind in ((out, "page"), (bom, "bill")):
            if path is not None:
                require_writable(path, kind)
        if bom is not None and out is None and _is_json(source):
            said = _bom(_stated(source, reference or ()), bom, base_model)
        else:
            said = _table(source, out, reference or (), title, (pages, record, most), bom, base_model)
        print(*said, sep="\n", file=stdout, flush=True)


def _check_options(
    out: Path | None, bom: Path | None, pages: Path | None, record: Path | None, base_model: str | None
) -> None:
    from uapfast.config import check

    check(out is not None or bom is not None, "report", "--out or --bom", "given", "neither")
    apart = out is None or bom is None or os.path.realpath(out) != os.path.realpath(bom)
    check(apart, "report", "--bom", "another file than --out", str(bom))
    check(pages is None or out is not None, "report", "--pages", "given with --out", str(pages))
    check(record is None or pages is not None, "report", "--record", "given with --pages", str(record))
    check(base_model is None or bom is not None, "report", "--base-model", "given with --bom", base_model)


def _is_json(path: Path) -> bool:
    """Whether a file is JSON, as statements are, and no table; False for none."""
    from uapfast.files import open_plain

    try:
        with open_plain(path) as stream:
            return stream.read(1) == b"{"
    except OSError:
        return False


def _stated(path: Path, references: Sequence[Path]) -> list[Accused]:
    """The suspect of a statement."""
    from uapfast.config import check
    from uapfast.reference import load
    from uapfast.report.stated import stated

    check(len(references) < 2, "report", "--reference", "given once for a statement", len(references))
    known = load(references[0]) if references else None
    return [stated(path, known, references[0].name if references else None)]


def _table(
    source: Path,
    out: Path | None,
    paths: Sequence[Path],
    title: str | None,
    paged: tuple[Path | None, Path | None, int],
    bom: Path | None,
    base_model: str | None,
) -> list[str]:
    """What is written of a table; lines for people. ``paged``: where pages go, of which records, how many."""
    from uapfast.reference import load
    from uapfast.report.screened import collect_screen
    from uapfast.report.screened_page import write_screen_report
    from uapfast.report.screened_records import Records
    from uapfast.report.screened_suspects import accused_of, write_pages

    pages, record, most = paged
    records = None if record is None else Records(record)
    known = [load(path) for path in paths]
    report = collect_screen(source, known, title=title)
    said = [] if bom is None else _bom(accused_of(report, known), bom, base_model)
    if out is not None:
        if pages is not None:
            files = {r.sha256: path for r, path in zip(known, paths, strict=True)}
            found = write_pages(report, out, pages, most=most, files=files, records=records)
            left = "" if found.pages == found.rows else f" of {found.rows} (--most)"
            said.append(f"wrote {found.pages}{left} pages in {one_line(pages)}")
            if record is not None and found.alone:
                said.append(f"{found.alone} of them came of no record in {one_line(record)}")
        write_screen_report(report, out)
        said.append(f"wrote {one_line(out)}")
    return said


def _bom(accused: Sequence[Accused], path: Path, base_model: str | None) -> list[str]:
    """Write the bill; what is said of it."""
    from uapfast.report.bom import base_model_line, make_bom, write_bom

    write_bom(make_bom(accused, base_model=base_model), path)
    said = [f"wrote {one_line(path)}: {len(accused)} accused"]
    if base_model is not None:
        for one in accused:
            line = base_model_line(one, base_model)
            said += [f"{one_line(one.name, 60)}: {line or 'no base_model line: it looks trained on answers'}"]
    return said
