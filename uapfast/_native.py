"""The compiled modules, loaded when first asked for: a missing one fails the call, not the import."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from uapfast.errors import NativeUnavailable

LEVELS = {"scalar": 0, "avx2": 1, "avx512": 2}
"""SIMD levels by the number that the core knows them by."""
AUTO = -1
"""Let the core choose the level (``UAPFAST_SIMD``, or else the best)."""

_ROOT = Path(__file__).parent.parent
SOURCE_TREE = _ROOT if (_ROOT / "pyproject.toml").is_file() else None
"""The folder of sources that uapfast is imported from, perhaps by mistake; None for an installed package."""
LEAVE_TREE = "Start Python in another folder to import the installed package, or build here: pip install -e ."

_HOW = {
    "_cpu": "reinstall uapfast where a C++20 compiler is present: pip install --force-reinstall --no-deps .",
    "_cuda": "it is built where nvcc is present: UAPFAST_CUDA=ON pip install --force-reinstall --no-deps .",
}


@functools.cache
def _load(name: str) -> ModuleType | str:
    """The module, or why it is not there."""
    try:
        return importlib.import_module(f"uapfast.{name}")
    except ModuleNotFoundError as exc:
        if exc.name != f"uapfast.{name}":
            raise
        if name == "_cpu" and SOURCE_TREE:
            return f"uapfast.{name} was not built in this source tree, {SOURCE_TREE}. {LEAVE_TREE}"
        return f"uapfast.{name} was not built; {_HOW[name]}"
    except ImportError as exc:  # built for another Python, or a library is missing
        return f"uapfast.{name} cannot be loaded ({exc}); {_HOW[name]}"


def why_missing(name: str) -> str | None:
    """Why a compiled module (``_cpu`` or ``_cuda``) cannot be used here; None if it can be."""
    found = _load(name)
    return found if isinstance(found, str) else None


def _module(name: str) -> Any:
    found = _load(name)
    if isinstance(found, str):
        raise NativeUnavailable(found)
    return found


def cpu() -> Any:
    """The module with the CPU kernels; see ``_cpu.pyi``.

    Raises:
        NativeUnavailable: it was not built or cannot be loaded; the message says what to do.
    """
    return _module("_cpu")


def cuda() -> Any:
    """The module with the CUDA side; see ``_cuda.pyi``. Needs no driver to be loaded.

    Raises:
        NativeUnavailable: it was not built or cannot be loaded; the message says what to do.
    """
    return _module("_cuda")
