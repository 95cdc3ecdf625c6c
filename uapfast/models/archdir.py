"""A folder of the user's Python files as architectures."""

from __future__ import annotations

import ast
import os
from pathlib import Path

from uapfast.errors import ModelError

MOST = 500  # factories


def specs_in(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """SPECs of the factories in a folder's ``*.py`` files, by file and place. Nothing is run here.

    Of a file that has a list ``__all__`` these names are factories; of any other every public function or
    class at its top that can be called without arguments. Files that begin with ``_`` are left.

    Raises:
        ModelError: no such folder, a file that cannot be read, no factory, or more than ``MOST``.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ModelError("arch", "--arch-dir", "an existing folder", str(folder))
    found = [
        f"{file}:{name}"
        for file in sorted(place.glob("*.py"))
        if not file.name.startswith("_")
        for name in _factories(file)
    ]
    if not 0 < len(found) <= MOST:
        rule = f"a folder of Python files with 1 to {MOST} factories (functions without arguments)"
        raise ModelError("arch", "--arch-dir", rule, f"{len(found)} in {folder}")
    return tuple(found)


def _factories(file: Path) -> list[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError) as exc:
        raise ModelError("arch", "--arch-dir", "a folder of Python files", f"{file}: {exc}") from exc
    said = _said(tree, file)
    if said is not None:
        return said
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and _is_free(node)
    ]


def _said(tree: ast.Module, file: Path) -> list[str] | None:
    """The names in ``__all__``, if there is one; raises ``ModelError`` unless it is a plain list."""
    found: list[str] | None = None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            continue
        try:
            names = ast.literal_eval(getattr(node, "value", None) or ast.Constant(None))
        except ValueError:
            names = None
        plain = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if not plain or isinstance(node, ast.AugAssign):
            rule = "files whose __all__ is one plain list of names, or that have none"
            raise ModelError("arch", "--arch-dir", rule, f"line {node.lineno} of {file}")
        found = list(names)
    return found


def _is_free(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether it can be called without arguments."""
    if isinstance(node, ast.FunctionDef):
        needed = len(node.args.args) + len(node.args.posonlyargs) - len(node.args.defaults)
        return needed <= 0 and all(node.args.kw_defaults)
    made = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if not made:
        return bool(node.bases)
    args = made[0].args
    needed = len(args.args) + len(args.posonlyargs) - len(args.defaults)
    return needed <= 1 and all(args.kw_defaults)


__all__ = ["specs_in"]
