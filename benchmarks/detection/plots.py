"""The plots of the detection benchmark, from its rows."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.metrics import roc_curve

from benchmarks.detection.judge import Row
from benchmarks.detection.table import ATTACKS, INNOCENT, pick, z


def plots(rows: list[Row], path: Path) -> None:
    """ROC by attack, z of every suspect by attack, z of students against agreement."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    own = pick(rows)
    innocents = z([r for r in own if r["truth"] in INNOCENT])
    figure, (roc, dots, agreement) = plt.subplots(1, 3, figsize=(16, 5), layout="constrained")
    for i, group in enumerate([*INNOCENT, *ATTACKS]):
        kept = [r for r in own if r["truth"] == group]
        if group not in INNOCENT:
            truth = np.r_[np.ones(len(kept)), np.zeros(len(innocents))]
            fpr, rate, _ = roc_curve(truth, np.r_[z(kept), innocents])
            roc.plot(fpr, rate, label=group)
        jitter = np.random.default_rng(i).uniform(-0.3, 0.3, len(kept))
        dots.plot(i + jitter, z(kept), ".", alpha=0.6)
    students = [r for r in own if r["truth"] in ("soft", "hard", "ood", "jacobian")]
    for group in ("soft", "hard", "ood", "jacobian"):
        part = [r for r in students if r["truth"] == group]
        agreement.plot([r["agreement"] for r in part], z(part), "o", alpha=0.7, label=group)
    roc.set(xlabel="innocents accused", ylabel="piracy models found", title="ROC by attack")
    roc.legend(fontsize=8)
    ticks = [*INNOCENT, *ATTACKS]
    dots.set_xticks(range(len(ticks)), ticks, rotation=40, ha="right")
    dots.set(ylabel="z", title="score of every suspect")
    dots.set_yscale("symlog", linthresh=math.pi)
    agreement.set(xlabel="agreement with the victim", ylabel="z", title="students")
    agreement.legend(fontsize=8)
    figure.savefig(path, dpi=70)
    plt.close(figure)
