"""What an architecture executes: found in its source, followed, and hashed as a whole."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from uapfast.models import code
from uapfast.models.code import executed_sha256, source_of, source_sha256
from uapfast.models.registry import code_sha256, resolve_arch
from uapfast.models.userfile import PREFIX
from uapfast.pool.plan import file_code_sha256 as pool_code_sha256

FILES = {
    "net.py": "import layers\nfrom .blocks import Block\nimport torch, timm\n"
    "def net():\n    from pack import late\n    return late\n",
    "layers.py": "import deep.inner as d\nimport json\n",
    "blocks.py": "from . import tail\n",
    "tail.py": "",
    "pack/__init__.py": "from .part import x\n",
    "pack/part.py": "x = 1\n",
    "pack/late.py": "from ..layers import d\n",
    "deep/inner.py": "",  # a namespace package
    "other.py": "raise AssertionError\n",
    "json.py": "",  # shadows what layers.py imports
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in source_of(folder / "net.py").files}


def test_what_lies_beside_is_followed_and_nothing_is_executed(folder):
    assert names(folder) == set(FILES) - {"other.py"}
    assert source_of(folder / "net.py").elsewhere == {"torch", "timm"}


@pytest.mark.parametrize("name", sorted(set(FILES) - {"other.py"}))
def test_every_such_file_counts(folder, name):
    before = source_sha256(folder / "net.py")
    (folder / name).write_text((folder / name).read_text() + "\n# more\n")
    assert source_sha256(folder / "net.py") != before


def test_others_do_not_count_nor_does_the_place(folder, tmp_path_factory):
    before = source_sha256(folder / "net.py")
    (folder / "other.py").write_text("x = 2\n")
    assert source_sha256(folder / "net.py") == before
    moved = tmp_path_factory.mktemp("moved") / "there"
    folder.rename(moved)
    assert source_sha256(moved / "net.py") == before


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\nimportlib.import_module('other')\n",
        "from importlib import import_module as i\n",
        "__import__('other')\n",
        "import sys\nsys.path.insert(0, 'deep')\n",
        "from sys import path\n",
        "exec(open('other.py').read())\n",
    ],
)
def test_imports_that_cannot_be_read_bring_in_all_that_lies_beside(folder, text):
    (folder / "layers.py").write_text(text)
    (folder / "venv").mkdir()
    (folder / "venv" / "pyvenv.cfg").touch()
    (folder / "venv" / "x.py").touch()
    (folder / ".hidden.d").mkdir()
    (folder / ".hidden.d" / "x.py").touch()
    assert names(folder) == set(FILES)


def test_files_that_do_not_parse_and_circles_do_no_harm(folder):
    (folder / "tail.py").write_text("import net\nimport blocks\n")
    (folder / "layers.py").write_text("def (\n")
    assert names(folder) == set(FILES) - {"other.py", "deep/inner.py", "json.py"}


def test_versions_are_those_of_what_is_used(folder, monkeypatch):
    versions = {"torch": "1", "timm": "1", "torchvision": "1", "numpy": "1"}
    monkeypatch.setattr(code, "_version", versions.get)
    file = f"{folder / 'net.py'}:net"
    specs = (file, "timm:resnet18", "torchvision:resnet18", "uapfast:mlp-small")
    before = {spec: code_sha256(spec) for spec in specs}

    def changed(package: str) -> set[str]:
        versions[package] += "1"
        found = {spec for spec in specs if code_sha256(spec) != before[spec]}
        before.update({spec: code_sha256(spec) for spec in specs})
        return found

    assert changed("torch") == set(specs)
    assert changed("timm") == {file, "timm:resnet18"}
    assert changed("torchvision") == {"torchvision:resnet18"} and not changed("numpy")


def test_a_build_of_one_version_is_no_other_version(monkeypatch):
    code._version.cache_clear()
    monkeypatch.setattr(code.metadata, "version", lambda name: "2.0+cpu")
    assert code._version("torch") == "2.0"
    code._version.cache_clear()


def test_a_file_that_is_not_there_has_a_hash_of_its_own(tmp_path):
    assert executed_sha256(tmp_path / "none.py") != executed_sha256(None)


def test_one_file_alone_has_its_own_hash_and_pools_know_neighbours(folder):
    import hashlib

    single = folder / "other.py"
    assert source_sha256(single) == hashlib.sha256(single.read_bytes()).hexdigest()
    assert pool_code_sha256(f"{single}:net") == source_sha256(single)
    before = pool_code_sha256(f"{folder / 'net.py'}:net")
    (folder / "tail.py").write_text("# more\n")
    assert pool_code_sha256(f"{folder / 'net.py'}:net") != before
    assert pool_code_sha256("uapfast:mlp-small") is None


def test_an_edited_neighbour_is_read_anew(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom .near import n\ndef net():\n    return torch.nn.Linear(1, n)\n"
    )
    (tmp_path / "near.py").write_text("n = 3\n")
    spec = f"{tmp_path / 'net.py'}:net"
    assert resolve_arch(spec)().out_features == 3
    (tmp_path / "near.py").write_text("n = 4\n")
    assert resolve_arch(spec)().out_features == 4


def test_code_that_was_executed_anew_is_forgotten_with_its_network(tmp_path):
    import copy

    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n        from .near import n\n        return super().forward(x) * n\n"
        "def net():\n    return Net(1, 1)\n"
    )
    (tmp_path / "near.py").write_text("n = 0\n")
    gc.collect()  # what other tests have left
    before = {name for name in sys.modules if name.startswith(PREFIX)}
    net = copy.deepcopy(resolve_arch(f"{tmp_path / 'net.py'}:net", anew=True)())
    gc.collect()
    import torch

    assert float(net(torch.ones(1, 1)).detach()) == 0  # imports from beside while it answers
    assert {name for name in sys.modules if name.startswith(PREFIX)} > before
    del net
    gc.collect()
    assert {name for name in sys.modules if name.startswith(PREFIX)} == before
