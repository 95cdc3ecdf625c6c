"""The Triton kernels as backends: found and imported when first asked for, never at import of uapfast."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uapfast.errors import how_to_install
from uapfast.ops._registry import Backend

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
"""Kernels run on CPU tensors, in numpy: for tests alone, so never by choice of the op."""


def kernels(name: str) -> Any:
    """Module ``name`` of uapfast.kernels."""
    return importlib.import_module(f"{_package()}.{name}")


@functools.cache
def _package() -> str:
    """Its name, after taking it from beside the package where a source tree is run without an install."""
    name, place = "uapfast.kernels", Path(__file__).parents[2] / "kernels"
    if (place / "build_queries.py").is_file() and name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, place / "__init__.py", submodule_search_locations=[str(place)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return name


@functools.cache
def why_off() -> str | None:
    """Why Triton kernels cannot run here; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return f"triton is not installed ({how_to_install('triton')})"
    if INTERPRETED:
        return None
    return None if torch.cuda.is_available() else "no CUDA device that torch can use"


def elsewhere(tensor: Tensor) -> str | None:
    """Why the kernels do not take ``tensor`` because of where it lies; None if they do."""
    kind = "cpu" if INTERPRETED else "cuda"
    place = "on the CPU, under TRITON_INTERPRET=1" if INTERPRETED else "on a CUDA device"
    return None if tensor.device.type == kind else f"tensors {place}"


def backend(run: Callable[..., Any], refuses: Callable[..., str | None]) -> Backend:
    """Backend ``triton``: ``run`` takes the op's arguments, the first of which says the device."""

    def there(first: Tensor, *rest: Any) -> Any:
        with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
            return run(first, *rest)

    def refused(first: Tensor, *rest: Any) -> str | None:
        return elsewhere(first) or refuses(first, *rest)

    note = "interpreted" if INTERPRETED else ""
    return Backend("triton", there, why_off, refused, automatic=not INTERPRETED, note=note)
