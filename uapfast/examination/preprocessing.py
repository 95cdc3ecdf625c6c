"""Which preprocessing a suspect is asked with that comes without one: the same rule for every kind.

A copy of the victim is asked as the victim is, unless it prepares its images otherwise: it may normalise
its own input, or take its channels in another order. Nobody can see that in a file, so a few query points
tell, by the labels that most of the pool's models give them, the victim left out. That accuses nobody: it is
how the suspect answers best, whoever it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import OutputError, SuspectError, TimeLimitError
from uapfast.examination.classes import checked_order, reordered
from uapfast.method.consensus import Labels, Majority
from uapfast.models.answers import Answers
from uapfast.models.preprocessing import CHANNEL_ORDERS, Preprocessing
from uapfast.reference import Reference

CLEARLY = 3.0  # standard errors by which another way has to answer more of them as most models do
# Of what normalises its own input: images in 0..1, or in 0..255.
OWN = (Preprocessing(), Preprocessing(std=(1 / 255,)))
COLOURS = 3  # channels that have an order


class Bare(Protocol):
    """Something that may want images normalised, and says whether that is still open."""

    notes: tuple[str, ...]

    @property
    def bare(self) -> bool: ...  # noqa: D102
    @property
    def channel_order(self) -> str | None: ...  # noqa: D102
    def with_preprocessing(self, preprocessing: Preprocessing) -> Self: ...  # noqa: D102


Asked = TypeVar("Asked", bound=Bare)
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class TriedWay:
    """One way to ask a suspect, and what it answered.

    Attributes:
        preprocessing: of the images.
        labels: its class of each image, as the reference numbers them; -1 for no answer.
    """

    preprocessing: Preprocessing
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """How a suspect is asked that came without mean and std, and what shows that.

    Attributes:
        tried: ways in which it was asked the same few query points; the first is the victim's.
        taken: which of them it is asked with.
        note: that for a reader of the verdict.
    """

    tried: tuple[TriedWay, ...]
    taken: int
    note: str

    @property
    def preprocessing(self) -> Preprocessing:
        """That it is asked with."""
        return self.tried[self.taken].preprocessing

    @property
    def otherwise(self) -> bool:
        """Whether it is asked otherwise than the victim."""
        return self.taken > 0

    def to_dict(self) -> dict[str, Any]:
        """For a record: from it anybody can tell again which way is taken."""
        ways = [one.preprocessing.to_dict() | {"labels": list(one.labels)} for one in self.tried]
        return {"taken": self.taken, "ways": ways}


def as_the_victim(preprocessing: Mapping[str, Any] | None, channel_order: str | None) -> Preprocessing | None:
    """The victim's preprocessing for a suspect whose order of channels may have been said."""
    if preprocessing is None:
        return None
    own = Preprocessing.told(preprocessing)
    return own.ordered(channel_order or own.channel_order)


def asked_as_victim(suspect: Asked, preprocessing: Mapping[str, Any] | None) -> Asked:
    """The suspect behind the victim's mean and std, if it is bare: a copy of the victim has to be asked so.

    Args:
        suspect: a module or an ONNX file, or anything else, which is returned as it is.
        preprocessing: the reference's ``mean`` and ``std``; None where the victim takes 0..1.

    Returns:
        ``suspect`` itself, or a copy of it whose ``notes`` say what was assumed.
    """
    own = as_the_victim(preprocessing, suspect.channel_order) if suspect.bare else None
    if own is None:
        return suspect
    asked = suspect.with_preprocessing(own)
    asked.notes = (*asked.notes, preprocessing_note(own))
    return asked


def reading_of(
    reference: Reference,
    ask: Callable[[Preprocessing, Tensor], Answers],
    channel_order: str | None = None,
    order: Sequence[int] | None = None,
) -> Reading | None:
    """How a suspect without mean and std is asked, told by what it answers.

    Args:
        reference: whose query points are asked.
        ask: a preprocessing, and images in 0..1, to answers.
        channel_order: of the suspect, if it was said; None tries both where images have three channels.
        order: for each class of the reference, the suspect's class that means it; None if they are the same.

    Returns:
        None where there is nothing to tell: the victim takes images in 0..1, no query point serves, or time
        ran out, which is said where it is asked in earnest.

    Raises:
        InputError: the order does not fit the classes.
    """
    own = as_the_victim(reference.preprocessing, channel_order)
    named = None if order is None else checked_order(order, reference.classes)
    few, many = reference.others
    if own is None or not len(few.queries):
        return None
    first = _images(reference, few.queries)

    def tried_with(_: int, way: Preprocessing, before: tuple[int, ...] = ()) -> TriedWay:
        images = _images(reference, many.queries[len(before) :]) if before else first
        try:
            answers = ask(way, images)
            found = answers if named is None else reordered(answers, named)
        except (SuspectError, OutputError) as exc:  # a network may well fail at what it is not made for
            if isinstance(exc, TimeLimitError):
                raise
            return TriedWay(way, (*before, *(-1,) * len(images)))
        return TriedWay(way, (*before, *map(int, found.labels().tolist())))

    try:
        tried = trials_of(reference, own, channel_order is None, tried_with)
    except TimeLimitError:
        return None
    chosen = taken(reference, tried)
    note = _said(reference, tried[chosen], tried[0]) if chosen else preprocessing_note(own)
    return Reading(tried, chosen, note)


