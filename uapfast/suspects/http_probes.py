"""Whether a server answers equal questions alike, one by one and in a batch: what differences come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from uapfast.arrays import Float64Array
from uapfast.errors import SuspectError

FIRST, MORE = 3, 8  # images asked again; as many where the first show a difference
ALIKE = 1e-3  # of the largest answer, or of 1: devices and 16-bit floats differ by less
GROSS = 0.5  # of the difference between answers to different questions


def rows_differ(rows: Float64Array, others: Float64Array) -> bool:
    """Whether answers differ by more than rounding; ``[n,K]`` each, or ``[n]`` labels."""
    if rows.shape != others.shape:
        return True
    if rows.ndim == 1:
        return bool((rows != others).any())
    largest = float(np.nan_to_num(np.abs(rows), nan=0.0, posinf=0.0).max(initial=0.0))
    return not np.allclose(rows, others, rtol=0.0, atol=ALIKE * max(1.0, largest), equal_nan=True)


def judged(
    batch: Float64Array, once: Float64Array, again: Float64Array, others: Float64Array, where: str
) -> str | None:
    """What the differences come to, as a sentence; None where there are none.

    Args:
        batch: answers as they came in batches; ``[n,K]``, or ``[n]`` labels.
        once: to the same images, asked one by one.
        again: the same once more.
        others: answers to other images of these batches.
        where: named in errors.

    Raises:
        SuspectError: the differences are as large as between answers to different images.
    """
    usual = _spread(others)
    changed, mixed = _share(once, again, usual), _share(batch, once, usual)
    if changed > GROSS:
        rule = "the same for equal questions"
        got = f"{_percent(changed)} of the difference between different questions"
        raise SuspectError(where, "answers", rule, got)
    if rows_differ(once, again):
        said = "answers change between equal questions, by"
        share = f"{_percent(changed)} of what different questions differ by"
        return f"its {said} {share} (noise, or averages of views)"
    if mixed > GROSS:
        rule = "one per image of a batch, in order (batch_size=1 sends them one by one)"
        elsewhere = sum(not rows_differ(one[None], row[None]) for row in once for one in others)
        got = f"other answers than one by one, {elsewhere} of them those of other images"
        raise SuspectError(where, "answers", rule, got)
    if rows_differ(batch, once):
        said = "answers depend on what else is in a batch, by"
        return f"its {said} {_percent(mixed)} of what different questions differ by"
    return None


def matrix(rows: Sequence[Any]) -> Float64Array:
    """Rows of a table as float64."""
    return np.asarray(rows, dtype=np.float64)


def _distance(a: Float64Array, b: Float64Array) -> Float64Array:
    if a.ndim == 1:
        return np.asarray(a != b, dtype=np.float64)
    return np.asarray(np.linalg.norm(a - b, axis=-1), dtype=np.float64)


def _spread(rows: Float64Array) -> float:
    """Mean difference between answers to different questions."""
    pairs = [_distance(rows[k:], rows[: len(rows) - k]) for k in range(1, len(rows))]
    return float(np.concatenate(pairs).mean()) if pairs else 0.0


def _share(a: Float64Array, b: Float64Array, usual: float) -> float:
    if not rows_differ(a, b):
        return 0.0
    return float(_distance(a, b).mean()) / usual if usual > 0 else np.inf


def _percent(share: float) -> str:
    return f"{share:.1%}" if np.isfinite(share) else "far more than 100%"


__all__ = ["FIRST", "MORE", "judged", "matrix", "rows_differ"]
