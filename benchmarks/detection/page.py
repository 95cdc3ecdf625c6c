"""The page of the detection benchmark: its tables, and what they are of."""

from __future__ import annotations

from benchmarks.detection.judge import Row
from benchmarks.detection.plan import Size
from benchmarks.detection.table import (
    ATTACKS,
    by_access,
    by_attack,
    by_score,
    by_training,
    by_victim,
    by_views,
    levels,
    paper_level,
    pick,
    stopping,
)
from uapfast.config import GenerateConfig


def text(
    rows: list[Row], command: str, size: Size, accuracy: dict[str, float], default: GenerateConfig
) -> str:
    """The Markdown file; ``default`` is how the reference of ``ours`` was made."""
    assert default.points is not None and default.ray is not None
    parts = {"innocent": 0, "other lineage": 0} | {g: 0 for g in ATTACKS}
    for row in pick(rows):
        parts[row["truth"]] += 1
    thieves = sum(parts[g] for g in ATTACKS)
    return TEXT.format(
        command=command,
        accuracy=", ".join(f"{a} {v:.3f}" for a, v in accuracy.items()),
        size=size,
        thieves=thieves,
        innocents=parts["innocent"],
        others=parts["other lineage"],
        by_attack="\n".join(by_attack(rows)),
        by_victim="\n".join(by_victim(rows)),
        by_training="\n".join(by_training(rows, size)),
        by_score="\n".join(by_score(rows)),
        by_access="\n".join(by_access(rows)),
        by_views="\n".join(by_views(rows, default.points)),
        default=f"{default.points * default.views} points asked at x"
        + "".join(f" and x + {t:g} v" for t in default.ray if t),
        stopping="\n".join(stopping(rows)),
        levels="\n".join(levels(rows)),
        paper=paper_level(rows),
    )


TEXT = """# Detection

Made by `{command}`. Victims (test accuracy): {accuracy}.
Owner's images {size.owner}, thief's {size.thief}, disjoint; query points from held-out images. `ours` is the
default: {default}. Each victim has {size.twins} twins, {size.surrogates} surrogates of each
candidate, {size.homologous} homologous models in its pool. No suspect is in a pool. Suspects, victims pooled:
{thieves} piracy models; innocents {innocents} (trained on true labels), and {others} that derive from another
victim. Intervals: bootstrap over models (AUC), Wilson (shares).

## By attack, score `ours`

{by_attack}

## By victim, score `ours`

{by_victim}

## Students, by what they learned from

Those of soft and of hard labels, their own architecture and others; each image is one query.

{by_training}

## By score: AUC

{by_score}

Rows that name what they see and how many queries they ask are baselines (`benchmarks/detection/baselines`,
each with its settings chosen on the victim's pool), standardised by the scores of that pool's twins and
homologous models so that victims can be pooled.

## Innocents accused, every candidate in the victim's place

A place is one candidate (the victim or a twin) taken as the victim; its pool's other candidates are the
twins. The shares count (innocent, place) pairs, which share models: the intervals are too narrow.

{levels}

The paper's encoder with its view-level t-test at "99.99 %" accuses {paper}.

## Degraded access

{by_access}

## Number of views

{by_views}

## Early stopping

Looks after 1, 2, 5, 10 and all views (`uapfast/method/sequential.py`).

{stopping}
"""
