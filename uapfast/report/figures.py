"""Pictures of the report: plots as SVG in a light and a dark palette, images as PNG. No state of pyplot."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from uapfast.report.data import Curve, Picture


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of one theme; piracy and innocent differ for every common colour vision (Okabe-Ito)."""

    ink: str
    soft: str
    grid: str
    piracy: str
    innocent: str
    pool: str
    paper: str


LIGHT = Palette("#1c2024", "#5b636b", "#dde1e5", "#c44e00", "#0068a8", "#8a939b", "#ffffff")
DARK = Palette("#e8eaed", "#a7afb7", "#343a40", "#ff9457", "#64b9f0", "#87909a", "#15181b")


@dataclass(frozen=True, slots=True)
class Lane:
    """One row of dots: a name, the values, and which colour (``piracy``, ``innocent``, ``pool``)."""

    name: str
    values: tuple[float, ...]
    role: str


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    # A fixed salt and no date: the same data gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "uapfast"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _axes(size: tuple[float, float], palette: Palette) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(palette.grid)
    axes.tick_params(colors=palette.soft, labelcolor=palette.ink, length=0, labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(color=palette.grid, linewidth=0.8)
    return figure, axes


def _spread(values: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Small vertical offsets, so that dots close together do not hide each other; deterministic."""
    offsets = np.zeros(len(values))
    order = np.argsort(values)
    step = np.array([0.0, 1.0, -1.0, 2.0, -2.0])
    offsets[order] = step[np.arange(len(values)) % len(step)] * width / 4
    return offsets


def dots(lanes: Sequence[Lane], label: str, threshold: tuple[float, str] | None, palette: Palette) -> str:
    """Values of several groups as rows of dots over one axis, with a threshold; a ``data:`` SVG."""
    figure, axes = _axes((7.6, 0.9 + 0.42 * len(lanes)), palette)
    axes.grid(visible=False, axis="y")
    marks = {"piracy": "D", "innocent": "o", "pool": "o"}
    for row, lane in enumerate(lanes):
        values = np.asarray(lane.values, dtype=np.float64)
        y = len(lanes) - 1 - row + _spread(values, 0.5)
        color = getattr(palette, lane.role)
        size = 30 if lane.role != "pool" else 16
        axes.scatter(values, y, s=size, c=color, marker=marks[lane.role], alpha=0.85, linewidths=0)
        axes.axhline(len(lanes) - 1 - row, color=palette.grid, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(lanes) - 1, -1, -1), [f"{lane.name}  ({len(lane.values)})" for lane in lanes])
    axes.set_ylim(-0.6, len(lanes) - 0.4)
    axes.set_xlabel(label, color=palette.ink, fontsize=9)
    if threshold is not None:
        at, text = threshold
        axes.axvline(at, color=palette.ink, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(
            text, (at, 1), xycoords=("data", "axes fraction"), xytext=(4, 2), textcoords="offset points",
            color=palette.ink, fontsize=8, ha="left", va="bottom", annotation_clip=False,
        )  # fmt: skip
    return _svg(figure)


def roc(curves: Sequence[Curve], palette: Palette) -> str:
    """ROC curves, AUC and numbers of models in the legend; a ``data:`` SVG."""
    figure, axes = _axes((4.6, 4.2), palette)
    axes.plot([0, 1], [0, 1], color=palette.pool, linewidth=1, linestyle=(0, (1, 3)))
    styles = ["-", (0, (5, 2)), (0, (1, 1)), (0, (3, 1, 1, 1))]
    colors = [palette.piracy, palette.innocent, palette.ink, palette.soft]
    for number, curve in enumerate(curves):
        axes.plot(
            curve.false_rate, curve.true_rate, color=colors[number % 4], linestyle=styles[number % 4],
            linewidth=2.2, drawstyle="steps-post", clip_on=False,
            label=f"{curve.group}: AUC {curve.auc:.3f} (n = {curve.piracy} + {curve.innocents})",
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("innocents ranked as suspicious", color=palette.ink, fontsize=9)
    axes.set_ylabel("piracy models found", color=palette.ink, fontsize=9)
    axes.legend(loc="lower right", frameon=False, fontsize=8, labelcolor=palette.ink)
    return _svg(figure)


def _png(image: NDArray[np.float64], **kwargs: Any) -> str:
    buffer = io.BytesIO()
    imsave(buffer, image, format="png", metadata={"Software": ""}, **kwargs)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def photo(image: Picture) -> str:
    """A picture ``[C,H,W]`` in 0..1 (C of 1 or 3; else the mean of the channels); a ``data:`` PNG."""
    clipped = np.clip(np.asarray(image, dtype=np.float64), 0.0, 1.0)
    if clipped.shape[0] == 3:
        return _png(np.ascontiguousarray(clipped.transpose(1, 2, 0)))
    return _png(clipped.mean(0), cmap="gray", vmin=0.0, vmax=1.0)


def perturbation(v: Picture) -> str:
    """A UAP ``[C,H,W]``, stretched to full contrast; blue lowers, red raises (grey is 0 for colour)."""
    values = np.asarray(v, dtype=np.float64)
    most = max(float(np.abs(values).max()), 1e-12)
    if values.shape[0] == 3:
        return _png(np.ascontiguousarray((values / (2 * most) + 0.5).transpose(1, 2, 0)))
    return _png(values.mean(0), cmap="RdBu_r", vmin=-most, vmax=most)
