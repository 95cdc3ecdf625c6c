"""What other packages add, found by their entry points: architectures, recipes, sources of suspects.

An entry point works in every process alike: on the command line, in the workers of a pool and of a screen.
Nothing is imported before its name is used (docs/extend.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from uapfast.errors import ModelError

ARCHITECTURES, RECIPES, SUSPECTS = "uapfast.architectures", "uapfast.recipes", "uapfast.suspects"


def names(group: str) -> list[str]:
    """The names that packages have registered in a group."""
    return sorted({point.name for point in entry_points(group=group)})


def registered(group: str, name: str) -> EntryPoint | None:
    """The entry point of a name, not yet imported; None if no package has it.

    Raises:
        ModelError: two packages register different things under one name.
    """
    found = {point.value: point for point in entry_points(group=group) if point.name == name}
    if len(found) > 1:
        raise ModelError(
            "plugins", f"{group} {name}", "registered by one package", " and ".join(sorted(found))
        )
    return next(iter(found.values()), None)


def load_plugin(group: str, name: str) -> Callable[..., Any] | None:
    """The function that a name stands for; None if no package has it.

    Raises:
        ModelError: its module cannot be imported, or it is no function.
    """
    point = registered(group, name)
    if point is None:
        return None
    try:
        found = point.load()
    except Exception as exc:  # whatever the package's import raises
        rule = f"an entry point that can be imported ({point.value})"
        raise ModelError("plugins", f"{group} {name}", rule, f"{type(exc).__name__}: {exc}") from exc
    if not callable(found):
        raise ModelError("plugins", f"{group} {name}", f"a function ({point.value})", type(found).__name__)
    function: Callable[..., Any] = found
    return function


def file_of(point: EntryPoint) -> Path | None:
    """The source file of an entry point's module, which is imported; None where it has none."""
    point.load()
    file = getattr(sys.modules.get(point.module), "__file__", None)
    return None if file is None else Path(file)


__all__ = ["ARCHITECTURES", "RECIPES", "SUSPECTS", "file_of", "load_plugin", "names", "registered"]
