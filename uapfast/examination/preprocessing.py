"""Which normalisation a suspect is asked with that comes without one: the same rule for every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, TypeVar


class Bare(Protocol):
    """Something that may want images normalised, and says whether that is still open."""

    notes: tuple[str, ...]

    @property
    def bare(self) -> bool: ...  # noqa: D102
    def with_preprocessing(self, mean: Sequence[float], std: Sequence[float]) -> Self: ...  # noqa: D102


Asked = TypeVar("Asked", bound=Bare)


def asked_as_victim(suspect: Asked, preprocessing: Mapping[str, Sequence[float]] | None) -> Asked:
    """The suspect behind the victim's mean and std, if it is bare: a copy of the victim has to be asked so.

    A wrong guess does not acquit: who is asked wrongly disagrees with the pool's models (docs/verdicts.md).

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


def preprocessing_note(mean: Sequence[float], std: Sequence[float]) -> str:
    """What is said of a suspect that is asked with the victim's preprocessing, having none of its own."""
    means, stds = (" ".join(f"{v:g}" for v in values) for values in (mean, std))
    return (
        f"it is queried with the victim's mean {means} and std {stds}, since none were given "
        "(give mean 0 and std 1 for a suspect that normalises its own input)"
    )


__all__ = ["asked_as_victim", "preprocessing_note"]
