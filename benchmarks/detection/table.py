"""The tables of the detection benchmark, from its rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.access import ACCESS
from benchmarks.detection.judge import LEVELS, OURS, Row
from benchmarks.detection.measures import auc, auc_interval, share, tpr
from benchmarks.detection.plan import GROUPS, Size, all_items

INNOCENT = ("innocent", "other lineage")
ATTACKS = [g for g in GROUPS if g != "innocent"]
Floats = NDArray[np.float64]


def pick(rows: list[Row], score: str = "ours", access: str = "probabilities", **wanted: Any) -> list[Row]:
    """Rows of one score and access; further fields equal, or among a tuple."""
    out = [r for r in rows if r["score"] == score and r["access"] == access]
    for key, value in wanted.items():
        among = value if isinstance(value, tuple) else (value,)
        out = [r for r in out if r[key] in among]
    return out


def z(rows: list[Row]) -> Floats:
    return np.array([r["z"] for r in rows], dtype=np.float64)


def headline(row: Row) -> bool:
    """Convicted as the paper claims for every thief: its victim ranks first, p < 1e-4."""
    return bool(row["rank"] == 1 and row["p"] < 1e-4)


def line(*cells: object) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(c) for c in cells) + " |"


def head(*cells: str) -> list[str]:
    """The head of a Markdown table."""
    return [line(*cells), "|" + "---|" * len(cells)]


def by_attack(rows: list[Row]) -> list[str]:
    """AUC of every attack against all innocents, ours; the share convicted; thieves' agreement."""
    own = pick(rows)
    innocents = z([r for r in own if r["truth"] in INNOCENT])
    lines = head(
        "attack", "n", "AUC (95 %)", "TPR at 1 %", "TPR at 5 %", "convicted at 0.001", "inconclusive",
        "agreement with the victim",
    )  # fmt: skip
    for label, groups in [(GROUPS[g], (g,)) for g in ATTACKS] + [("**overall**", tuple(ATTACKS))]:
        kept = [r for r in own if r["truth"] in groups]
        low, high = auc_interval(z(kept), innocents)
        said = [r["decision"] for r in kept]
        agreement = [r["agreement"] for r in kept]
        lines.append(
            line(
                label,
                len(kept),
                f"{auc(z(kept), innocents):.3f} ({low:.3f}-{high:.3f})",
                *(f"{tpr(z(kept), innocents, level):.2f}" for level in (0.01, 0.05)),
                f"{said.count('piracy')} ({said.count('piracy') / len(said):.0%})",
                said.count("inconclusive"),
                f"{min(agreement):.2f}-{max(agreement):.2f}",
            )
        )
    return lines


def by_victim(rows: list[Row]) -> list[str]:
    """AUC and convictions before each victim; the paper's headline among them."""
    shown = ("soft", "hard", "laundered")
    lines = head(
        "victim", "AUC overall", *(GROUPS[g].replace("extraction, ", "") for g in shown),
        "convicted at 0.001", "innocents", "same architecture, soft labels: p < 1e-4",
    )  # fmt: skip
    every = pick(rows)
    for victim in [*dict.fromkeys(r["victim"] for r in every), "all"]:
        own = [r for r in every if victim in (r["victim"], "all")]
        innocents = [r for r in own if r["truth"] in INNOCENT]
        thieves = [r for r in own if r["truth"] in ATTACKS]
        groups = [thieves, *([r for r in thieves if r["truth"] == g] for g in shown)]
        certain = [headline(r) for r in groups[1] if r["arch"] == r["victim"]]
        lines.append(
            line(
                victim,
                *(f"{auc(z(part), z(innocents)):.3f}" for part in groups),
                *(
                    f"{sum(r['decision'] == 'piracy' for r in part)} of {len(part)}"
                    for part in (thieves, innocents)
                ),
                f"{sum(certain)} of {len(certain)}",
            )
        )
    return lines


def by_training(rows: list[Row], size: Size) -> list[str]:
    """The learning curve of students: images that they learned from, passes over them, and what shows."""
    own, settings = pick(rows), {item.name: item.settings for item in all_items(size)}
    innocents = z([r for r in own if r["truth"] in INNOCENT])
    cells: dict[tuple[str, int, int], list[Row]] = {}
    for row in own:
        if row["truth"] in ("soft", "hard"):
            given = settings[row["suspect"]]
            cells.setdefault((given["labels"], given["images"], given["epochs"]), []).append(row)
    lines = head(
        "labels", "images", "passes", "n", "agreement, median", "AUC", "z, median", "convicted at 0.001",
        "p < 1e-4",
    )  # fmt: skip
    for key in sorted(cells, key=lambda k: (k[0] == "hard", k[1] * k[2], k)):
        kept = cells[key]
        lines.append(
            line(
                *key,
                len(kept),
                f"{np.median([r['agreement'] for r in kept]):.2f}",
                f"{auc(z(kept), innocents):.3f}",
                f"{np.median(z(kept)):.1f}",
                sum(r["decision"] == "piracy" for r in kept),
                sum(map(headline, kept)),
            )
        )
    return lines


