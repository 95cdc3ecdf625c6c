"""Where two statements differ: decimals to 1e-6, those in reasons as printed, all else exactly.

Times, hashes and names hold digits too: nothing in them is a number that another machine rounds otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

TOLERANCE = 1e-6
SMALL = 1e-9  # below it a number is nothing; above, no p-value may be off by more than its printed digits
PRINTED = 0.02  # relative: sentences show two or three digits, and the last may be rounded the other way
DECIMAL = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", re.ASCII)  # other digits are digits to float
SENTENCE = re.compile(r"(?:.*\.)?reasons\[\d+\]")
EXACT = {"level", "alpha", "verdict.alpha"}  # are chosen, not computed


def differences(
    stated: Any, found: Any, skipped: Collection[str] = (), path: str = ""
) -> tuple[list[str], list[str]]:
    """Where they differ, as ``path: stated A, found B``; and paths that only one of them has.

    Args:
        stated: JSON types without floats; decimals are strings.
        found: likewise.
        skipped: paths that are not compared.
        path: of these, in the whole.
    """
    if path in skipped:
        return [], []
    if isinstance(stated, dict) and isinstance(found, dict):
        differ, only = list[str](), list[str]()
        for key in sorted({*stated, *found}):
            below = f"{path}.{key}".lstrip(".")
            if key in stated and key in found:
                more, others = differences(stated[key], found[key], skipped, below)
                differ, only = differ + more, only + others
            elif below not in skipped:
                only.append(below)
        return differ, only
    if isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        pairs = [
            differences(a, b, skipped, f"{path}[{i}]")
            for i, (a, b) in enumerate(zip(stated, found, strict=True))
        ]
        return [d for pair in pairs for d in pair[0]], [o for pair in pairs for o in pair[1]]
    if same_value(stated, found, path):
        return [], []
    return [f"{path}: stated {str(stated)[:120]}, found {str(found)[:120]}"], []


def same_value(a: Any, b: Any, path: str) -> bool:
    """Whether two plain values at a path say the same."""
    if type(a) is not type(b) or not isinstance(a, str):
        return type(a) is type(b) and bool(a == b)
    if a == b:
        return True
    if path in EXACT:
        return False
    if _computed(a) and _computed(b):
        x, y = float(a), float(b)
        if repr(x) != a and repr(y) == b:  # zeros before it, say: no number is written so
            return False
        return abs(x - y) <= min(TOLERANCE * max(1.0, abs(x)), SMALL + PRINTED * abs(x))
    if not SENTENCE.fullmatch(path) or DECIMAL.split(a) != DECIMAL.split(b):
        return False
    pairs = zip(DECIMAL.findall(a), DECIMAL.findall(b), strict=True)
    return all(x == y or (_computed(x) and _computed(y) and _as_printed(x, y)) for x, y in pairs)


def _computed(text: str) -> bool:
    """Whether it is a decimal as ``repr`` or a format writes floats; whole numbers are counts.

    One that is too large for a float would be infinitely far from everything, and within its own tolerance.
    """
    good = DECIMAL.fullmatch(text) is not None and ("." in text or "e" in text)
    return good and math.isfinite(float(text))


def _as_printed(x: str, y: str) -> bool:
    return abs(float(x) - float(y)) <= PRINTED * abs(float(x))


__all__ = ["TOLERANCE", "differences", "same_value"]
