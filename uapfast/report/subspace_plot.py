"""Picture of a :class:`~uapfast.method.subspace.SubspaceReport`."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from uapfast.method.subspace import SubspaceReport

COLOURS = {"victim": "#1b1b1b", "piracy": "#c0392b", "twin": "#2471a3", "homologous": "#7f8c8d"}


def subspace_png(report: SubspaceReport) -> bytes:
    """Left: share captured by the victim's subspace, one point a model. Right: singular spectra."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    order = [r for r in COLOURS if r in report.relations.values()]
    for level, relation in enumerate(order):
        names = [n for n, r in report.relations.items() if r == relation]
        values = [report.captured[n] for n in names]
        spread = [level + 0.25 * ((i % 5) / 2 - 1) for i in range(len(values))]
        label = f"{relation} (n = {len(values)})"
        left.scatter(values, spread, s=26, color=COLOURS[relation], alpha=0.8, label=label)
        for name in names[:12]:
            right.plot(range(1, len(report.spectra[name]) + 1), report.spectra[name], lw=0.8, alpha=0.7,
                       color=COLOURS[relation])  # fmt: skip
    left.axvline(report.chance, color="#999999", lw=1, ls=":")
    left.text(report.chance, len(order) - 0.5, " random direction", fontsize=8, color="#777777", va="center")
    left.set_yticks(range(len(order)), order)
    left.set_ylim(-0.6, len(order) - 0.3)
    left.set_xlabel(f"energy of UAPs inside the victim's first {report.rank} singular vectors")
    right.set_xlabel("singular value")
    right.set_ylabel("share of energy")
    if report.auc is not None:
        left.set_title(f"piracy above twins and homologous: AUC {report.auc:.2f}", fontsize=10)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=140)
    return out.getvalue()
