"""The picture of one suspect's page: where it stands among innocents and twins, innocents first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uapfast.report.figures import Lane, Palette, _axes, _spread, _svg
from uapfast.report.screen_figures import DOTS
from uapfast.report.suspect import Standing

BINS = 70
ROOM = 0.5  # of a lane's height; its name stands above
EDGE = 12.0  # z at which values are drawn at the picture's left end
SIZES = {"wide": (7.6, 9.0), "narrow": (4.0, 9.0)}  # inches, points


@dataclass(frozen=True, slots=True)
class Axis:
    """Ends of the axis, and where a conviction begins (infinite: nowhere)."""

    low: float
    high: float
    threshold: float


def lanes_of(standing: Standing, convicted: bool) -> list[Lane]:
    """What is drawn, from above: honest models first, then the suspect with twins, then with the victim."""
    found = [Lane("honest models, with the victim", standing.innocents, "innocent")]
    if standing.pairs:
        found.append(Lane("honest models, with each twin", standing.pairs, "pool"))
    if standing.own_twins:
        found.append(Lane("the suspect, with each twin", standing.own_twins, "ink"))
    if standing.own is not None:
        found.append(Lane("the suspect, with the victim", (standing.own,), "piracy" if convicted else "ink"))
    return found


def axis_of(standing: Standing) -> Axis:
    """Room for everything that is drawn, and for the threshold where there is one."""
    own = [] if standing.own is None else [standing.own]
    every = np.array([*standing.innocents, *standing.pairs, *standing.own_twins, *own])
    limit = [standing.threshold] if np.isfinite(standing.threshold) else []
    low = max(float(every.min(initial=-1.0)), -EDGE)
    high = float(np.max([*every, *limit, 1.0]))
    room = 0.05 * (high - low)
    return Axis(low - room, high + room, standing.threshold)


def standing_picture(lanes: Sequence[Lane], axis: Axis, palette: Palette, size: str) -> str:
    """Lanes over one axis, each with its name above; a ``data:`` SVG.

    Args:
        lanes: few values are dots, many are bars whose heights are shares of the lane's highest. The last
            value of a lane with the role ``piracy`` is a diamond.
        axis: its ends; values beyond are drawn there.
        palette: colours.
        size: ``wide`` or ``narrow``, for pages of that width.
    """
    width, points = SIZES[size]
    figure, axes = _axes((width, 0.85 + 0.62 * len(lanes)), palette)
    axes.grid(visible=False, axis="y")
    for row, lane in enumerate(lanes):
        floor = len(lanes) - 1.0 - row
        values = np.clip(np.asarray(lane.values, dtype=np.float64), axis.low, axis.high)
        color = getattr(palette, lane.role)
        if len(values) > DOTS:
            height, edges = np.histogram(values, bins=BINS, range=(axis.low, axis.high))
            axes.stairs(floor + ROOM * height / height.max(), edges, baseline=floor, fill=True, color=color)
        else:
            single = len(values) == 1
            mark = "D" if lane.role == "piracy" else "o"
            y = floor + ROOM / 2 + (np.zeros(1) if single else _spread(values, 0.3))
            axes.scatter(values, y, s=52 if single else 20, c=color, marker=mark, linewidths=0, clip_on=False)
        axes.axhline(floor, color=palette.grid, linewidth=0.8, zorder=0)
        said = lane.name if len(lane.values) == 1 else f"{lane.name} ({len(lane.values):,})"
        axes.annotate(
            said, (0, floor + ROOM + 0.13), xycoords=("axes fraction", "data"), color=palette.ink,
            fontsize=points, ha="left", va="bottom", annotation_clip=False,
            bbox={"facecolor": palette.paper, "edgecolor": "none", "pad": 0.5},  # over the dashed line
        )  # fmt: skip
    axes.set_yticks([])
    axes.set_ylim(-0.12, len(lanes))
    axes.set_xlim(axis.low, axis.high)
    axes.set_xlabel("z: how far the victim stands out from its twins", color=palette.ink, fontsize=points)
    if np.isfinite(axis.threshold):
        axes.axvline(axis.threshold, color=palette.ink, linewidth=1.2, linestyle=(0, (4, 3)))
        right = axis.threshold > (axis.low + axis.high) / 2
        axes.annotate(
            f"convicted from z = {axis.threshold:.1f}", (axis.threshold, 1),
            xycoords=("data", "axes fraction"), xytext=(-4 if right else 4, 2), textcoords="offset points",
            color=palette.ink, fontsize=points, ha="right" if right else "left", va="bottom",
            annotation_clip=False,
        )  # fmt: skip
    return _svg(figure)


__all__ = ["axis_of", "lanes_of", "standing_picture"]
