"""Plots of the report of a screening table: thousands of scores as lanes over one axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uapfast.arrays import Float64Array
from uapfast.report.figures import Lane, Palette, _axes, _spread, _svg

DOTS = 60  # a lane of more values than this is drawn as bars
BINS = 80
ROOM = 0.78  # of a lane's height

COLOURS = {"piracy": "piracy", "inconclusive": "ink", "independent": "innocent", "pool": "pool"}


def lanes(
    groups: Sequence[Lane],
    label: str,
    threshold: tuple[float, str],
    palette: Palette,
    *,
    limits: tuple[float, float],
    curve: tuple[str, Float64Array, Float64Array] | None = None,
) -> str:
    """Scores by group over one axis, with a threshold; a ``data:`` SVG.

    Args:
        groups: name, values and role (a decision, or ``pool``) of each lane. Few values are dots, many are
            bars whose heights are shares of the lane's highest.
        label: of the axis.
        threshold: where, and what to say there.
        palette: colours.
        limits: of the axis; values beyond are drawn at its ends.
        curve: name, x and height of a lane that is a density.
    """
    names = [f"{g.name}  ({len(g.values):,})" for g in groups] + ([curve[0]] if curve else [])
    figure, axes = _axes((7.6, 1.1 + 0.55 * len(names)), palette)
    axes.grid(visible=False, axis="y")
    base = np.arange(len(names), dtype=np.float64)[::-1]
    for group, floor in zip(groups, base, strict=False):
        values = np.clip(np.asarray(group.values, dtype=np.float64), *limits)
        color = getattr(palette, COLOURS[group.role])
        if len(values) <= DOTS:
            y = floor + 0.3 + _spread(values, 0.35)
            mark = "D" if group.role == "piracy" else "o"
            axes.scatter(values, y, s=18, c=color, marker=mark, alpha=0.85, linewidths=0, clip_on=False)
        else:
            height, edges = np.histogram(values, bins=BINS, range=limits)
            axes.stairs(floor + ROOM * height / height.max(), edges, baseline=floor, fill=True, color=color)
        axes.axhline(floor, color=palette.grid, linewidth=0.8, zorder=0)
    if curve is not None:
        _, x, height = curve
        axes.fill_between(
            x, base[-1], base[-1] + ROOM * height / height.max(), color=palette.pool, linewidth=0
        )
        axes.axhline(base[-1], color=palette.grid, linewidth=0.8, zorder=0)
    axes.set_yticks(base + 0.3, names)
    axes.set_ylim(-0.12, len(names))
    axes.set_xlim(*limits)
    axes.set_xlabel(label, color=palette.ink, fontsize=9)
    at, text = threshold
    axes.axvline(at, color=palette.ink, linewidth=1.2, linestyle=(0, (4, 3)))
    right = at > (limits[0] + 2 * limits[1]) / 3
    axes.annotate(
        text, (at, 1), xycoords=("data", "axes fraction"), xytext=(-4 if right else 4, 2),
        textcoords="offset points", color=palette.ink, fontsize=8, ha="right" if right else "left",
        va="bottom", annotation_clip=False,
    )  # fmt: skip
    return _svg(figure)


__all__ = ["lanes"]
