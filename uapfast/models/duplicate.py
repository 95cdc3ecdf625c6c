"""A copy of a module that shares nothing with it that it could change, functions included.

``copy.deepcopy`` copies functions by reference: a ``forward`` set on an instance, a hook or a closure of the
copy still asks the original's layers, in the original's mode. Here functions are made anew, over the copies
of what they reach. What reaches the original even so (through a module's namespace, a registry) is found
when the copy is asked for the first time: :class:`Guard`.
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from uapfast.errors import ModelError

MOST = 100_000  # objects looked at; what lies beyond is left to Guard
PLAIN = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, torch.dtype, torch.device)
FOREIGN = "torch", "numpy", "builtins", "functools", "math", "operator"


class Duplicate:
    """A copy, and what is known of it.

    Args:
        target: is left as it is.

    Attributes:
        module: the copy, in the modes of ``target``; what functions reach outside of it is in eval mode.
        outside: whether it answers with tensors that are no part of ``target`` itself.
        loose: whether it holds code other than torch's own layers, so that :class:`Guard` has to look.

    Raises:
        ModelError: something that cannot be copied.
    """

    def __init__(self, target: nn.Module) -> None:
        self.memo: dict[int, Any] = {}
        self._functions: dict[int, types.FunctionType] = {}
        self._cells: dict[int, types.CellType] = {}
        self._globals: dict[int, dict[str, Any]] = {}
        self._seen: set[int] = set()
        self.outside = self.loose = False
        try:
            self.module: nn.Module = self._copied(target)
            self._mend(self.module)
        except Exception as exc:  # locks, handles: whatever a module may hold
            rule = "a module that copy.deepcopy can copy (or a callable)"
            raise ModelError("Model", "model", rule, f"{type(exc).__name__}: {exc}") from exc
        self.loose = self.loose or any(not _torchs(type(part)) for part in self.module.modules())

    def _copied(self, value: Any) -> Any:
        for t in _tensors(value):  # results of a graph (weight_norm, pruning) are made anew before each use
            odd = t.layout not in (torch.strided, torch.sparse_coo) and not isinstance(t, nn.Parameter)
            if (odd or not t.is_leaf) and id(t) not in self.memo:
                self.memo[id(t)] = t.detach().clone()
        return copy.deepcopy(value, self.memo)

    def _mend(self, value: Any) -> Any:
        """``value`` of the copy, with functions over copies; containers and objects are changed in place."""
        if isinstance(value, types.FunctionType):
            self.loose = self.loose or not _is_foreign(value)
            return self._function(value)
        if isinstance(value, types.MethodType):
            self.loose = True
            return types.MethodType(self._mend(value.__func__), self._mend(value.__self__))
        if isinstance(value, functools.partial):
            args, keywords = (self._mend(v) for v in (value.args, value.keywords))
            return functools.partial(self._mend(value.func), *args, **keywords)
        if isinstance(value, tuple) and type(value) is tuple:
            mended = tuple(self._mend(v) for v in value)
            return mended if any(a is not b for a, b in zip(mended, value, strict=True)) else value
        if isinstance(value, weakref.ref):
            kept = self.memo.get(id(value()))
            return value if kept is None else weakref.ref(kept)
        if isinstance(value, (*PLAIN, Tensor)) or id(value) in self._seen:
            return value
        self._seen.add(id(value))
        if isinstance(value, dict):
            self._mend_all(value)
        elif isinstance(value, list):
            value[:] = [self._mend(v) for v in value]
        elif not isinstance(value, torch.jit.ScriptModule) and self._ours(value):
            self._mend_all(getattr(value, "__dict__", {}))
        return value

    def _mend_all(self, values: dict[Any, Any]) -> None:
        for key, old in list(values.items()):
            new = self._mend(old)
            if new is not old:
                values[key] = new

    def _ours(self, value: Any) -> bool:
        """Whether an object was made by copying (some are shared: loggers, what copies as itself)."""
        return id(value) in self._made

    @functools.cached_property
    def _made(self) -> set[int]:
        return {id(made) for made in self.memo.values()}

    def _moved(self, value: Any) -> Any:
        """What a function of the copy is to see in place of ``value``."""
        if id(value) in self.memo:
            return self.memo[id(value)]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if not _reaches(value):
            return value
        before = set(self.memo)
        made = self._copied(value)
        self.__dict__.pop("_made", None)
        new = [v for k, v in self.memo.items() if k not in before]
        self.outside = self.outside or any(isinstance(v, Tensor) for v in new)
        for part in new:
            if isinstance(part, nn.Module):
                part.eval()
                for p in part.parameters():
                    p.requires_grad_(False)
        return self._mend(made)

    def _function(self, f: types.FunctionType) -> types.FunctionType:
        if id(f) in self._functions:
            return self._functions[id(f)]
        if not _reaches(f):
            return f
        cells = tuple(self._cell(c) for c in f.__closure__ or ())
        space = self._globals.setdefault(id(f.__globals__), dict(f.__globals__))
        made = types.FunctionType(f.__code__, space, f.__name__, None, cells or None)
        self._functions[id(f)] = made  # before what it reaches: that may be itself
        made.__dict__.update(f.__dict__)
        made.__qualname__, made.__module__, made.__doc__ = f.__qualname__, f.__module__, f.__doc__
        for old, new in zip(f.__closure__ or (), cells, strict=True):
            if _filled(old) and not _filled(new):
                new.cell_contents = self._moved(old.cell_contents)
        if f.__defaults__:
            made.__defaults__ = tuple(self._moved(v) for v in f.__defaults__)
        if f.__kwdefaults__:
            made.__kwdefaults__ = {k: self._moved(v) for k, v in f.__kwdefaults__.items()}
        for name in _names(f.__code__):
            if name in f.__globals__:
                space[name] = self._moved(f.__globals__[name])
        return made

    def _cell(self, cell: types.CellType) -> types.CellType:
        return self._cells.setdefault(id(cell), types.CellType())


def _filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> Iterator[str]:
    """Global names that code and the functions inside it may use."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)