def by_score(rows: list[Row]) -> list[str]:
    """AUC of each score for each attack, same models, same innocents; baselines where they were run."""
    lines = head("score", "overall", *(GROUPS[g].replace("extraction, ", "") for g in ATTACKS))
    pairs = [(score, "probabilities") for score in OURS]
    pairs += dict.fromkeys((r["score"], r["access"]) for r in rows if "queries" in r)
    for score, access in pairs:
        own = pick(rows, score, access)
        if not own:
            continue
        innocents = z([r for r in own if r["truth"] in INNOCENT])
        cells = [
            f"{auc(z([r for r in own if r['truth'] in groups]), innocents):.3f}"
            for groups in [tuple(ATTACKS), *((g,) for g in ATTACKS)]
        ]
        lines.append(line(score + _seen(own), *cells))
    return lines


def _seen(own: list[Row]) -> str:
    """What a baseline sees, and how many answers of a suspect it asks for."""
    counts = sorted({r["queries"] for r in own if "queries" in r})
    if not counts:
        return ""
    shown = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f" ({own[0]['access']}, {shown} queries)"


def by_access(rows: list[Row]) -> list[str]:
    """What is left when the suspect shows less; and nobody innocent is accused for it."""
    lines = head("access", "AUC overall", "piracy models convicted", "innocents accused", "of")
    for access in ACCESS:
        own = pick(rows, access=access)
        innocents = [r for r in own if r["truth"] in INNOCENT]
        thieves = [r for r in own if r["truth"] in ATTACKS]
        convicted = [sum(r["decision"] == "piracy" for r in part) for part in (thieves, innocents)]
        score = f"{auc(z(thieves), z(innocents)):.3f}"
        lines.append(line(access, score, f"{convicted[0]} of {len(thieves)}", convicted[1], len(innocents)))
    return lines


def by_views(rows: list[Row], per_view: int) -> list[str]:
    """AUC and convictions from the first views alone."""
    own = pick(rows)
    lines = head("views", "query points", "AUC overall", "p < 1e-4: piracy models", "innocents")
    every = [*own[0]["z_by_views"], None]
    for views in every:

        def value(r: Row, field: str, views: Any = views) -> float:
            return float(r[field] if views is None else r[f"{field}_by_views"][views])

        parts = [[r for r in own if r["truth"] in groups] for groups in (tuple(ATTACKS), INNOCENT)]
        score = auc(*(np.array([value(r, "z") for r in part]) for part in parts))
        convicted = [
            sum(value(r, "p") < 1e-4 and (views is not None or r["rank"] == 1) for r in part)
            for part in parts
        ]
        count = int(views or 20)
        shown = [f"{c} of {len(part)}" for c, part in zip(convicted, parts, strict=True)]
        lines.append(line(count, count * per_view, f"{score:.3f}", *shown))
    return lines


def stopping(rows: list[Row]) -> list[str]:
    """Early stopping beside the full budget, at 0.001: views asked, and decisions that differ."""
    own = pick(rows)
    lines = head(
        "suspects", "n", "mean share of the queries", "settled at the first look",
        "convicted, full budget", "stopping early", "other decisions that differ",
    )  # fmt: skip
    total, least = (f([r["stopped_after"] for r in own]) for f in (max, min))
    for label, groups in (("piracy models", tuple(ATTACKS)), ("innocents", INNOCENT)):
        part = [r for r in own if r["truth"] in groups]
        both = [(r["decision"], r["stopped_decision"]) for r in part]
        lines.append(
            line(
                label,
                len(part),
                f"{np.mean([r['stopped_after'] for r in part]) / total:.0%}",
                f"{np.mean([r['stopped_after'] == least for r in part]):.0%}",
                *(sum(b[i] == "piracy" for b in both) for i in (0, 1)),
                sum(a != b and "piracy" not in (a, b) for a, b in both),
            )
        )
    return lines


def levels(rows: list[Row]) -> list[str]:
    """Innocents accused with every candidate in the victim's place, for each victim and worst place."""
    lines = head(
        "victim", "places", *(f"accused at {level:g} (95 %)" for level in LEVELS), "worst place at 0.01"
    )
    own = pick(rows, truth=INNOCENT)
    archs = list(dict.fromkeys(r["victim"] for r in own))
    for arch in [*archs, "all"]:
        p = np.array([r["p_by_place"] for r in own if arch in (r["victim"], "all")])
        cells = []
        for level in LEVELS:
            rate, low, high = share(int((p <= level).sum()), p.size)
            cells.append(f"{rate:.2%} ({low:.2%}-{high:.2%})")
        worst = "-" if arch == "all" else f"{(p <= 0.01).mean(0).max():.2%}"
        lines.append(line(arch, p.shape[1], *cells, worst))
    return lines


def paper_level(rows: list[Row]) -> str:
    """What the paper's view-level test would have done to the same innocents."""
    own = pick(rows, "paper", truth=INNOCENT)
    accused = sum(r["p_view"] is not None and r["p_view"] < 1e-4 for r in own)
    rate, low, high = share(accused, len(own))
    return f"{accused} of {len(own)} innocents ({rate:.1%}, 95 % {low:.1%}-{high:.1%})"
