"""Python files that the user names: factories and training recipes. Named means trusted: they run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from uapfast.errors import ModelError
from uapfast.models.code import source_sha256

PREFIX = "_uapfast_user_"
_LOADING = threading.RLock()
_NUMBERS = itertools.count(1)


class _Life:
    """Keeps a module that was executed for one object importable as long as that object, or a copy, lives."""

    def __init__(self, unique: str) -> None:
        weakref.finalize(self, _forget, unique)

    def __copy__(self) -> _Life:
        return self

    def __deepcopy__(self, _: object) -> _Life:
        return self


def load_function(
    path: Path, name: str, *, where: str, argument: str, anew: bool = False
) -> Callable[..., Any]:
    """A function of a Python file.

    The file is executed under a name of its own made of its path and source, so that two files called
    ``model.py`` never meet, and an edited file, or one with an edited neighbour, is read anew. Modules
    beside it can be imported, as ``import layers`` or ``from .layers import Block``, at its top or inside
    the function.

    Args:
        path: of the file.
        name: of the function (or class).
        where: for errors.
        argument: for errors.
        anew: execute the file once more, with globals of its own, even if it was before. What it
            keeps in globals is then no other network's.

    Raises:
        ModelError: no such file or function, or the file fails.
    """
    try:
        path = path.resolve()
    except (OSError, ValueError, RuntimeError) as exc:  # a NUL, a loop of links
        raise ModelError(where, argument, "an existing Python file", f"{path!s:.100} ({exc})") from exc
    module = _load(path, where, argument, anew)
    life = _Life(module.__name__) if anew else None
    found = getattr(module, name, None)
    if not callable(found):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
        rule = f"the name of a function in {path} (it has {', '.join(own[:8]) or 'none'})"
        raise ModelError(where, argument, rule, repr(name))

    @functools.wraps(found)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _neighbours(path.parent):
            made = found(*args, **kwargs)
        if life is not None and isinstance(getattr(made, "__dict__", None), dict):
            made.__dict__["_uapfast_life"] = life
        return made

    return call


def _forget(unique: str) -> None:
    for name in [n for n in list(sys.modules) if n == unique or n.startswith(unique + ".")]:
        sys.modules.pop(name, None)


def _load(path: Path, where: str, argument: str, anew: bool) -> ModuleType:
    try:
        text, source = path.read_bytes(), source_sha256(path)
    except OSError as exc:
        raise ModelError(where, argument, "an existing Python file", f"{path} ({exc.strerror})") from exc
    digest = hashlib.sha256(os.fsencode(path) + b"\0" + text + source.encode()).hexdigest()[:16]
    unique = f"{PREFIX}{digest}_{next(_NUMBERS)}" if anew else PREFIX + digest
    with _LOADING:
        if unique in sys.modules:
            return sys.modules[unique]
        # a package, so that `from .layers import Block` finds the files beside it
        spec = importlib.util.spec_from_file_location(
            unique, path, submodule_search_locations=[str(path.parent)]
        )
        assert spec is not None  # only for suffixes that Python does not know; callers ask for .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[unique] = module
        try:
            with _neighbours(path.parent):
                # the text that was hashed, not a cached .pyc or a later version of the file
                exec(compile(text, str(path), "exec"), module.__dict__)
        except (Exception, SystemExit) as exc:
            del sys.modules[unique]
            said = f"{type(exc).__name__}: {exc}"
            raise ModelError(where, argument, f"a file that runs ({path})", said) from exc
    return module


@contextlib.contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Let ``folder``'s modules be imported by name meanwhile, and be forgotten after it.

    Were they kept, the ``layers.py`` of one folder would be handed to the file of another.
    """
    place = str(folder)
    before = set(sys.modules)
    sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(place)
        new = {name for name in set(sys.modules) - before if not name.startswith(PREFIX)}
        tops = {name.partition(".")[0] for name in new} - before
        theirs = {top for top in tops if _lies_in(sys.modules.get(top), top, folder)}
        for name in new:
            if name.partition(".")[0] in theirs:
                sys.modules.pop(name, None)


def _lies_in(module: ModuleType | None, name: str, folder: Path) -> bool:
    """Whether a top-level module was found directly in ``folder`` (not in an environment below it)."""
    places = [Path(p) for p in getattr(module, "__path__", [])]
    file = getattr(module, "__file__", None)
    places += [Path(file)] if file else []
    return any(p.parent == folder or p == folder / name / "__init__.py" for p in places)
