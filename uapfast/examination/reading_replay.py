"""How a suspect was asked, told again from a record of what it answered before: nobody need trust it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from uapfast.examination.preprocessing import TriedWay, as_the_victim, taken, trials_of
from uapfast.models.preprocessing import CHANNEL_ORDERS, Preprocessing
from uapfast.reference import Reference


def check_told(reference: Reference, told: Any, asked: Mapping[str, Any]) -> int:
    """Tell again which way is taken, from what :meth:`Reading.to_dict` gave, which nobody need trust.

    Args:
        reference: whole, as it was asked for.
        told: how a suspect was asked before its preprocessing was chosen.
        asked: ``mean``, ``std`` and ``channel_order`` that it was asked with then.

    Returns:
        How many ways were tried.

    Raises:
        ValueError: another way follows from it, or it is not such a thing; the message says what.
    """
    try:
        tried = tuple(map(_trial_told, _listed(told["ways"])))
        place, then = told["taken"], _preprocessing_told(asked)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as exc:
        raise ValueError(f"{type(exc).__name__}: {str(exc)[:80]}") from exc
    few, many = (len(one.queries) for one in reference.others)
    if not few or not tried or any(len(one.labels) not in (few, many) for one in tried):
        raise ValueError(f"answers to other than {few} query points, or {many} where these leave doubt")
    if not any(_repeats(reference, tried, said) for said in (None, *CHANNEL_ORDERS)):
        raise ValueError("other ways than are tried, or as many points where these leave no doubt")
    follows = taken(reference, tried)
    if type(place) is not int or place != follows or tried[follows].preprocessing != then:
        raise ValueError(f"{then}, where another follows from the answers")
    return len(tried)


def _repeats(reference: Reference, tried: Sequence[TriedWay], channel_order: str | None) -> bool:
    """Whether a suspect that answers as it is told is asked in just these ways, if its order was so said."""
    own, few = as_the_victim(reference.preprocessing, channel_order), len(reference.others[0].queries)

    def told(place: int, way: Preprocessing, before: tuple[int, ...] = ()) -> TriedWay:
        labels = tried[min(place, len(tried) - 1)].labels
        return TriedWay(way, labels if before else labels[:few])

    return own is not None and trials_of(reference, own, channel_order is None, told) == tuple(tried)


def _trial_told(told: Any) -> TriedWay:
    labels = _listed(told["labels"])
    if any(type(label) is not int for label in labels):  # true is not 1
        raise ValueError("a label that is no whole number")
    return TriedWay(_preprocessing_told(told), tuple(labels))


def _preprocessing_told(told: Any) -> Preprocessing:
    for name in ("mean", "std"):
        if any(type(v) not in (int, float) or not math.isfinite(v) for v in _listed(told[name])):
            raise ValueError(f"{name} that is not made of numbers")
    return Preprocessing.told(told)


def _listed(told: Any) -> list[Any]:
    if not isinstance(told, list):
        raise TypeError(f"{type(told).__name__} for a list")
    return told


__all__ = ["check_told"]