def _images(reference: Reference, queries: Labels) -> Tensor:
    """Some query points, ``[n,C,H,W]`` in 0..1."""
    start, end = int(queries[0]), int(queries[-1]) + 1
    return reference.plan.x(slice(start, end))[torch.from_numpy(queries - start)]


def trials_of(
    reference: Reference, own: Preprocessing, both: bool, tried_with: Callable[..., TriedWay]
) -> tuple[TriedWay, ...]:
    """A suspect asked in one way after the other, until it is told how it is asked.

    Args:
        reference: whose query points are asked.
        own: the victim's way.
        both: whether it may take its channels in either order.
        tried_with: place and preprocessing of a way to its trial; with the labels of the first few query
            points, to that with more of them.
    """
    few, tried = reference.others[0], list[TriedWay]()
    both = both and reference.shape[0] == COLOURS
    for channels in sorted(CHANNEL_ORDERS, key=lambda one: one != own.channel_order)[: 1 + both]:
        # 0..1 and 0..255 as well: networks of ReLUs hardly tell them apart by labels, and do by scores
        for way in (own, *OWN):
            tried.append(tried_with(len(tried), way.ordered(channels)))
            if len(tried) == 1 and _usual(few, tried[0]):
                break
        if _usual(few, tried[_by_few(reference, tried)]):
            break
    for place in _rivals(reference, tried):
        tried[place] = tried_with(place, tried[place].preprocessing, tried[place].labels)
    return tuple(tried)


def taken(reference: Reference, tried: Sequence[TriedWay]) -> int:
    """Which of several ways a suspect is asked with; the first of them is the victim's.

    That one, where it answers as most models of the pool do, or where in no other way it is clearly better
    than in all before, and nearer to the pool's models than to who guesses. A way that is better than the one
    that is then taken, but not clearly, gets a second hearing beside it, with more query points.
    """
    chosen, rivals = _by_few(reference, tried), _rivals(reference, tried)
    many = reference.others[-1]
    if not rivals or _usual(many, tried[chosen]):
        return chosen
    better = _clearly(_right(many, tried[rivals[1]]), _right(many, tried[chosen]))
    return rivals[1] if better and _knows(many, tried[rivals[1]]) else chosen


def _by_few(reference: Reference, tried: Sequence[TriedWay]) -> int:
    """Which way the first few query points tell."""
    few, chosen = reference.others[0], 0
    right = [_right(few, one) for one in tried]
    if _usual(few, tried[0]):
        return 0
    for place in range(1, len(tried)):
        if _knows(few, tried[place]) and all(_clearly(right[place], other) for other in right[:place]):
            chosen = place
    return chosen


def _rivals(reference: Reference, tried: Sequence[TriedWay]) -> tuple[int, ...]:
    """The way that the first few query points tell, and one that answers more of them; none without doubt."""
    few, many = reference.others
    chosen = _by_few(reference, tried)
    if len(few.queries) == len(many.queries) or _usual(few, tried[chosen]):
        return ()
    best = int(np.argmax([_right(few, one).sum() for one in tried]))  # of equals the first
    better = _right(few, tried[best]).sum() > _right(few, tried[chosen]).sum()
    return (chosen, best) if better else ()


def _right(others: Majority, trial: TriedWay) -> Right:
    """Which of the images it gives the label of most models."""
    out: Right = np.array(trial.labels[: len(others.classes)]) == others.classes
    return out


def _usual(others: Majority, trial: TriedWay) -> bool:
    """Whether it answers as many of them as most models do as the median model of the pool."""
    return bool(_right(others, trial).mean() >= others.median)


def _knows(others: Majority, trial: TriedWay) -> bool:
    """Whether it is nearer to the median model than to who guesses."""
    return bool(_right(others, trial).mean() > (others.guess + others.median) / 2)


def _clearly(better: Right, worse: Right) -> bool:
    """Whether one way, right where bool ``[n]`` says so, is so clearly more often (McNemar, ``CLEARLY``)."""
    gained, lost = int((better & ~worse).sum()), int((worse & ~better).sum())
    return gained - lost > CLEARLY * math.sqrt(gained + lost)


def _said(reference: Reference, then: TriedWay, first: TriedWay) -> str:
    few = reference.others[0]
    right, before = (int(_right(few, one).sum()) for one in (then, first))
    return (
        f"it is queried with {then.preprocessing}, since none were given and it answers {right} of "
        f"{len(few.classes)} images as most of the pool's models do; with the victim's "
        f"{first.preprocessing} it is {before}"
    )


def preprocessing_note(own: Preprocessing) -> str:
    """What is said of a suspect that is asked with the victim's preprocessing, having none of its own."""
    return (
        f"it is queried with the victim's {own}, since none were given "
        "(give mean 0 and std 1 for a suspect that normalises its own input)"
    )


__all__ = [
    "Reading",
    "TriedWay",
    "as_the_victim",
    "asked_as_victim",
    "preprocessing_note",
    "reading_of",
    "taken",
    "trials_of",
]
