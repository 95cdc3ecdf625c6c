"""uapfast tests whether a classifier was made from yours, by its answers alone.

``generate`` makes the reference of a victim, once; it needs the victim's weights. ``verify`` queries one
suspect and returns a verdict, ``screen`` does so for many, and ``encode`` returns a suspect's embedding.
torch is imported on first use.
"""

from __future__ import annotations

import logging
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from uapfast import errors
from uapfast._version import __version__
from uapfast.config import GenerateConfig
from uapfast.errors import UapfastError
from uapfast.types import UniversalPerturbation, Verdict

if TYPE_CHECKING:
    from uapfast.method.uap import universal_perturbation
    from uapfast.models.model import Model
    from uapfast.pool.manifest import load_pool
    from uapfast.pool.pool import Pool
    from uapfast.reference import Reference, load
    from uapfast.screening.listing.entry import Entry
    from uapfast.screening.run import screen
    from uapfast.suspects.resolve import open_suspect
    from uapfast.verbs.encode import encode
    from uapfast.verbs.generate import generate
    from uapfast.verbs.verify import verify

_LAZY = {
    "encode": "uapfast.verbs.encode",
    "generate": "uapfast.verbs.generate",
    "universal_perturbation": "uapfast.method.uap",
    "Model": "uapfast.models.model",
    "Pool": "uapfast.pool.pool",
    "load_pool": "uapfast.pool.manifest",
    "Reference": "uapfast.reference",
    "load": "uapfast.reference",
    "screen": "uapfast.screening.run",
    "Entry": "uapfast.screening.listing.entry",
    "open_suspect": "uapfast.suspects.resolve",
    "verify": "uapfast.verbs.verify",
}

__all__ = [
    "Entry",
    "GenerateConfig",
    "Model",
    "Pool",
    "Reference",
    "UapfastError",
    "UniversalPerturbation",
    "Verdict",
    "__version__",
    "encode",
    "errors",
    "generate",
    "load",
    "load_pool",
    "open_suspect",
    "screen",
    "universal_perturbation",
    "verify",
]


logging.getLogger(__name__).addHandler(logging.NullHandler())  # the application says where logs go


def __dir__() -> list[str]:
    """Names that are loaded on first use, too."""
    return sorted({*globals(), *__all__})


def _look_for_core() -> None:
    """Warn if this is a source tree without its compiled core, perhaps imported by mistake."""
    from uapfast import _native

    if _native.SOURCE_TREE and _native.why_missing("_cpu"):
        warnings.warn(
            f"uapfast: {_native.SOURCE_TREE} is a source tree without its compiled core; everything works, "
            f"slower. {_native.LEAVE_TREE}",
            errors.UapfastWarning,
            stacklevel=3,
        )


def __getattr__(name: str) -> Any:
    """Load the torch-backed names on first use."""
    if name in _LAZY:
        if not _LAZY.keys() & globals().keys():  # once
            _look_for_core()
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
