"""What a network is besides its weights, and whether answering leaves traces in it.

Weights may be replaced in a network's own memory only if everything else that it answers with is code. What
it keeps outside parameters and buffers is looked at before its first answers (``holds_more``), and
everything that can be seen of it is compared after them (``NetworkSnapshot``). What neither sees (memory of a
C extension, a library's globals) is left to the comparison with a new network
(:mod:`uapfast.suspects.networks.proof`).
"""

from __future__ import annotations

import functools
import itertools
import logging
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uapfast.suspects.networks.inplace import everything

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
OWN = frozenset(vars(nn.Module()))  # attributes that every module has
VALUES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
ATOMS = (type, types.ModuleType, types.BuiltinFunctionType, logging.Logger, torch.Generator)
LIBRARIES = ("torch.", "torch", "builtins")
PACKAGES = ("timm", "torchvision", "transformers", "uapfast")  # whose globals are too many
MOST = 20_000  # objects that are looked at in one network


class _TooMuch(Exception):
    """More objects than can be looked at."""


def _is_ours(kind: type) -> bool:
    """Whether a class may keep something: all but those of torch itself."""
    return not kind.__module__.startswith("torch.") and kind.__module__ not in LIBRARIES


def _functions(kind: type) -> Iterator[types.FunctionType]:
    for value in vars(kind).values():
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        found = [value.fget, value.fset] if isinstance(value, property) else [value]
        yield from (f for f in found if isinstance(f, types.FunctionType))