def _is_foreign(f: types.FunctionType) -> bool:
    return (f.__module__ or "").split(".")[0] in FOREIGN and not f.__closure__


def _below(value: Any) -> list[Any]:
    """What an object refers to, as far as answers may depend on it."""
    if isinstance(value, types.FunctionType):
        if _is_foreign(value):
            return []
        cells = [c.cell_contents for c in value.__closure__ or () if _filled(c)]
        used = [value.__globals__[n] for n in _names(value.__code__) if n in value.__globals__]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *used]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    return [] if isinstance(value, PLAIN) else list(getattr(value, "__dict__", {}).values())


def reached(value: Any) -> Iterator[Any]:
    """Everything that can be reached from ``value``, itself first; not beyond tensors."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, PLAIN):
            continue
        seen.add(id(one))
        yield one
        if len(seen) > MOST:
            return
        if not isinstance(one, (Tensor, torch.jit.ScriptModule)):
            todo += _below(one)


def _tensors(value: Any) -> list[Tensor]:
    return [one for one in reached(value) if isinstance(one, Tensor)]


def _reaches(value: Any) -> bool:
    """Whether modules or tensors can be reached from ``value``."""
    return any(isinstance(one, (nn.Module, Tensor)) for one in reached(value))


def _torchs(kind: type) -> bool:
    return kind.__module__.startswith("torch.") or kind is nn.Module


class Guard(TorchFunctionMode):
    """Raises ``ModelError`` where, within it, a copy uses tensors of the original, or changes others'.

    Args:
        original: whose tensors are not to be used.
        made: whose are.
    """

    def __init__(self, original: nn.Module, made: nn.Module) -> None:
        super().__init__()
        self._kept = original  # so that no address is used anew
        self._theirs = {_address(t) for t in _tensors(original)} - {0}
        self._own = {_address(t) for t in _tensors(made)}
        self._theirs -= self._own
        self._counters: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the arguments of one function of torch, then call it."""
        kwargs = kwargs or {}
        given = [v for v in [*args, *kwargs.values()] if isinstance(v, Tensor)]
        if any(_address(t) in self._theirs for t in given):
            self._refuse("its copy computes with weights of the original")
        name = getattr(func, "__name__", "")
        if given and not given[0].ndim and (name.endswith("_") and _address(given[0]) not in self._own):
            self._counters.append((given[0], given[0].clone()))  # a layer counts its batches before it works
        if func is torch.nn.functional.batch_norm:
            mean = args[1] if len(args) > 1 else kwargs.get("running_mean")
            training = args[5] if len(args) > 5 else kwargs.get("training", False)
            if training and mean is not None and _address(mean) not in self._own:
                self._refuse("it asks a module in training mode that is no part of it")
        return func(*args, **kwargs)

    def _refuse(self, got: str) -> None:
        for counter, before in reversed(self._counters):
            counter.copy_(before)
        rule = "self-contained (or give a callable that puts everything in eval mode)"
        raise ModelError("Model", "model", rule, f"{got}: a closure, hook or global name reaches there")


def _address(t: Tensor) -> int:
    try:
        return t.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse tensors and others without one storage
        return 0


__all__ = ["Duplicate", "Guard", "reached"]
