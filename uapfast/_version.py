"""Our version, and those of what a result depends on. A leaf."""

from __future__ import annotations

from functools import cache
from importlib import metadata

__version__ = "0.1.0"


@cache
def _versions() -> dict[str, str]:
    """Read once: a package's metadata take a millisecond."""
    found = {"uapfast": __version__}
    for name in ("torch", "numpy", "scipy", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def versions() -> dict[str, str]:
    """Versions recorded with every reference and verdict."""
    return dict(_versions())
