"""The examples in docstrings of the public names run, on a small world."""

from __future__ import annotations

import doctest
import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest

import uapfast
from tests.api.evidence_world import World

NAMES = [name for name in uapfast.__all__ if callable(getattr(uapfast, name))]
WITHOUT = {"Entry", "Pool", "Reference", "UapfastError", "UniversalPerturbation", "Verdict", "load_pool"}


def examples(name: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.getdoc(getattr(uapfast, name)) or "")


def test_public_functions_have_examples() -> None:
    assert {name for name in NAMES if not examples(name)} == WITHOUT


@pytest.mark.filterwarnings("ignore::uapfast.errors.UapfastWarning")
def test_examples_run(evidence_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = evidence_world
    for file in (world.ref, *world.files.values()):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {
        "uapfast": uapfast, "reference": uapfast.load(world.ref), "victim": world.victim,
        "model": world.victim, "suspect": world.copy, "twins": world.twins,
        "honest_models": world.homologous, "images": world.unseen[:100], "unseen_images": world.unseen[:400],
    }  # fmt: skip
    said: list[str] = []
    for name in sorted(set(NAMES) - WITHOUT, key=lambda name: name == "generate"):  # it writes another file
        test = doctest.DocTest(examples(name), dict(known), name, None, 0, None)
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
        assert result.attempted and not result.failed, "".join(said)
