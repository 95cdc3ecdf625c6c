"""The demo's closing words in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from uapfast.report import Report, summarise_detection
from uapfast.report.page import against, p_text

STYLES = {
    "piracy": "bold red",
    "independent": "green",
    "inconclusive": "yellow",
    "invalid": "magenta",
    "unavailable": "magenta",
}


def _console(stream: TextIO) -> Console:
    # Off a terminal, rich would fold the table at 80 columns.
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 110)


def print_table(report: Report, stream: TextIO) -> None:
    """One line a suspect, then the rates."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("suspect", "left"), ("how it was made", "left"), ("accuracy", "right"),
                          ("z", "right"), ("p", "right"), ("verdict", "left")):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    group = None
    for row in report.rows:
        if group not in (None, row.group):
            table.add_row()
        group = row.group
        v = row.verdict
        accuracy = "-" if row.accuracy is None else f"{row.accuracy:.3f}"
        z = "-" if v.z is None else f"{v.z:.1f}"
        verdict = Text(v.decision, style=STYLES[v.decision])
        table.add_row(Text(row.name), Text(row.made), accuracy, z, p_text(v.p_value), verdict)
    console = _console(stream)
    console.print(table)
    console.print(
        f"p against {against(report.rows)}; independent: nothing points to the victim, no exoneration"
    )


def print_summary(report: Report, folder: Path, seconds: float, example: str, stream: TextIO) -> None:
    """Rates over all suspects, and where things are."""
    console, summary = _console(stream), summarise_detection(report.rows)
    console.print()
    console.print(
        f"convicted: {summary.convicted} of {summary.piracy} piracy models at level {report.alpha:g}"
    )
    console.print(f"false accusations: {summary.accused} of {summary.innocents} innocents")
    for curve in summary.curves:
        console.print(
            f"AUC, {curve.group}: {curve.auc:.3f} ({curve.piracy} against {curve.innocents} innocents)"
        )
    console.print(f"report: {folder / 'report.html'}   ({seconds:.0f} s)", soft_wrap=True)
    console.print("one of them again, from its file:")
    console.print(f"  {example}", soft_wrap=True, markup=False)
