"""Which of several architectures a weights file is of: the one whose names and shapes it has."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch

from uapfast.errors import InputError, ModelError, UapfastError
from uapfast.models.fitting import fit, misfits
from uapfast.safeload.dtypes import DTYPES
from uapfast.safeload.header import Header
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.networks.proof import same_answers
from uapfast.suspects.networks.shapes import Shapes

KNOWN = 64  # layouts of files that are remembered
ALIKE = 1e-4  # of the largest answer: what two builds of one function may differ by


class FittingArchitectures(OrderedDict[object, tuple[str, ...]]):
    """Which architectures the layouts that were met last fit. For one thread at a time."""

    def keep(self, layout: object, archs: tuple[str, ...]) -> None:
        """Remember one more."""
        self[layout] = archs
        while len(self) > KNOWN:
            self.popitem(last=False)


def choose_architecture(
    entry: Entry, header: Header, shapes_of: Callable[[Entry], Shapes], known: FittingArchitectures
) -> tuple[Entry, tuple[str, ...]]:
    """The entry with the architecture that fits taken, and others that fit as well.

    Args:
        entry: with ``choices``; one without them is returned as it is.
        header: of its file.
        shapes_of: names and shapes that an entry's architecture takes.
        known: layouts of earlier files.

    Raises:
        InputError: no architecture was given at all.
        ModelError: none fits; the nearest is named.
    """
    if entry.arch and not entry.choices:
        return entry, ()
    if not entry.choices:
        rule = "given for a file of weights alone, because it does not name its network"
        raise InputError("screen", "--arch", rule, f"none for {entry.shown}")
    tensors = tuple((i.name, tuple(i.shape), i.dtype) for i in header.tensors.values())
    layout = entry.choices, entry.base, entry.code, tensors
    if layout not in known:
        known.keep(layout, _fitting(entry, header, shapes_of))
    first, *others = known[layout]
    return entry.taking(first), tuple(others)


def _fitting(entry: Entry, header: Header, shapes_of: Callable[[Entry], Shapes]) -> tuple[str, ...]:
    shapes = {name: info.shape for name, info in header.tensors.items()}
    dtypes = {n: getattr(torch, DTYPES[info.dtype].torch) for n, info in header.tensors.items()}
    fits: list[str] = []
    near: list[tuple[int, str, str]] = []
    unbuilt: list[str] = []
    for arch in entry.choices:
        try:
            wants = shapes_of(entry.taking(arch)).wants
        except UapfastError as exc:
            unbuilt.append(f"{arch} cannot be built: {exc}")
            continue
        try:
            fit(wants, shapes, dtypes, entry.shown, header.metadata)
            fits.append(arch)
        except ModelError as exc:
            near.append((misfits(wants, shapes), arch, str(exc.got)))
    if fits:
        return tuple(fits)
    rule = f"those of one of {len(entry.choices)} architectures ({entry.shown})"
    if not near:
        raise ModelError("screen", "weights", rule, "; ".join(unbuilt))
    count, arch, said = min(near)
    more = f" ({'; '.join(unbuilt)})" if unbuilt else ""
    got = f"those of none; {arch} is nearest, with {count} of {len(shapes)} tensors different: {said}{more}"
    raise ModelError("screen", "weights", rule, got)


def answers_differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two networks answer the same images otherwise, beyond rounding."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return True
    if a.ndim == 2 and a.is_floating_point():
        # what is added to all classes says nothing, and would hide what differs
        a, b = (x.double() - x.double().mean(1, keepdim=True) for x in (a, b))
    return not same_answers(a, b, ALIKE)


__all__ = ["FittingArchitectures", "answers_differ", "choose_architecture"]
