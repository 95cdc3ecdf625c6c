"""Architecture specs: ``file.py:factory``, ``timm:NAME``, ``torchvision:NAME``, ``uapfast:NAME``.

An installed package may add a prefix of its own (:mod:`uapfast.plugins`).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

from torch import nn

from uapfast import plugins
from uapfast.errors import MissingDependency, ModelError, how_to_install
from uapfast.models.code import executed_sha256
from uapfast.models.nets import NETS, SMALLEST
from uapfast.models.userfile import load_function

Factory = Callable[[], nn.Module]
RULE = "FILE.py:FACTORY, timm:NAME, torchvision:NAME or uapfast:NAME"
SHIPPED_OPTIONS = {"channels": (1, 4096), "classes": (2, 100_000), "size": (SMALLEST, 4096)}
LIBRARY_OPTIONS = {
    "timm": {"channels": (1, 4096), "classes": (1, 100_000)},
    "torchvision": {"classes": (1, 100_000)},
}
ADDED_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,30}")
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def _bad(rule: str, got: object) -> ModelError:
    return ModelError("arch", "SPEC", rule, got)


def resolve_arch(spec: str, *, base: Path | None = None, anew: bool = False) -> Factory:
    """The factory that a spec names; calling it gives a new ``nn.Module``, freshly initialised.

    Args:
        spec: a file is the user's own and is executed; the others take options, as in
            ``uapfast:cnn-small?channels=3&classes=10&size=32``, ``timm:resnet18?channels=1&classes=10``,
            ``torchvision:resnet18?classes=10``. Nothing else is ever imported but what an installed package
            has registered as a prefix, and no network of a library is one that downloads anything: of
            torchvision image classifiers alone, of timm registered names.
        base: folder that a relative file is relative to; the current one by default.
        anew: see :func:`uapfast.models.userfile.load_function`.

    Raises:
        ModelError: no such file, function, network or option; the message lists what there is. Calling
            the factory raises it as well, where the network cannot be built.
        MissingDependency: timm or torchvision is not installed.
    """
    if not isinstance(spec, str) or ":" not in spec:
        raise _bad(RULE, repr(spec))
    kind, _, name = spec.partition(":")
    if kind == "uapfast":
        return _shipped(spec, name)
    if kind in LIBRARY_OPTIONS:
        return _library(spec, kind, name)
    path = arch_file(spec, base=base)
    if path is None:
        return _added(spec, kind, name)
    name = spec.rpartition(":")[2]
    function = load_function(path, name, where="arch", argument="SPEC", anew=anew)
    return partial(_build, function, spec)


def arch_file(spec: str, *, base: Path | None = None) -> Path | None:
    """The file of a spec ``FILE.py:NAME``; None for every other spec."""
    path, _, function = spec.rpartition(":")
    return (base or Path()) / path if path.endswith(".py") and function else None


def code_sha256(spec: str, *, base: Path | None = None) -> str:
    """SHA-256 of what a spec executes (:func:`uapfast.models.code.executed_sha256`)."""
    kind = spec.partition(":")[0]
    file, library = arch_file(spec, base=base), kind if kind in LIBRARY_OPTIONS else None
    others = file is None and library is None and kind != "uapfast"  # finding entry points takes milliseconds
    point = plugins.registered(plugins.ARCHITECTURES, kind) if others else None
    if point is not None:
        file, library = plugins.file_of(point), None if point.dist is None else point.dist.name
    return executed_sha256(file, library)


def _options(spec: str, query: str, allowed: dict[str, tuple[int, int]]) -> dict[str, int]:
    """``channels=3&classes=10`` as numbers within the bounds of ``allowed``."""
    found: dict[str, int] = {}
    rule = "with options " + ", ".join(f"{k}={low}..{high}" for k, (low, high) in allowed.items())
    for key, value in parse_qsl(query, keep_blank_values=True):
        low, high = allowed.get(key, (1, 0))
        plain = value.isascii() and value.isdigit() and len(value) < 10
        if key in found or not plain or not low <= int(value) <= high:
            raise _bad(rule, repr(spec))
        found[key] = int(value)
    if query and not found:
        raise _bad(rule, repr(spec))
    return found


def _added(spec: str, kind: str, name: str) -> Factory:
    """Of a prefix that an installed package has registered."""
    create = plugins.load_plugin(plugins.ARCHITECTURES, kind)
    if create is None:
        known = "".join(f", {prefix}:NAME" for prefix in plugins.names(plugins.ARCHITECTURES))
        raise _bad(RULE + known, repr(spec))
    name, _, query = name.partition("?")
    if not PLAIN_NAME.fullmatch(name):  # a manifest that nobody vouches for may name it
        raise _bad(f"{kind}:NAME with letters, digits, points and dashes", repr(spec))
    allowed = {k: (0, 10**9 - 1) for k, _ in parse_qsl(query) if ADDED_OPTION.fullmatch(k)}
    return partial(_build, partial(create, name, **_options(spec, query, allowed)), spec)


def _shipped(spec: str, name: str) -> Factory:
    name, _, query = name.partition("?")
    if name not in NETS:
        raise _bad("uapfast:NAME with NAME one of " + ", ".join(NETS), repr(spec))
    return partial(NETS[name], **_options(spec, query, SHIPPED_OPTIONS))


def _library(spec: str, kind: str, name: str) -> Factory:
    name, _, query = name.partition("?")
    options: dict[str, Any] = dict(_options(spec, query, LIBRARY_OPTIONS[kind]))
    if not PLAIN_NAME.fullmatch(name):  # hf-hub:OWNER/NAME, local-dir:PATH, whatever comes to be of the kind
        raise _bad(f"{kind}:NAME with the name of a network alone (no hub, address or folder)", repr(spec))
    try:
        module = importlib.import_module("timm" if kind == "timm" else "torchvision.models")
    except Exception as exc:  # a torchvision that does not fit its torch fails with RuntimeError
        absent = isinstance(exc, ModuleNotFoundError) and (exc.name or "").split(".")[0] == kind
        need = f"({how_to_install('timm')})" if absent else "to be imported (do torch and torchvision fit?)"
        raise MissingDependency(f"arch: {kind}:{name} needs {kind} {need}, got {exc}") from exc
    known: list[str] = module.list_models() if kind == "timm" else _classifiers(module)
    if name not in known and not (kind == "timm" and module.is_model(name)):
        if kind == "torchvision" and name in module.list_models():
            raise _bad("torchvision:NAME of an image classifier", f"{spec!r}, which is none")
        near = [n for n in known if name and name.split("_")[0] in n][:8] or known[:5]
        raise _bad(f"{kind}:NAME with a known NAME (such as {', '.join(near)})", repr(spec))
    # never weights from a hub: the caller brings them
    renamed = {"classes": "num_classes", "channels": "in_chans"}
    options = {renamed[k]: v for k, v in options.items()}
    if kind == "timm":
        return partial(_build, partial(module.create_model, name, pretrained=False, **options), spec)
    return partial(_build, partial(module.get_model, name, weights=None, **options), spec)


def _classifiers(models: ModuleType) -> list[str]:
    """Image classifiers of torchvision; its detectors download a backbone even with weights=None."""
    quantized = getattr(models, "quantization", None)
    found: list[str] = models.list_models(module=models)
    return found + (models.list_models(module=quantized) if quantized is not None else [])


def _build(factory: Callable[[], Any], spec: str) -> nn.Module:
    """Call a factory that is not ours; its failures and its result are checked."""
    try:
        model = factory()
    except Exception as exc:
        rule = f"a factory that runs without arguments ({spec})"
        raise _bad(rule, f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(model, nn.Module):
        raise _bad(f"a factory that returns an nn.Module ({spec})", type(model).__name__)
    return model
