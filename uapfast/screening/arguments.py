"""What callers of ``uapfast.screen`` give, checked and completed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from uapfast.config import check
from uapfast.errors import InputError
from uapfast.examination import as_the_victim
from uapfast.models.model import check_batch_size
from uapfast.reference import Reference, as_reference
from uapfast.screening.asking.panel import Panel
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.resolve import WEIGHTS


def preprocessed(suspects: Iterator[Entry], panel: Panel) -> Iterator[Entry]:
    """Suspects without mean and std are asked with the victim's, as ``verify`` does.

    Raises:
        InputError: victims of different preprocessing, of which none can be meant.
    """
    found = [asked.reference.preprocessing for asked in panel.asked]
    for suspect in suspects:
        own = found[0]
        if suspect.kind == WEIGHTS and suspect.mean is None and suspect.std is None and any(found):
            if any(other != own for other in found):
                rule = "given for every suspect, since the references' victims have different ones"
                raise InputError("screen", "mean and std", rule, f"none for {suspect.name}")
            asked = as_the_victim(own, suspect.channel_order)
            assert asked is not None
            suspect = suspect.asked_by(asked, assumed=True)
        yield suspect


def check_settings(
    alpha: object,
    fdr: object,
    queries: object,
    workers: object,
    timeout: object,
    precision: object,
    batch_size: object,
) -> None:
    """Numbers in their ranges; raises ``InputError``."""

    def number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    check(number(alpha) and 0 < alpha < 0.5, "screen", "alpha", "a level in (0, 0.5)", repr(alpha))  # type: ignore[operator]
    check(number(fdr) and 0 < fdr <= 1, "screen", "fdr", "a rate in (0, 1]", repr(fdr))  # type: ignore[operator]
    check(number(timeout) and timeout > 0, "screen", "timeout", "seconds above 0", repr(timeout))  # type: ignore[operator]
    for name, value in (("queries", queries), ("workers", workers)):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        check(value is None or whole, "screen", name, "a whole number >= 1", repr(value))
    check_batch_size("screen", batch_size)
    check(precision in ("float32", "bf16"), "screen", "precision", "float32 or bf16", repr(precision))


def named_references(given: Any) -> dict[str, Reference]:
    """References by name, in order."""
    if isinstance(given, Reference | str | os.PathLike):
        given = [given]
    if isinstance(given, Mapping):
        named = {str(name): as_reference(one, "screen") for name, one in given.items()}
        rule = "a mapping from names that differ as text"
        check(len(named) == len(given), "screen", "references", rule, ", ".join(map(repr, given)))
        return named
    if not isinstance(given, Iterable):
        rule = "references, their files, or a mapping from names to them"
        raise InputError("screen", "references", rule, type(given).__name__)
    items = list(given)
    return dict(zip(_names(items), (as_reference(one, "screen") for one in items), strict=True))


def _names(items: list[Any]) -> list[str]:
    """A name for each reference: its file's stem; one that is taken gets a number that is free."""
    stems = [
        Path(one).stem if isinstance(one, str | os.PathLike) else f"reference-{number}"
        for number, one in enumerate(items, 1)
    ]
    taken: set[str] = set()
    out = []
    for stem in stems:
        name, number = stem, 1
        while name in taken or (number > 1 and name in stems):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        out.append(name)
    return out


def store_path(store: str | os.PathLike[str] | None, out: str | os.PathLike[str] | None) -> Path | None:
    """The store of a screen that writes ``out``."""
    if store is not None:
        return Path(store)
    return None if out is None else Path(f"{os.fspath(out)}.store")


__all__ = ["check_settings", "named_references", "preprocessed", "store_path"]
