"""From a screening table to one self-contained HTML page.

Names and messages come from files that nobody trusts: jinja2 escapes every string, the script of the
page reads its data from a JSON block and writes text nodes only, and the page's content security
policy names that one script by its hash, so that nothing else would run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy import stats

from uapfast.errors import InputError
from uapfast.examination.calibration import reference_summary, surrogates_above, threshold_z
from uapfast.files import write_text
from uapfast.method import spread
from uapfast.report import figures
from uapfast.report.figures import Lane
from uapfast.report.page import DECISIONS, MADE, TEMPLATES, template
from uapfast.report.screen_figures import lanes
from uapfast.report.screened import ORDER, Screened, ScreenReport, TableRow, escaped_text
from uapfast.screening.table.correction import TERMS

STATIC = 100  # rows that are there without JavaScript
MOST = 20_000  # rows in the page; the table has all
PLOTTED = 6  # references with plots
PICTURES = 16  # candidates with a picture
LEAST_P = 1e-15  # beyond what double precision and a t distribution can honestly tell
NUMBERS = (
    "p_value", "p_candidate", "p_candidate_floor", "p_candidate_exact", "p_suspect", "p_suspect_floor",
    "p_suspect_exact", "p_joint", "p_joint_floor", "p_joint_exact", "p_view", "q_value", "p_holm",
    "similarity", "z",
    "z_pool", "z_population", "p_population",
    "rank", "views_used", "queries_used", "queries_full", "alpha", "seconds",
)  # fmt: skip
TEXTS = ("name", "path", "sha256", "same_as", "error_message")
REPEATED = ("reference", "arch", "decision", "relation", "output", "error_class", "known_copy", "pool")


def seconds(row: TableRow) -> float:
    """What the row cost in all."""
    return float(sum(row[f"seconds_{stage}"] for stage in ("read", "load", "forward", "score")))


def _number(value: float | int | None) -> float | int | None:
    if value is None or not np.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.5g}")


def payload(rows: Sequence[TableRow]) -> str:
    """The rows for the page's script: JSON, columns beside each other, repeated strings once.

    Without any character that means something to HTML.
    """
    strings: dict[str, int] = {}

    def index(text: str | None) -> int:
        return -1 if text is None else strings.setdefault(escaped_text(text), len(strings))

    columns: dict[str, list[Any]] = {
        n: [_number(seconds(r) if n == "seconds" else r[n]) for r in rows] for n in NUMBERS
    }
    columns |= {n: [None if r[n] is None else escaped_text(r[n]) for r in rows] for n in TEXTS}
    columns |= {n: [index(row_against(r) if n == "pool" else r[n]) for r in rows] for n in REPEATED}
    columns["page"] = [r.get("page") for r in rows]  # an address of our own making
    columns["reasons"] = [[index(x) for x in r["reasons"]] for r in rows]
    text = json.dumps({"columns": columns, "strings": list(strings)}, allow_nan=False, separators=(",", ":"))
    for c in "<>&\u2028\u2029":  # ensure_ascii has escaped the last two already
        text = text.replace(c, f"\\u{ord(c):04x}")
    return text


def _told(row: TableRow) -> dict[str, Any]:
    try:
        found = json.loads(row["settings"])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def row_against(row: TableRow) -> str:
    """What the row's p-value was taken against: m and n; a row without them does not tell."""
    told = _told(row)
    return f"{told.get('twins', '?')} twins and {told.get('innocents', '?')} innocents"


def _groups(part: Screened, column: str) -> list[Lane]:
    out = []
    for decision in ORDER:
        found = [r[column] for r in part.rows if r["decision"] == decision and r[column] is not None]
        values = tuple(float(v) for v in found if np.isfinite(v))
        if values:
            out.append(Lane(decision, values, decision))
    return out


def _pool(part: Screened, told: dict[str, Any], alpha: float) -> tuple[float, float, Lane | None] | None:
    """Where ``z_pool`` reaches ``alpha``, its degrees of freedom, and the pool's own; None if untold."""
    innocents, twins = told.get("innocents"), told.get("twins")
    if not isinstance(innocents, int) or not isinstance(twins, int) or innocents < 3:
        return None
    by_twins = twins >= 2 and told.get("encoder") == "lineage"
    freedom = innocents - 1.0
    at = spread.height(alpha, twins, innocents) if by_twins else float(stats.t.isf(alpha, freedom))
    if part.reference is None:
        return at, freedom, None
    own = part.reference.statistic.pool_scores().innocent_statistic
    width = float(own.std(ddof=1))
    lane = Lane("pool: innocents", tuple(float(x) for x in (own - own.mean()) / width), "pool")
    return at / min(width, 1.0) if by_twins else at, freedom, lane  # as decision.among_innocents divides


