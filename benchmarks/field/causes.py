"""Whether a reason names what went wrong; and which verdicts are silent and wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from benchmarks.field.ways import WAYS

Row = dict[str, Any]

# words that a reason must hold to name the cause
CAUSES = {
    "images": r"preprocess|normali[sz]|\bmean\b.*\bstd\b|image range|0\.\.255",
    "classes": r"class order|order of (the )?classes|classes are|relabel|permut|\bmap of classes|class map",
    "rows": r"order of (the )?rows|row order|rows? (are|were|is) |row by row|\brows\b",
    "kind": r"taken (for|as)|read as|\blabels only\b|one-hot|per ?cent|percentages|logits|truncated|digit|"
    r"top-\d",
    "scale": r"scale|spread|temperature|saturat|confiden|rounding|taken for|read as|precision",
    "information": r"information|constant|(the )?same answer|uniform|always answer",
    "noise": r"nois|random",
    "mode": r"train(ing)? mode|batch statistics|depends? on the batch",
    "failure": r"ConnectionError",
    "pool": r"contaminat|would (be )?convict|may not convict|limit|ancestor|fine-tun|twins are not|descend|"
    r"of the victim's kind",
}
# what every verdict may say, whatever went wrong
ORDINARY = re.compile(
    r"twins are as close to the suspect|no twins in the pool: the suspect side decides|"
    r"the exact floor of this pool|nothing points to the victim(, which is no exoneration)?$|"
    r"not enough to convict, too close to clear$"
)
HONEST = ("honest", "sibling", "backbone")
COPIES = ("copy", "tuned", "pruned", "soft student", "hard student")
BAD_POOLS = ("contaminated", "scratch twins")
_BY_WAY = {way.name: way for way in WAYS}


def names_cause(row: Row) -> str | None:
    """The first reason that names what is wrong with how this row was asked, or with its pool."""
    causes = list(_BY_WAY[row["way"]].causes)
    if row["pool"] in BAD_POOLS:
        causes.append("pool")
    for reason in row["reasons"]:
        told = not ORDINARY.search(reason)
        if told and any(re.search(CAUSES[cause], reason, re.IGNORECASE) for cause in causes):
            return str(reason)
    return None


def known_copies(rows: Iterable[Row]) -> set[tuple[str, str]]:
    """(world, suspect) of exact copies, and of what a sound pool convicts when asked rightly."""
    sound = [r for r in rows if r["kind"] in COPIES and r["pool"] not in BAD_POOLS]
    return {
        (row["world"], row["suspect"])
        for row in sound
        if row["kind"] == "copy" or (row["way"] == WAYS[0].name and row["outcome"] == "piracy")
    }


def counts(row: Row, known: set[tuple[str, str]]) -> bool:
    """Whether this row can be a silent wrong verdict."""
    return row["kind"] not in COPIES or (row["world"], row["suspect"]) in known


def wrong(row: Row, known: set[tuple[str, str]]) -> bool:
    """A silent wrong verdict: an innocent or garbage convicted; a copy acquitted, and no reason says why."""
    if row["kind"] not in COPIES:
        return bool(row["outcome"] == "piracy")
    acquitted = row["outcome"] == "independent" and counts(row, known)
    return acquitted and names_cause(row) is None
