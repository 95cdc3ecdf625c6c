"""What a report shows, as plain data, and the rates that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from uapfast.types import Verdict

Truth = Literal["piracy", "innocent"]
Picture = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SuspectRow:
    """One suspect.

    Attributes:
        name: of the suspect.
        made: how it came about, in words.
        verdict: what ``verify`` said.
        truth: ``piracy`` or ``innocent`` where it is known (demo, benchmarks); else None.
        group: suspects that belong together in plots and rates, such as ``extracted``.
        accuracy: share of right answers on held-out data, 0..1, if known.
    """

    name: str
    made: str
    verdict: Verdict
    truth: Truth | None = None
    group: str = ""
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model says about one picture: top class and its probability, without v and with it."""

    who: str
    clean: str
    clean_p: float
    moved: str
    moved_p: float


@dataclass(frozen=True, slots=True)
class StripItem:
    """One query: ``x`` and ``x + v``, float32 ``[C,H,W]`` in 0..1, and what models answer."""

    x: Picture
    moved: Picture
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything on the page.

    Attributes:
        title: heading.
        rows: the suspects.
        v: the victim's UAP, float32 ``[C,H,W]``, input units.
        eps: radius of its ball.
        norm: ``linf`` or ``l2``.
        scale: what ``v`` was multiplied by in the strip.
        strip: some queries with answers.
        calibration: scores of the pool's own models (``Reference.calibration``).
        threshold: z above which a suspect is convicted at ``alpha`` (``Reference.threshold_z``); may be
            infinite.
        alpha: level of the verdicts.
        facts: short statements of what was done, name to text.
        settings: everything that was set; JSON types.
        hashes: name to SHA-256.
    """

    title: str
    rows: tuple[SuspectRow, ...]
    v: Picture
    eps: float
    norm: str
    scale: float
    strip: tuple[StripItem, ...]
    calibration: dict[str, NDArray[np.float64]]
    threshold: float
    alpha: float
    facts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Curve:
    """A ROC curve of one group of piracy models against all innocents."""

    group: str
    auc: float
    piracy: int
    innocents: int
    false_rate: NDArray[np.float64]
    true_rate: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DetectionSummary:
    """Counts over suspects whose truth is known; ``invalid`` ones count as not convicted."""

    piracy: int
    convicted: int
    innocents: int
    accused: int
    cleared: int
    curves: tuple[Curve, ...]

    @property
    def auc(self) -> float | None:
        """Over all piracy models; None without both sorts."""
        return self.curves[0].auc if self.curves else None


def _curve(group: str, piracy: list[SuspectRow], innocents: list[SuspectRow]) -> Curve | None:
    from sklearn.metrics import roc_auc_score, roc_curve

    valid = [[r for r in rows if r.verdict.p_value is not None] for rows in (piracy, innocents)]
    if not valid[0] or not valid[1]:
        return None
    truth = np.repeat([1, 0], [len(valid[0]), len(valid[1])])
    score = -np.array([r.verdict.p_value for r in valid[0] + valid[1]], dtype=np.float64)
    false_rate, true_rate, _ = roc_curve(truth, score, drop_intermediate=False)
    auc = float(roc_auc_score(truth, score))
    return Curve(group, auc, len(valid[0]), len(valid[1]), false_rate, true_rate)


def summarise_detection(rows: tuple[SuspectRow, ...]) -> DetectionSummary:
    """Rates and ROC curves (by p_value) over the rows whose truth is known.

    The first curve is over all piracy models, the others over their groups, in order of appearance.
    """
    piracy = [r for r in rows if r.truth == "piracy"]
    innocents = [r for r in rows if r.truth == "innocent"]
    groups = list(dict.fromkeys(r.group for r in piracy if r.group))
    curves = [_curve("all piracy models", piracy, innocents)]
    if len(groups) > 1:
        curves += [_curve(g, [r for r in piracy if r.group == g], innocents) for g in groups]
    return DetectionSummary(
        piracy=len(piracy),
        convicted=sum(r.verdict.decision == "piracy" for r in piracy),
        innocents=len(innocents),
        accused=sum(r.verdict.decision == "piracy" for r in innocents),
        cleared=sum(r.verdict.decision == "independent" for r in innocents),
        curves=tuple(c for c in curves if c is not None),
    )
