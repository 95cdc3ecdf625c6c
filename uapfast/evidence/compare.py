"""Where two statements differ: numbers to 1e-6, those in sentences as printed, all else exactly."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

TOLERANCE = 1e-6
PRINTED = 0.02  # relative: sentences show two or three digits, and the last may be rounded the other way
DECIMAL = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


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
    if alike(stated, found):
        return [], []
    return [f"{path}: stated {str(stated)[:120]}, found {str(found)[:120]}"], []


def alike(a: Any, b: Any) -> bool:
    """Whether two plain values say the same."""
    if type(a) is not type(b) or not isinstance(a, str):
        return type(a) is type(b) and bool(a == b)
    if a == b:
        return True
    if DECIMAL.fullmatch(a) and DECIMAL.fullmatch(b):
        return abs(float(a) - float(b)) <= TOLERANCE * max(1.0, abs(float(a)))
    if DECIMAL.split(a) != DECIMAL.split(b):
        return False
    numbers = zip(DECIMAL.findall(a), DECIMAL.findall(b), strict=True)
    return all(abs(float(x) - float(y)) <= PRINTED * abs(float(x)) for x, y in numbers)


__all__ = ["TOLERANCE", "alike", "differences"]
