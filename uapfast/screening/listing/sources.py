"""What callers of ``uapfast.screen`` give, as entries."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from uapfast.errors import InputError
from uapfast.screening.listing.collection import Skipped, from_folder
from uapfast.screening.listing.entry import Defaults, Entry
from uapfast.screening.listing.manifest import from_manifest
from uapfast.suspects.resolve import WEIGHTS, kind_of


def as_entries(
    suspects: object,
    defaults: Defaults | None = None,
    skipped: Skipped | None = None,
    endpoints: bool = False,
) -> Iterator[Entry]:
    """A manifest, a folder, or entries and paths, as entries.

    Args:
        suspects: what the caller gave. In a list a folder, an ONNX file or an address is one suspect.
        defaults: for those without their own.
        skipped: as :func:`from_folder`.
        endpoints: as :func:`from_manifest`.

    Raises:
        InputError: nothing of the kind, or weights files without an architecture.
        ManifestError: see :func:`from_manifest`.
    """
    defaults = defaults or Defaults()
    if isinstance(suspects, str | os.PathLike):
        if os.path.isdir(suspects):
            yield from from_folder(suspects, defaults, skipped=skipped)
        else:
            yield from from_manifest(suspects, defaults, endpoints=endpoints)
        return
    if not isinstance(suspects, Iterable):
        rule = "a manifest, a folder, or an iterable of Entry or paths"
        raise InputError("screen", "suspects", rule, type(suspects).__name__)
    for item in suspects:
        if isinstance(item, Entry):
            yield item
        elif isinstance(item, str | os.PathLike):
            yield _entry(os.fspath(item), defaults)
        else:
            raise InputError("screen", "suspects", "of Entry or paths", type(item).__name__)


def _entry(path: str, defaults: Defaults) -> Entry:
    kind = kind_of(path)
    if kind == WEIGHTS and not defaults.arch:
        raise InputError("screen", "arch", "given for weights files, which name no network", "none")
    return defaults.entry(path, kind)


__all__ = ["as_entries"]
