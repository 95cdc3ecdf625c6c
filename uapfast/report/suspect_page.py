"""From a verdict on one suspect to one page for the person who decides what follows from it.

It opens offline, runs no script, and says no more than the verdict: neither that somebody copied, nor how
likely that is. Names come from files that nobody trusts: jinja2 escapes every string.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uapfast.examination.levels import committed_level, levels_said
from uapfast.files import write_text
from uapfast.report import figures
from uapfast.report.alternatives import STATUS
from uapfast.report.page import DECISIONS, p_text, template
from uapfast.report.screened import escaped_text
from uapfast.report.suspect import SuspectReport
from uapfast.report.suspect_figure import axis_of, lanes_of, standing_picture
from uapfast.types import Verdict

THEMES = {"light": figures.LIGHT, "dark": figures.DARK}
NAME = 120  # characters of a suspect's name; the middle of a longer one gives way
SAYS = {
    "modification": "Its answers look like those of a model that was made by changing the victim's weights.",
    "extraction": "Its answers look like those of a model that was trained on the victim's answers.",
    "unclear": "Its answers do not tell in which way it may descend from the victim.",
}  # weaker than the decision


def named(text: str) -> str:
    """A name for the page: control characters shown, not too long, turning nothing beside it around."""
    found = escaped_text(text)
    found = found if len(found) <= NAME else f"{found[: NAME - 40]} ... {found[-34:]}"
    turned = any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in found)
    return f"\N{FIRST STRONG ISOLATE}{found}\N{POP DIRECTIONAL ISOLATE}" if turned else found


def sentence(report: SuspectReport) -> str:
    """The verdict in one sentence, no more than it says."""
    v, name = report.verdict, named(report.name)
    p = "" if v.p_value is None else f"p {'≤' if v.p_is_bound else '='} {p_text(v.p_value)}"
    if v.decision == "piracy":
        twins = f"its {report.twins} twins', and than those of" if report.twins > 1 else "those of"
        nearer = (
            f"nearer to this victim's than to {twins}" if report.twins > 1 else "nearer to this victim's than"
        )
        return (
            f"The answers of {name} are {nearer} {report.innocents} honest models "
            f"({p}, at or below the level {v.alpha:g})."
        )
    if v.decision == "independent":
        return f"Nothing in the answers of {name} points to this victim ({p}); that is no proof of innocence."
    if v.decision == "inconclusive":
        said = f" ({p}, level {v.alpha:g})" if p else ""
        return f"The answers of {name} neither reach the level of a conviction nor clear it{said}."
    if v.decision == "unavailable":
        return f"{name} did not answer enough: nothing is known about its descent."
    return f"{name} gave no answers that could be used: nothing is known about its descent."


def _plots(report: SuspectReport) -> dict[str, dict[str, str]]:
    """The picture by width and theme: ``data:`` SVGs; empty where there is nothing to draw."""
    if report.standing is None:
        return {}
    lanes = lanes_of(report.standing, report.verdict.decision == "piracy")
    axis = axis_of(report.standing)
    return {
        size: {theme: standing_picture(lanes, axis, p, size) for theme, p in THEMES.items()}
        for size in ("wide", "narrow")
    }


def percent(share: str) -> str:
    """``0.00088`` as ``0.088 %``: a decimal share as a percentage, no digit lost or made up."""
    whole, _, digits = share.partition(".")
    moved = f"{whole}{digits[:2].ljust(2, '0')}".lstrip("0") or "0"
    rest = digits[2:]
    return f"{moved}.{rest} %" if rest else f"{moved} %"


def rate(row: Mapping[str, Any]) -> dict[str, str]:
    """One row of the measured error rates, for people."""
    zero = not float(row["accused"])
    interval = f"{percent(row['low'])} to {percent(row['high'])}"
    if row["kind"] == "models":
        where = f"{row['world']}, by {row['access']}"
        victims = "1 victim" if row["victims"] == 1 else f"{row['victims']} victims"
        n = f"{row['models']} honest models, {victims} with {row['twins']} twins each"
        degraded = row["degraded"]
        if degraded is not None:
            n += f"; {degraded['hits']} of {degraded['pairs']:,} pairs with degraded honest models accused"
    else:
        kept = "what the test assumes" if row["within"] else "beyond what it assumes"
        where = f"simulated, {kept}: {row['world']}"
        worlds = int(row["worlds"])
        where += f" (the worst of {worlds} worlds)" if worlds > 1 else ""
        n = f"{row['runs']:,} draws, {row['twins']} twins"
    return {
        "where": where,
        "level": str(row["alpha"]),
        "accused": "none" if zero else percent(row["accused"]),
        "interval": f"{interval} ({row['interval']})",
        "n": n,
        "source": str(row["source"]),
        "sha256": str(row["source_sha256"]),
    }


def _sides(v: Verdict) -> list[tuple[str, str, str, str]]:
    """p-values: name, p, exact p, floor."""
    found = []
    for key, name in (("candidate", "among the victim's twins"), ("suspect", "among honest models"),
                      ("joint", "both at once")):  # fmt: skip
        p = getattr(v, f"p_{key}")
        if p is not None:
            exact, floor = getattr(v, f"p_{key}_exact"), getattr(v, f"p_{key}_floor")
            found.append((name, p_text(p), p_text(exact), p_text(floor)))
    return found


def render_suspect(report: SuspectReport) -> str:
    """The page as text: everything inside, nothing fetched, no script."""
    return template("suspect.html", shown=escaped_text, named=named).render(
        report=report,
        v=report.verdict,
        sentence=sentence(report),
        relation=SAYS.get(report.verdict.relation or ""),
        decisions=DECISIONS,
        plots=_plots(report),
        sides=_sides(report.verdict),
        rates=[rate(r) for r in report.rates],
        status=STATUS,
        commands=report.evidence.commands,
        convicted=report.verdict.decision == "piracy",
        levels=levels_said(report.verdict.alpha, committed_level(report.evidence.commitment)),
    )


def write_suspect_page(report: SuspectReport, path: str | os.PathLike[str]) -> Path:
    """Write the page, whole or not at all.

    Raises:
        StorageError: the folder is missing or unwritable, or the disk is full.
    """
    write_text(path, render_suspect(report))
    return Path(path)


__all__ = ["named", "percent", "rate", "render_suspect", "sentence", "write_suspect_page"]