def _cells(function: types.FunctionType) -> list[Any]:
    found: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not set yet
            continue
    return [*found, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _parts(value: Any) -> list[Any]:
    """What an object that is no module and no tensor holds."""
    if isinstance(value, Mapping):
        return list(itertools.chain.from_iterable(value.items()))
    if isinstance(value, list | tuple | set | frozenset) or type(value).__module__ == "collections":
        return list(value)
    if isinstance(value, types.FunctionType):
        return _cells(value)
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return []
    slots = [getattr(value, n, None) for k in type(value).__mro__ for n in _slots(k)]
    return [*slots, *getattr(value, "__dict__", {}).values()]


def _slots(kind: type) -> tuple[str, ...]:
    found = vars(kind).get("__slots__", ())
    return (found,) if isinstance(found, str) else tuple(n for n in found if not n.startswith("__"))


def _kept(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module that not every module has."""
    return {name: value for name, value in module.__dict__.items() if name not in OWN}


def _kinds(module: nn.Module) -> list[type]:
    """Classes of all parts that are not torch's."""
    every = (kind for part in module.modules() for kind in type(part).__mro__)
    return [kind for kind in dict.fromkeys(every) if _is_ours(kind)]


def holds_more(module: nn.Module) -> str | None:
    """Why weights cannot be replaced in a network's own memory; None if nothing is seen against it.

    Args:
        module: frozen, before it answered.

    Returns:
        One clause that names the part: a tensor or a network outside parameters, buffers and parts (in an
        attribute, a container, a closure, a class), a ``forward`` of its own, or hooks.
    """
    own = {id(x) for x in (*module.modules(), *everything(module))}
    seen: set[int] = set()

    def outside(value: Any) -> bool:
        if isinstance(value, Tensor | nn.Module):
            return id(value) not in own
        if isinstance(value, VALUES + ATOMS) or id(value) in seen:
            return False
        seen.add(id(value))
        if len(seen) > MOST:
            raise _TooMuch
        return any(outside(part) for part in _parts(value))

    try:
        for name, part in module.named_modules():
            if "forward" in part.__dict__ or "__call__" in part.__dict__:
                return f"{name or 'it'} has a forward of its own"
            if any(getattr(part, hook, None) for hook in HOOKS):
                return f"{name or 'it'} has hooks"
            for key, value in _kept(part).items():
                if outside(value):
                    return f"{name}.{key} holds tensors or networks besides its weights"
        for kind in _kinds(module):
            for function in _functions(kind):
                if any(outside(value) for value in _cells(function)):
                    return f"{kind.__name__}.{function.__name__} encloses tensors or networks"
            for key, value in vars(kind).items():
                if not isinstance(value, types.FunctionType | property) and outside(value):
                    return f"{kind.__name__}.{key} holds tensors or networks"
    except Exception as exc:  # an asker's attribute may do anything when it is looked at
        return f"it cannot be looked at ({type(exc).__name__})"
    return None


def _where(t: Tensor) -> tuple[Any, ...]:
    try:
        place: Any = (t.untyped_storage().data_ptr(), t.storage_offset(), t.stride())
    except (RuntimeError, NotImplementedError):  # sparse and the like
        place = None
    return id(t), place, tuple(t.shape), t.dtype, t.requires_grad


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    try:
        return torch.equal(a, b) or torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    except (RuntimeError, NotImplementedError):
        return False


class NetworkSnapshot:
    """A network as it is now: its parts, where its weights lie, their values, and all else that it keeps."""

    def __init__(self, module: nn.Module) -> None:
        self._told = _tell(module)
        self._values = [t.detach().clone() for t in everything(module)]

    def is_still(self, module: nn.Module) -> bool:
        """Whether nothing has changed."""
        if self._told is None or _tell(module) != self._told:
            return False
        return all(_same(a, b) for a, b in zip(self._values, everything(module), strict=True))


def glimpse(module: nn.Module) -> list[Any]:
    """What every part keeps, by identity and size: cheap enough to be looked at for every suspect."""
    return [
        (id(value), len(value) if isinstance(value, dict | list | set) else None)
        for part in module.modules()
        for value in vars(part).values()
    ]


def _tell(module: nn.Module) -> list[Any] | None:
    """Everything but values of weights, as something that can be compared; None if it is too much."""
    seen: dict[int, int] = {}

    def told(value: Any) -> Any:
        if isinstance(value, Tensor):
            return "tensor", *_where(value), value._version
        if isinstance(value, VALUES):
            return type(value), repr(value)
        if isinstance(value, ATOMS + (nn.Module,)):
            return id(value)
        if id(value) in seen:
            return seen[id(value)]
        seen[id(value)] = len(seen)
        if len(seen) > MOST:
            raise _TooMuch
        if isinstance(value, np.ndarray) and value.dtype != object:
            return id(value), value.tobytes()
        if hasattr(value, "cache_info"):
            return id(value), repr(value.cache_info())
        names = list(getattr(value, "__dict__", {}))
        return id(value), type(value), names, [told(part) for part in _parts(value)]

    def of(part: nn.Module) -> list[Any]:
        kept = [(name, told(value)) for name, value in _kept(part).items()]
        named = [(n, None if t is None else _where(t)) for n, t in part._parameters.items()]
        named += [(n, None if t is None else _where(t)) for n, t in part._buffers.items()]
        parts = [(n, id(p)) for n, p in part._modules.items()]
        hooks = [len(getattr(part, hook, None) or ()) for hook in HOOKS]
        unsaved = sorted(part._non_persistent_buffers_set)
        return [id(part), type(part), part.training, kept, named, parts, hooks, unsaved]

    try:
        kinds = _kinds(module)
        classes = [[(n, told(v)) for n, v in vars(k).items() if not n.startswith("__")] for k in kinds]
        return [[of(part) for part in module.modules()], classes, _globals(kinds, told)]
    except Exception:  # as above
        return None


def _globals(kinds: list[type], told: Any) -> list[Any]:
    """What files of the asker's keep in globals: containers, numbers, tensors."""
    spaces = {id(f.__globals__): f.__globals__ for kind in kinds for f in _functions(kind)}
    found: list[Any] = []
    for space in spaces.values():
        if str(space.get("__name__", "")).partition(".")[0] in PACKAGES:
            continue
        for name, value in list(space.items()):
            plain = isinstance(value, dict | list | set | Tensor | np.ndarray | int | float)
            if plain and not name.startswith("__"):
                found.append((name, told(value)))
    return found


__all__ = ["NetworkSnapshot", "glimpse", "holds_more"]
