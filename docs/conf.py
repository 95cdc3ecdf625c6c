"""The manual: ``make docs``. Pages with code are executed, in a folder of their own, with the demo's files.

``UAPFAST_DEMO`` is the folder that ``uapfast demo --out`` wrote, by default demo-out.
``UAPFAST_EXECUTE=off`` builds the pages without executing them.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from nbclient import NotebookClient  # noqa: E402

from uapfast import __version__  # noqa: E402

_begin = NotebookClient.__init__


def _whole(self: NotebookClient, *args: Any, **given: Any) -> None:
    """A shell cell's output comes in pieces; myst-nb's own nb_merge_streams breaks lines between them."""
    _begin(self, *args, **{"coalesce_streams": True, **given})


NotebookClient.__init__ = _whole

project, author, release = "uapfast", "the authors of uapfast", __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme, html_title = "furo", f"uapfast {release}"
html_show_copyright = html_show_sphinx = False
myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False

FIRST = "own_model"  # makes the files that other pages go on with
CLI = HERE / "cli.md"


def _digest() -> str:
    """Of all that pages may show: a change of the package executes every page anew."""
    found = hashlib.sha256()
    for path in sorted([*(ROOT / "uapfast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


PLACE = ROOT / "build-docs" / _digest()
nb_execution_mode = os.environ.get("UAPFAST_EXECUTE", "cache")
nb_execution_cache_path = str(PLACE / "executed")
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = "remove"  # progress, with times that differ from run to run
if nb_execution_mode == "off":  # which language cells are in is known from the kernel
    suppress_warnings = ["myst-nb.lexer"]


def _folder() -> None:
    """The folder in which pages are executed: kernels begin there, and the demo's files are in it."""
    demo = Path(os.environ.get("UAPFAST_DEMO", ROOT / "demo-out")).resolve()
    if not (demo / "victim.uapref").exists():
        raise SystemExit(
            f"the manual shows what `uapfast demo --out {demo}` wrote: run it first, or `make docs`"
        )
    work, start = PLACE / "work", PLACE / "ipython" / "profile_default" / "startup"
    work.mkdir(parents=True, exist_ok=True)
    start.mkdir(parents=True, exist_ok=True)
    link = work / "demo-out"
    link.unlink(missing_ok=True)
    link.symlink_to(demo)
    (start / "00-work.py").write_text(f"import os\nos.chdir({str(work)!r})\n", encoding="utf-8")
    os.environ["IPYTHONDIR"] = str(PLACE / "ipython")


def _cli_page() -> None:
    """The reference of the command line, made from the application by typer."""
    command = [sys.executable, "-m", "typer", "uapfast.cli.app", "utils", "docs", "--name", "uapfast"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    text = text.replace("# `uapfast`", "# Command line", 1)
    # lines that the help keeps as they are: in Markdown a block of code
    text = re.sub(r"(?m)^((?:  \S.*\n)+)", lambda m: "```text\n" + m.group(1) + "```\n", text)
    # the list of commands, whose sentences typer cuts off
    first = dict(re.findall(r"(?m)^## `uapfast (\w+)`\n\n(.+)$", text))
    text = re.sub(
        r"(?m)^\* `(\w+)`: .*$", lambda m: f"* [`{m[1]}`](#uapfast-{m[1]}): {first.get(m[1], '')}", text
    )
    if not CLI.exists() or CLI.read_text(encoding="utf-8") != text:
        CLI.write_text(text, encoding="utf-8")


def _first(app: Any, env: Any, docnames: list[str]) -> None:
    docnames.sort(key=lambda name: (name != FIRST, name))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    if nb_execution_mode != "off":
        _folder()
    _cli_page()
    app.connect("env-before-read-docs", _first)
