"""The manual's pages are all reached, and name files that are there; the tutorial is its page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MADE = {"cli"}  # written by docs/conf.py as the manual is built
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n((?:^:[^\n]*\n)*)(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def test_every_page_stands_in_the_index() -> None:
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.S)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    pages = {p.stem for p in DOCS.glob("*.md")} - {"index"}
    assert len(listed) == len(set(listed)) and set(listed) == pages | MADE


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))], ids=str
)
def test_links_lead_to_files(page: Path) -> None:
    if page.stem in MADE:
        return
    links = LINK.findall(CELL.sub("", page.read_text(encoding="utf-8")))
    gone = [n for n in links if not (page.parent / n).exists() and Path(n).stem not in MADE]
    assert not gone, f"{page.name}: {gone}"


def test_pages_that_the_code_names_are_there() -> None:
    named = {
        (name, path.relative_to(ROOT))
        for path in [*(ROOT / "uapfast").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
        for name in re.findall(r"\bdocs/(\w+\.md)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert not [(n, str(p)) for n, p in named if not (DOCS / n).exists()]


def test_the_tutorial_is_its_page() -> None:
    """`make tutorial` makes the notebook anew."""
    text = (DOCS / "own_model.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    code = [found[1].rstrip("\n") for found in CELL.findall(text)]
    words = [part.strip() for part in CELL.sub("\0", text).split("\0")]
    words = [re.sub(r"\]\(([a-z_]+\.md)", r"](../docs/\1", part) for part in words if part]
    cells = json.loads((ROOT / "examples" / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    assert [c.get("outputs") for c in cells if c["cell_type"] == "code"] == [[]] * len(code)
    assert ["".join(c["source"]) for c in cells if c["cell_type"] == "code"] == code
    assert ["".join(c["source"]).strip() for c in cells if c["cell_type"] == "markdown"] == words
