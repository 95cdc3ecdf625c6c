"""From a report's data to one self-contained HTML page (jinja2, every string escaped)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from uapfast.files import write_text
from uapfast.report import figures
from uapfast.report.data import DetectionSummary, Report, SuspectRow, summarise_detection

DECISIONS = {
    "piracy": ("✖", "piracy"),
    "independent": ("○", "independent"),
    "inconclusive": ("?", "inconclusive"),
    "invalid": ("!", "invalid"),
    "unavailable": ("-", "unavailable"),
}
MADE = {
    "modification": "weights modified",
    "extraction": "trained on answers",
    "unclear": "how it was made: unclear",
}
ORDER = ("piracy", "inconclusive", "independent", "invalid", "unavailable")


TEMPLATES = Path(__file__).parent / "templates"


def template(name: str, **filters: Callable[..., Any]) -> Template:
    """A page's template: every string escaped, a name that is missing an error, ``p`` for p-values."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"p": p_text, **filters}
    return environment.get_template(name)


def p_text(value: float | None) -> str:
    """A p-value: plain down to 0.001, then as a power of ten."""
    if value is None:
        return "–"
    if value >= 1e-3:
        return f"{value:.2g}"
    if value < 1e-15:  # beyond what double precision and a t distribution can honestly tell
        return "< 1e-15"
    return f"{value:.0e}".replace("e-0", "e-")


def _lanes(report: Report, key: str) -> list[figures.Lane]:
    """Rows of dots: the pool's innocents and surrogates, then the suspects by group."""
    calibration = report.calibration
    lanes = [
        figures.Lane(name, tuple(float(x) for x in calibration[f"{source}_{key}"]), "pool")
        for source, name in (("innocent", "pool: innocents"), ("surrogate", "pool: surrogates"))
        if len(calibration.get(f"{source}_{key}", ()))
    ]
    groups: dict[tuple[str, str], list[float]] = {}
    for row in report.rows:
        value = getattr(row.verdict, key)
        if value is not None:
            role: str = row.truth or "pool"
            group = row.group or row.truth
            lane = f"suspects: {group}" if group else "suspects"
            groups.setdefault((lane, role), []).append(float(value))
    order = {"innocent": 0, "pool": 1, "piracy": 2}
    for (name, role), values in sorted(groups.items(), key=lambda item: order[item[0][1]]):
        lanes.append(figures.Lane(name, tuple(values), role))
    return [lane for lane in lanes if np.isfinite(lane.values).all()]


def _plots(report: Report, summary: DetectionSummary) -> dict[str, dict[str, str]]:
    """Every plot in both themes: name to {"light": data URI, "dark": data URI}."""
    out: dict[str, dict[str, str]] = {}
    z, similarity = _lanes(report, "z"), _lanes(report, "similarity")
    limit = None  # a small pool convicts nobody at a fine level
    if np.isfinite(report.threshold):
        limit = (report.threshold, f"convicted from z = {report.threshold:.2f} (level {report.alpha:g})")
    themes = (("light", figures.LIGHT), ("dark", figures.DARK))
    if z:
        out["z"] = {t: figures.dots(z, "z: distance from the twins", limit, p) for t, p in themes}
    if similarity:
        label = "similarity with the victim (cosine of embeddings)"
        out["similarity"] = {t: figures.dots(similarity, label, None, p) for t, p in themes}
    if summary.curves:
        out["roc"] = {t: figures.roc(summary.curves, p) for t, p in themes}
    return out


def _strip(report: Report) -> list[dict[str, Any]]:
    picture = figures.perturbation(report.v)
    return [
        {"x": figures.photo(s.x), "v": picture, "moved": figures.photo(s.moved), "answers": s.answers}
        for s in report.strip
    ]


def _floors(rows: tuple[SuspectRow, ...]) -> str:
    """The least rank p-values that the pool allows, the same for all suspects; empty without any."""
    parts = []
    sides = {"p_candidate_floor": "twins", "p_suspect_floor": "innocents", "p_joint_floor": "both together"}
    for side, name in sides.items():
        found = {v for row in rows if (v := getattr(row.verdict, side)) is not None}
        parts += [f"{p_text(max(found))} against the {name}"] if found else []
    return ", ".join(parts)


def against(rows: tuple[SuspectRow, ...]) -> str:
    """What the p-values were taken against, with the exact floor; empty without any row."""
    if not rows:
        return ""
    told = rows[0].verdict.settings
    floors = [v for r in rows if (v := r.verdict.p_joint_floor or r.verdict.p_suspect_floor) is not None]
    least = f" (exact down to {max(floors):.3g})" if floors else ""
    return f"{told.get('twins', '?')} twins and {told.get('innocents', '?')} innocents{least}"


def _order(row: SuspectRow) -> tuple[int, float, str]:
    """Convictions first, then what is open, then the independent, each by p; unusable suspects last."""
    p = row.verdict.p_value
    return ORDER.index(row.verdict.decision), 2.0 if p is None else p, row.name


def render(report: Report) -> str:
    """The page as text.

    Everything is inside: style, plots (inline SVG for a light and a dark theme) and pictures. No script,
    nothing is fetched. Strings from outside (names, reasons, settings) are escaped.
    """
    summary = summarise_detection(report.rows)
    return template("report.html").render(
        report=report,
        rows=sorted(report.rows, key=_order),
        summary=summary,
        decisions=DECISIONS,
        made=MADE,
        plots=_plots(report, summary),
        uap=figures.perturbation(report.v),
        strip=_strip(report),
        settings=json.dumps(report.settings, indent=2, sort_keys=True, default=str),
        floors=_floors(report.rows),
        pool=against(report.rows),
        known=any(r.truth for r in report.rows),
        accuracies=any(r.accuracy is not None for r in report.rows),
    )


def write_report(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write the page, whole or not at all.

    Raises:
        StorageError: the folder is missing or unwritable, or the disk is full.
    """
    write_text(path, render(report))
    return Path(path)
