"""Models that saw the same images in the same order look related, whatever their architectures.

    python -m benchmarks.detection order --zoo DIR

The pools of the zoo's victims draw the same seeds, so that twin k of one victim and twin k of another, of
another architecture, were trained on the same images in the same order, and share nothing else. Each
twin is judged as a suspect by the other victims' references, every candidate in the victim's place. Writes
``benchmarks/results/detection_order.md``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.judge import LEVELS, reference_of
from benchmarks.detection.make import Place
from benchmarks.detection.options import parser_for
from benchmarks.detection.table import head, line
from benchmarks.detection.zoo import open_zoo
from uapfast.files import write_text
from uapfast.method.decision import decide
from uapfast.method.fingerprint import ask, reduce_classes
from uapfast.method.lineage import LineageScorer
from uapfast.method.standing import assessment
from uapfast.models.checkpoint import load_model
from uapfast.pool.manifest import load_pool

RESULTS = Path(__file__).parents[1] / "results"


def scores(place: Place, judge: str, arch: str) -> NDArray[np.float64]:
    """``[twins,candidates]``: z of the twins of ``arch``, each candidate of ``judge`` as the victim."""
    reference = reference_of(place, judge, "ours")
    scorer = reference.statistic.scorer()
    assert isinstance(scorer, LineageScorer)
    out = []
    for twin in load_pool(place.out / arch / "pool" / "manifest.csv").twins:
        model = load_model(
            place.size.spec(arch), place.out / arch / "pool/models" / f"{twin.name}.safetensors"
        )
        answers = ask(model, reference.plan, reference.classes)[0]
        found = scorer.scores(reference.statistic.features(reduce_classes(answers, reference.keep), False))
        places = range(found[0].shape[1])
        out.append([decide(assessment(*found, place=c), LEVELS[2]).z for c in places])
    return np.array(out)


def main() -> None:
    """Judge and write."""
    place = open_zoo(parser_for(__doc__).parse_args().zoo)
    lines = head("reference of", "suspects", "n", "z, same order", "z, other order", "same order first")
    for judge in place.size.epochs:
        for arch in place.size.epochs:
            if arch == judge:
                continue
            z = scores(place, judge, arch)[:, 1:]
            same = np.eye(len(z), dtype=bool)
            shown = [f"{z[m].mean():.2f} (sd {z[m].std():.2f})" for m in (same, ~same)]
            first = int((z.argmax(1) == np.arange(len(z))).sum())
            lines.append(line(judge, f"twins of {arch}", len(z), *shown, f"{first} of {len(z)}"))
    write_text(RESULTS / "detection_order.md", TEXT.format(table="\n".join(lines)))


TEXT = """# The same images in the same order

Made by `python -m benchmarks.detection order --zoo DIR`. Twin k of every victim was trained with the same
seed:
on the same images in the same order, with another architecture. As a suspect before another victim's
reference it shares nothing with candidate k but that order. z: with candidate k in the victim's place, and
with all others.

{table}
"""

if __name__ == "__main__":
    main()
