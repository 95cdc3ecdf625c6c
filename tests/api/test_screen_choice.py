"""The architecture of a weights file: the one of several that fits, or a row that says why not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import uapfast
from tests.api.mixed_suspects import rows_of
from tests.api.screen_world import CNN, World
from uapfast.cli import main
from uapfast.errors import InputError, ModelError
from uapfast.models.archdir import specs_in
from uapfast.models.registry import resolve_arch
from uapfast.screening.asking.architecture import answers_differ
from uapfast.screening.table.rows import Row

TWINS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, slope=0.0):
        super().__init__()
        self.a, self.b = nn.Linear(64, 32), nn.Linear(32, 10)
        self.act = nn.LeakyReLU(slope)

    def forward(self, x):
        return self.b(self.act(self.a(x.flatten(1))))

def plain(): return Net()
def same(): return Net(0.0)
def leaky(): return Net(0.3)
def needs(width): return Net(width)
def _hidden(): return Net()
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(TWINS)
    return tmp_path / "nets.py"


@pytest.fixture
def small(nets: Path, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = resolve_arch(f"{nets}:plain")()
    torch.save(module.state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def screened(world: World, small: Path, *archs: str) -> Row:
    (row,) = rows_of(world, [small], arch=archs)
    return row


def test_two_architectures_that_fit_and_answer_alike(world: World, nets: Path, small: Path) -> None:
    row = screened(world, small, f"{nets}:same", f"{nets}:plain")
    assert row.error_class is None and row.arch == f"{nets}:same"


def test_two_architectures_that_fit_and_answer_otherwise(world: World, nets: Path, small: Path) -> None:
    row = screened(world, small, f"{nets}:plain", f"{nets}:leaky")
    assert row.decision == "invalid" and row.error_class == "ModelError"
    assert "plain" in str(row.error_message) and "leaky" in str(row.error_message)


def test_an_architecture_that_cannot_be_built_stands_in_nobodys_way(
    world: World, nets: Path, small: Path
) -> None:
    assert screened(world, small, f"{nets}:needs", f"{nets}:plain").error_class is None
    row = screened(world, small, f"{nets}:needs", CNN)
    assert row.decision == "invalid" and "needs cannot be built" in str(row.error_message)


def test_weights_without_any_architecture_say_so(world: World, small: Path) -> None:
    (row,) = uapfast.screen(world.references["first"], small.parent)
    assert row.decision == "invalid" and "--arch" in str(row.error_message)
    with pytest.raises(InputError, match="arch must be given"):
        uapfast.screen(world.references["first"], [small])


def test_a_run_goes_on_with_the_architectures_that_were_taken(
    world: World, nets: Path, small: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"arch": [CNN, f"{nets}:plain"], "out": tmp_path / "t.parquet"}
    assert len(rows_of(world, [small], **given)) == 1
    assert not rows_of(world, [small], **given)
    nets.write_text(TWINS.replace("32", "33"))
    again = uapfast.screen(world.references["first"], [small], **given)
    with again:
        (row,) = again
    assert row.decision == "invalid" and again.summary is not None and again.summary.code_changed == 1


def test_a_folder_of_factories(world: World, nets: Path, small: Path, capfd: Any) -> None:
    reference = str(world.folder / "first.uapref")
    out = ("--out", str(small.parent / "t.parquet"))
    folder = small.parent / "nets"
    folder.mkdir()
    shutil.copy(nets, folder / "nets.py")
    (folder / "more.py").write_text(
        "from torch import nn\n__all__ = ['make']\nmake = lambda: nn.Linear(2, 2)\n"
    )
    code = main(["screen", reference, "--dir", str(small.parent), "--arch-dir", str(folder), *out])
    said = capfd.readouterr().out
    assert code == 4 and "1 suspects" in said and "ModelError: 1" in said  # plain and leaky
    (folder / "nets.py").write_text("__all__ = ['plain']\n" + TWINS)
    main(["screen", reference, "--dir", str(small.parent), "--arch-dir", str(folder), *out])
    assert "Error" not in capfd.readouterr().out


def test_which_factories_a_folder_has(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(TWINS)
    (tmp_path / "b.py").write_text("__all__ = ['one', 'two']\nraise RuntimeError('nothing is run')\n")
    (tmp_path / "_c.py").write_text("def make(): pass\n")
    names = [spec.rpartition("/")[2] for spec in specs_in(tmp_path)]
    assert names == ["a.py:Net", "a.py:plain", "a.py:same", "a.py:leaky", "b.py:one", "b.py:two"]
    (tmp_path / "d.py").write_text("def make(:\n")
    with pytest.raises(ModelError, match=r"d\.py"):
        specs_in(tmp_path)


def test_what_all_classes_share_hides_no_difference(world: World, tmp_path: Path) -> None:
    a = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]])
    b = a.flip(1)
    assert answers_differ(a + 1e6, b + 1e6) and not answers_differ(a, a + 1e-7)
