"""``examples/plugin``: an architecture, a recipe and a source of suspects that another package adds."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import uapfast
from tests.api.evidence_world import World
from tests.api.owner import MLP
from uapfast import plugins
from uapfast.errors import InputError, ModelError
from uapfast.models.checkpoint import save_weights
from uapfast.models.registry import code_sha256, resolve_arch
from uapfast.pool.recipe import load_recipe, recipe_sha256
from uapfast.suspects.resolve import open_suspect

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "plugin"


def install(folder: Path, name: str, version: str, points: dict[str, dict[str, str]]) -> None:
    """What pip leaves of a package beside its modules."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    text = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in found.items()) for group, found in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(text))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(tmp_path, project["name"], project["version"], project["entry-points"])
    module = tmp_path / "acme_models.py"
    module.write_text((EXAMPLE / "acme_models.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    yield module
    sys.modules.pop("acme_models", None)


def test_an_architecture_is_named_as_those_of_libraries_are(installed: Path) -> None:
    net = resolve_arch("acme:tiny?classes=7&size=4")()
    assert net(torch.rand(2, 1, 4, 4)).shape == (2, 7)
    with pytest.raises(ModelError, match="acme:none"):
        resolve_arch("acme:none")()
    with pytest.raises(ModelError, match="letters, digits"):
        resolve_arch("acme:../tiny")
    with pytest.raises(ModelError, match="with options"):
        resolve_arch("acme:tiny?classes=ten")
    with pytest.raises(ModelError, match=r"uapfast:NAME, acme:NAME, got 'other:tiny'"):
        resolve_arch("other:tiny")


def test_its_code_counts_as_what_it_executes(installed: Path) -> None:
    before, recipe = code_sha256("acme:tiny"), recipe_sha256("acme-sgd")
    assert before != code_sha256("uapfast:tiny") and recipe is not None
    installed.write_text(installed.read_text() + "\n# changed\n")
    assert code_sha256("acme:tiny") != before and recipe_sha256("acme-sgd") != recipe


def test_a_recipe_trains(installed: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 2
    x = torch.rand(200, 1, 8, 8, generator=generator) / 2 + y[:, None, None, None] / 2
    net = resolve_arch("acme:wide?classes=2")()
    trained = load_recipe("acme-sgd")(net, x, y, 0)
    assert float((trained(x).argmax(1) == y).float().mean()) > 0.9
    with pytest.raises(ModelError, match=r"FILE.py:FUNCTION, or one of acme-sgd, got 'sgd'"):
        load_recipe("sgd")


def test_a_suspect_comes_from_a_source_of_its_own(
    installed: Path, evidence_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(evidence_world.copy, tmp_path / "net.safetensors")
    monkeypatch.setenv("ACME_STORE", str(tmp_path))
    verdict = uapfast.verify(evidence_world.reference, open_suspect("acme://net", arch=MLP))
    expected = uapfast.verify(evidence_world.reference, evidence_world.copy)
    assert (verdict.decision, verdict.p_value) == (expected.decision, expected.p_value)
    with pytest.raises(InputError, match="such as acme:// takes, got budget"):
        open_suspect("acme://net", budget=3)


def test_a_source_may_give_any_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "plain", "1", {plugins.SUSPECTS: {"plain": "plain_source:open_it"}})
    (tmp_path / "plain_source.py").write_text(
        "def open_it(address):\n    return lambda x: x.flatten(1)[:, :3]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with open_suspect("plain://x") as suspect:  # type: ignore[union-attr]
        assert suspect.name == "plain://x"
        assert suspect.answers_to([torch.rand(4, 1, 8, 8)]).values.shape == (4, 3)


def test_what_is_registered_wrongly_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path,
        "one",
        "1",
        {plugins.RECIPES: {"gone": "not_there:f", "number": "sys:maxsize", "two": "os:getcwd"}},
    )
    install(tmp_path, "two", "1", {plugins.RECIPES: {"two": "os:getpid"}})
    monkeypatch.syspath_prepend(tmp_path)
    assert plugins.names(plugins.RECIPES) == ["gone", "number", "two"]
    for name, said in (
        ("gone", "No module named 'not_there'"),
        ("number", "a function"),
        ("two", "one package"),
    ):
        with pytest.raises(ModelError, match=said):
            load_recipe(name)