def plots(part: Screened) -> dict[str, dict[str, str]]:
    """The plots of one reference in both themes: name to {"light": data URI, "dark": data URI}."""
    out: dict[str, dict[str, str]] = {}
    themes = (("light", figures.LIGHT), ("dark", figures.DARK))
    if not part.rows:
        return out
    alpha = float(part.rows[0]["alpha"])
    groups = _groups(part, "p_value")
    if groups:
        groups = [Lane(g.name, tuple(-np.log10(np.maximum(g.values, LEAST_P))), g.role) for g in groups]
        edge = max(4.0, -np.log10(alpha) + 1.0, *(max(g.values) for g in groups))
        limit = (-np.log10(alpha), f"p = {alpha:g}")
        label = "strength of the evidence: -log10 of the p-value"
        out["p"] = {t: lanes(groups, label, limit, c, limits=(0.0, edge * 1.02)) for t, c in themes}
    groups, pool = _groups(part, "z_pool"), _pool(part, _told(part.rows[0]), alpha)
    if groups and pool is not None:
        at, freedom, own = pool
        low, high = np.percentile(np.concatenate([g.values for g in groups]), [0.1, 99.9])
        limits = (float(max(min(low, -4.0), -12.0)), float(min(max(high, at + 2), 6 * at)))
        x = np.linspace(*limits, 400)
        curve = ("expected of innocents", x, stats.t.pdf(x, freedom))
        everything = [*groups, own] if own else groups
        label = "suspect side: standard deviations above the pool's innocents"
        limit = (at, f"p = {alpha:g} on this side")
        out["z"] = {t: lanes(everything, label, limit, c, limits=limits, curve=curve) for t, c in themes}
    return out


def _reference(part: Screened) -> dict[str, Any] | None:
    """UAPs, candidates and a few figures of a reference that was given."""
    ref = part.reference
    if ref is None:
        return None
    uaps = ref.uaps.numpy()
    names = ref.candidates
    alpha = float(part.rows[0]["alpha"])
    pool, power = reference_summary(ref)["pool"], surrogates_above(ref, alpha)
    ray = ", ".join(f"{t:g}" for t in ref.plan.scale)
    facts = {
        "candidates": f"the victim and {len(names) - 1} twins: {', '.join(map(escaped_text, names))}",
        "pool": f"{pool['twin']} twins, {pool['homologous']} innocents, {pool['piracy']} surrogates",
        "queries": f"{ref.plan.queries}: {ref.plan.views} views of {ref.plan.per_view} points at x + t v, "
        f"t = {ray}",
        "convicted from": f"z = {at:.2f} (whole budget, level {alpha:g})"
        if np.isfinite(at := threshold_z(ref, alpha))
        else f"nowhere: the pool is too small for level {alpha:g}",
    }
    if power is not None:
        facts["power"] = f"{power:.0%} of the pool's own surrogates (known copies) lie above that"
    return {
        "facts": facts,
        "pictures": [
            {"name": escaped_text(name), "image": figures.perturbation(v)}
            for name, v in islice(zip(names, uaps, strict=False), PICTURES)
        ],
        "left": max(0, min(len(names), len(uaps)) - PICTURES),
    }


def _integrity(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _settings(report: ScreenReport) -> str:
    told = {"fdr": report.fdr, "settings": report.settings, "versions": report.versions}
    return json.dumps(told, indent=2, sort_keys=True)


def render_screen(report: ScreenReport) -> str:
    """The page as text: everything inside, nothing fetched.

    One script sorts, filters and pages the table; without JavaScript the first ``STATIC`` rows are there
    with their details, and all of them in print.
    """
    script = (TEMPLATES / "screen.js").read_text(encoding="utf-8")
    rows = report.rows
    used, full = sum(r["queries_used"] for r in rows), sum(r["queries_full"] for r in rows)
    return template("screen.html", shown=escaped_text, seconds=seconds, against=row_against).render(
        report=report,
        rows=rows[:STATIC],
        total=len(rows),
        inside=min(len(rows), MOST),
        suspects=len({(r["path"], r["name"]) for r in rows}),
        decisions=DECISIONS,
        made=MADE,
        terms=TERMS,
        counts=report.decisions,
        saved=1 - used / full if full else None,
        spent=sum(seconds(r) for r in rows),
        alphas=sorted({r["alpha"] for r in rows}),
        parts=[
            {"part": p, "plots": plots(p) if i < PLOTTED else {}, "own": _reference(p)}
            for i, p in enumerate(report.parts)
        ],
        payload=Markup(payload(rows[:MOST])),
        script=Markup(script),
        integrity=_integrity(script),
        settings=_settings(report),
    )


def write_screen_report(report: ScreenReport, path: str | os.PathLike[str]) -> Path:
    """Write the page, whole or not at all.

    Raises:
        InputError: a page without a single row.
        StorageError: the folder is missing or unwritable, or the disk is full.
    """
    if not report.parts:
        raise InputError("report", "TABLE", "one with rows", "none")
    write_text(path, render_screen(report))
    return Path(path)


__all__ = ["MOST", "STATIC", "payload", "plots", "render_screen", "write_screen_report"]
