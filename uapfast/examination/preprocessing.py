"""Which normalisation a suspect is asked with that comes without one: the same rule for every kind.

A copy of the victim is asked as the victim is, unless it normalises its own input. Nobody can see that in a
file, so a few query points tell, by the labels that most of the pool's models give them, the victim left out.
That accuses nobody: it is how the suspect answers best, whoever it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from uapfast.errors import OutputError, SuspectError, TimeLimitError
from uapfast.examination.classes import checked_order, reordered
from uapfast.models.answers import Answers
from uapfast.reference import Reference

CLEARLY = 3.0  # standard errors by which another way has to answer more of them as most models do
# Mean and std of what normalises its own input: images in 0..1, or in 0..255.
OWN: tuple[tuple[tuple[float], tuple[float]], ...] = (((0.0,), (1.0,)), ((0.0,), (1 / 255,)))


class Bare(Protocol):
    """Something that may want images normalised, and says whether that is still open."""

    notes: tuple[str, ...]

    @property
    def bare(self) -> bool: ...  # noqa: D102
    def with_preprocessing(self, mean: Sequence[float], std: Sequence[float]) -> Self: ...  # noqa: D102


Asked = TypeVar("Asked", bound=Bare)
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Reading:
    """Mean and std that a suspect is asked with, and what shows that they are its own."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    said: str


def asked_as_victim(suspect: Asked, preprocessing: Mapping[str, Sequence[float]] | None) -> Asked:
    """The suspect behind the victim's mean and std, if it is bare: a copy of the victim has to be asked so.

    Args:
        suspect: a module or an ONNX file, or anything else, which is returned as it is.
        preprocessing: the reference's ``mean`` and ``std``; None where the victim takes 0..1.

    Returns:
        ``suspect`` itself, or a copy of it whose ``notes`` say what was assumed.
    """
    if preprocessing is None or not suspect.bare:
        return suspect
    mean, std = preprocessing["mean"], preprocessing["std"]
    asked = suspect.with_preprocessing(mean, std)
    asked.notes = (*asked.notes, preprocessing_note(mean, std))
    return asked


def normalises_itself(
    reference: Reference,
    ask: Callable[[Statistics, Tensor], Answers],
    order: Sequence[int] | None = None,
) -> Reading | None:
    """How a suspect without mean and std is asked that normalises its own input, told by what it answers.

    Args:
        reference: whose query points are asked.
        ask: mean and std, and images in 0..1, to answers.
        order: for each class of the reference, the suspect's class that means it; None if they are the same.

    Returns:
        None where it is asked as the victim is: it then answers as most models of the pool do, or in no other
        way clearly better than in all before, and nearer to the pool's models than to who guesses.

    Raises:
        InputError: the order does not fit the classes.
    """
    own = reference.preprocessing
    if own is None:
        return None
    named = None if order is None else checked_order(order, reference.classes)
    others = reference.others
    if not len(others.queries):
        return None
    wanted = torch.from_numpy(others.classes)
    images = reference.plan.x(slice(0, int(others.queries[-1]) + 1))[torch.from_numpy(others.queries)]
    found: Reading | None = None

    def right(way: Statistics) -> Tensor:
        try:
            answers = ask(way, images)
        except (SuspectError, OutputError) as exc:  # a network may well fail at what it is not made for
            if isinstance(exc, TimeLimitError):
                raise
            return torch.zeros(len(wanted), dtype=torch.bool)
        return (answers if named is None else reordered(answers, named)).labels() == wanted

    try:
        tried = [right((tuple(own["mean"]), tuple(own["std"])))]
        first = int(tried[0].sum())
        if first / len(wanted) >= others.median:
            return None
        for way in OWN:
            then = right(way)
            knows = float(then.double().mean()) > (others.guess + others.median) / 2
            # 0..1 and 0..255 as well: networks of ReLUs hardly tell them apart by labels, and do by scores
            if knows and all(_clearly(then, other) for other in tried):
                found = Reading(*way, _said(reference, way, int(then.sum()), first, len(wanted)))
            tried.append(then)
    except TimeLimitError:  # it is said where it is asked in earnest
        return None
    return found


def _clearly(better: Tensor, worse: Tensor) -> bool:
    """Whether one way, right where bool ``[n]`` says so, is so clearly more often (McNemar, ``CLEARLY``)."""
    gained, lost = int((better & ~worse).sum()), int((worse & ~better).sum())
    return gained - lost > CLEARLY * math.sqrt(gained + lost)


def _said(reference: Reference, way: Statistics, then: int, first: int, of: int) -> str:
    assert reference.preprocessing is not None
    shown = _shown({"mean": way[0], "std": way[1]})
    return (
        f"it is queried with {shown}, since none were given and it answers {then} of {of} images as most of "
        f"the pool's models do; with the victim's {_shown(reference.preprocessing)} it is {first}"
    )


def _shown(preprocessing: Mapping[str, Sequence[float]]) -> str:
    mean, std = (" ".join(f"{v:g}" for v in preprocessing[name]) for name in ("mean", "std"))
    return f"mean {mean} and std {std}"


def preprocessing_note(mean: Sequence[float], std: Sequence[float]) -> str:
    """What is said of a suspect that is asked with the victim's preprocessing, having none of its own."""
    return (
        f"it is queried with the victim's {_shown({'mean': mean, 'std': std})}, since none were given "
        "(give mean 0 and std 1 for a suspect that normalises its own input)"
    )


__all__ = ["Reading", "Statistics", "asked_as_victim", "normalises_itself", "preprocessing_note"]
