"""``python -m benchmarks.detection COMMAND``: one command line for all benchmarks of detection.

A command is a module of this folder with a ``main``; it reads its own options.
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

import typer

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="The zoo of suspects, the tables made from it, and the simulations beside them.",
)  # fmt: skip
REST = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def commands() -> dict[str, str]:
    """Name and first line of every module that has a ``main``; nothing is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem.replace("_", "-")] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def register(name: str, about: str) -> None:
    """One command, which hands on all that stands after its name."""

    @app.command(name, help=about, short_help=about, context_settings=REST)
    def run(context: typer.Context) -> None:
        sys.argv = [f"python -m benchmarks.detection {name}", *context.args]
        import_module(f"benchmarks.detection.{name.replace('-', '_')}").main()


for _name, _about in commands().items():
    register(_name, _about)

if __name__ == "__main__":
    app(prog_name="python -m benchmarks.detection")
