"""Architecture specs: ``file.py:factory``, ``timm:NAME``, ``torchvision:NAME``, ``uapfast:NAME``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

from torch import nn

from uapfast.errors import MissingDependency, ModelError
from uapfast.models.nets import NETS

Factory = Callable[[], nn.Module]
RULE = "FILE.py:FACTORY, timm:NAME, torchvision:NAME or uapfast:NAME"
LIMITS = {"channels": 4096, "classes": 100_000, "size": 4096}


def _bad(rule: str, got: object) -> ModelError:
    return ModelError("arch", "SPEC", rule, got)


def resolve_arch(spec: str, *, base: Path | None = None) -> Factory:
    """The factory that a spec names; calling it gives a new ``nn.Module``, freshly initialised.

    Args:
        spec: a file is the user's own and is executed; ``uapfast:`` takes options, as in
            ``uapfast:cnn-small?channels=3&classes=10&size=32``. Nothing else is ever imported.
        base: folder that a relative file is relative to; the current one by default.

    Raises:
        ModelError: no such file, function or network; the message lists what there is.
        MissingDependency: timm or torchvision is not installed.
    """
    if not isinstance(spec, str) or ":" not in spec:
        raise _bad(RULE, repr(spec))
    kind, _, name = spec.partition(":")
    if kind == "uapfast":
        return _shipped(spec, name)
    if kind in ("timm", "torchvision"):
        return _library(kind, name)
    path, _, function = spec.rpartition(":")
    if not path.endswith(".py"):
        raise _bad(RULE, repr(spec))
    return checked(load_function((base or Path()) / path, function, "SPEC"), spec)


def _shipped(spec: str, name: str) -> Factory:
    name, _, query = name.partition("?")
    if name not in NETS:
        raise _bad("uapfast:NAME with NAME one of " + ", ".join(NETS), repr(spec))
    options: dict[str, int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        limit = LIMITS.get(key, 0)
        if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= limit or len(value) > 9:
            raise _bad("with options channels, classes, size, each a whole number >= 1", repr(spec))
        options[key] = int(value)
    return partial(NETS[name], **options)


def _library(kind: str, name: str) -> Factory:
    try:
        module = importlib.import_module("timm" if kind == "timm" else "torchvision.models")
    except Exception as exc:  # a torchvision that does not fit its torch fails with RuntimeError
        raise MissingDependency(
            f"arch: {kind}:{name} needs {kind} (pip install 'uapfast[timm]'), got {exc}"
        ) from exc
    known: list[str] = module.list_models()
    if name not in known:
        near = [n for n in known if name.split("_")[0] in n][:8]
        raise _bad(
            f"{kind}:NAME with a known NAME (such as {', '.join(near) or ', '.join(known[:5])})", repr(name)
        )
    make: Callable[..., nn.Module] = module.create_model if kind == "timm" else module.get_model
    # never weights from a hub: the caller brings them
    return partial(make, name, pretrained=False) if kind == "timm" else partial(make, name, weights=None)


def load_module(path: Path, argument: str) -> ModuleType:
    """Execute a Python file that the user named, under a name of its own.

    The name holds a hash of the path, so that two files called ``model.py`` do not meet. Imports
    from the file's own folder work while it is executed.

    Raises:
        ModelError: no such file, or the file fails.
    """
    path = path.resolve()
    if not path.is_file():
        raise ModelError("arch", argument, "an existing file", path)
    unique = f"_uapfast_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:
        raise ModelError("arch", argument, "a Python file", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        del sys.modules[unique]
        raise ModelError(
            "arch", argument, f"a file that runs ({path})", f"{type(exc).__name__}: {exc}"
        ) from exc
    finally:
        sys.path.remove(str(path.parent))
    return module


def load_function(path: Path, function: str, argument: str) -> Callable[..., Any]:
    """A function of a Python file that the user named (see :func:`load_module`)."""
    module = load_module(path, argument)
    found = getattr(module, function, None)
    if not callable(found):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")][:8]
        raise ModelError(
            "arch", argument, f"a function of {path} (it has {', '.join(names)})", repr(function)
        )
    return found  # type: ignore[no-any-return]


def checked(factory: Callable[..., Any], spec: str) -> Factory:
    """``factory``, with its failures and its results checked."""

    def make() -> nn.Module:
        try:
            model = factory()
        except Exception as exc:
            raise _bad(
                f"a factory that runs without arguments ({spec})", f"{type(exc).__name__}: {exc}"
            ) from exc
        if not isinstance(model, nn.Module):
            raise _bad(f"a factory that returns an nn.Module ({spec})", type(model).__name__)
        return model

    return make
