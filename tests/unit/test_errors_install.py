"""What to install where an extra is missing: packages by name, for uapfast itself is in no registry."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from uapfast.errors import how_to_install

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", ["timm", "transformers", "triton", "ray", "onnx", "http", "evidence"])
def test_an_extra_is_installed_by_its_packages(extra: str) -> None:
    wanted = [need.partition(";")[0] for need in EXTRAS[extra]]
    shown = re.findall(r"'([^']*)'", how_to_install(extra))
    assert how_to_install(extra).startswith("pip install '") and sorted(shown) == sorted(wanted)


def test_a_folder_that_was_never_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", unknown)
    assert how_to_install("onnx") == "pip install '.[onnx]' in the folder of uapfast"


def test_no_message_installs_a_name_that_others_could_take() -> None:
    found = subprocess.run(
        ["git", "grep", "-nE", r"pip install '?uapfast\b", "--", "uapfast", "docs", "examples", "README.md"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if found.returncode > 1:
        pytest.skip("no git here")
    assert found.stdout == ""
