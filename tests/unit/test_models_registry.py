"""Specs name architectures; every way to name none gets one clear error."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from uapfast.errors import MissingDependency, ModelError
from uapfast.models.nets import NETS
from uapfast.models.registry import resolve_arch

NET = """from torch import nn


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear({size}, 2))
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("channels", "classes", "size"), [(1, 10, 8), (1, 10, 28), (3, 7, 32), (2, 2, 17)])
def test_shipped_networks_take_what_they_are_sized_for(
    name: str, channels: int, classes: int, size: int
) -> None:
    model = resolve_arch(f"uapfast:{name}?channels={channels}&classes={classes}&size={size}")()
    out = model(torch.rand(2, channels, size, size))
    assert out.shape == (2, classes) and bool(torch.isfinite(out).all())
    assert sum(p.numel() for p in model.parameters()) < 400_000


def test_a_factory_gives_new_weights_from_the_generator() -> None:
    make = resolve_arch("uapfast:mlp-small")
    torch.manual_seed(5)
    first, second = make(), make()
    torch.manual_seed(5)
    again = make()
    assert torch.equal(first[1].weight, again[1].weight) and not torch.equal(
        first[1].weight, second[1].weight
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "FILE.py:FACTORY, timm:NAME, torchvision:NAME or uapfast:NAME, got ''"),
        ("resnet18", "got 'resnet18'"),
        (None, "got None"),
        ("model.txt:make", "got 'model.txt:make'"),
        ("model.py:", "got 'model.py:'"),
        ("http://host/x:y", "got 'http"),
        ("os:system", "got 'os:system'"),
        ("uapfast:resnet18", "one of resnet-small, .*got 'uapfast:resnet18'"),
        ("uapfast:cnn-small?size=7", "size=8..4096.*got 'uapfast:cnn-small.size=7'"),
        ("uapfast:cnn-small?size=-8", "size"),
        ("uapfast:cnn-small?size=99999999999", "size"),
        ("uapfast:cnn-small?size=²", "size"),
        ("uapfast:cnn-small?classes=1", "classes=2"),
        ("uapfast:cnn-small?size=8&size=9", "size"),
        ("uapfast:cnn-small?depth=3", "with options channels=1..4096"),
        ("uapfast:cnn-small?28", "with options"),
    ],
)
def test_specs_that_name_nothing(spec: object, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        resolve_arch(spec)  # type: ignore[arg-type]


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=200)
def test_any_text_gives_a_factory_or_a_typed_error(text: str) -> None:
    for spec in (text, f"uapfast:{text}", f"uapfast:cnn-small?{text}", f"{text}.py:make"):
        try:
            resolve_arch(spec)
        except ModelError as exc:
            assert exc.where == "arch"


def test_a_file_relative_to_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "deep" / "net.py", NET.format(size=9))
    assert resolve_arch("deep/net.py:make", base=tmp_path)()[1].in_features == 9
    monkeypatch.chdir(tmp_path)
    assert resolve_arch("deep/net.py:make")()[1].in_features == 9
    assert resolve_arch(f"{tmp_path}/deep/net.py:make", base=Path("/nowhere"))()[1].in_features == 9


def test_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    for size in (4, 5):
        write(tmp_path / str(size) / "net.py", f"import layers\nmake = lambda: layers.make()\n{'#' * size}\n")
        write(tmp_path / str(size) / "layers.py", NET.format(size=size))
    found = [resolve_arch("net.py:make", base=tmp_path / str(s))()[1].in_features for s in (4, 5, 4)]
    assert found == [4, 5, 4]
    assert "layers" not in sys.modules and str(tmp_path / "4") not in sys.path


@pytest.mark.parametrize(
    "text",
    [
        "from .layers import make",
        "from layers import make",
        "def make():\n    from .layers import make as m\n    return m()",
        "def make():\n    import layers\n    return layers.make()",
        "def make():\n    from blocks.inner import make as m\n    return m()",
    ],
)
def test_neighbouring_modules_can_be_imported(tmp_path: Path, text: str) -> None:
    write(tmp_path / "layers.py", NET.format(size=6))
    write(tmp_path / "blocks" / "__init__.py", "")
    write(tmp_path / "blocks" / "inner.py", NET.format(size=6))
    write(tmp_path / "net.py", text)
    before = set(sys.modules)
    assert resolve_arch("net.py:make", base=tmp_path)()[1].in_features == 6
    left = {n for n in set(sys.modules) - before if not n.startswith("_uapfast_user_")}
    assert not {n for n in left if n.startswith(("layers", "blocks"))}


def test_only_neighbours_are_forgotten(tmp_path: Path) -> None:
    """A library in an environment below the folder stays imported, as it must."""
    write(tmp_path / "env" / "lib" / "somelib.py", "x = 1\n")
    write(
        tmp_path / "net.py",
        f"import sys\nsys.path.append({str(tmp_path / 'env' / 'lib')!r})\nimport somelib\n"
        + NET.format(size=3),
    )
    try:
        resolve_arch("net.py:make", base=tmp_path)()
        assert "somelib" in sys.modules
    finally:
        sys.modules.pop("somelib", None)
        sys.path.remove(str(tmp_path / "env" / "lib"))


def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    write(tmp_path / "net.py", NET.format(size=3))
    assert resolve_arch("net.py:make", base=tmp_path)()[1].in_features == 3
    write(tmp_path / "net.py", NET.format(size=7))
    assert resolve_arch("net.py:make", base=tmp_path)()[1].in_features == 7


def test_a_file_is_executed_once_even_by_several_threads(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(
        tmp_path / "net.py",
        f"import time\nopen({str(log)!r}, 'a').write('x')\ntime.sleep(.05)\n{NET.format(size=3)}",
    )
    threads = [
        threading.Thread(target=lambda: resolve_arch("net.py:make", base=tmp_path)()) for _ in range(5)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert log.read_text() == "x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def make(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import no_such_module_anywhere\n", "ModuleNotFoundError.*no_such_module_anywhere"),
        ("import sys\nsys.exit(0)\n", "SystemExit"),
        ("\0", "null bytes|source code"),
        ("def build():\n    pass\n", r"it has build\), got 'make'"),
        ("make = 3\n", r"it has none\), got 'make'"),
        ("from torch.nn import Linear\n", r"it has none\), got 'make'"),
        ("def make(width):\n    pass\n", "TypeError.*width"),
        ("def make():\n    raise KeyError('depth')\n", "KeyError: 'depth'"),
        ("def make():\n    return 3\n", "an nn.Module .*got int"),
        ("import torch\nmake = torch.nn.Linear\n", "TypeError"),
    ],
)
def test_files_that_fail(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path / "net.py", text)
    with pytest.raises(ModelError, match=said):
        resolve_arch("net.py:make", base=tmp_path)()


def test_a_file_that_failed_is_tried_anew(tmp_path: Path) -> None:
    """What failed for want of a neighbour works once that is there, though the file is the same."""
    write(tmp_path / "net.py", "from layers import make")
    with pytest.raises(ModelError, match="layers"):
        resolve_arch("net.py:make", base=tmp_path)
    write(tmp_path / "layers.py", NET.format(size=5))
    assert resolve_arch("net.py:make", base=tmp_path)()[1].in_features == 5


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"an existing Python file, got .*none\.py \(No such file"):
        resolve_arch("none.py:make", base=tmp_path)
    (tmp_path / "dir.py").mkdir()
    with pytest.raises(ModelError, match=r"dir\.py"):
        resolve_arch("dir.py:make", base=tmp_path)


class FakeLibrary(types.ModuleType):
    """timm, or ``torchvision.models`` with its sub-modules, as far as they are asked."""

    def __init__(self, names: list[str], calls: list, others: list[str] | None = None) -> None:
        super().__init__("torchvision.models")
        self.names, self.others, self.calls = names, others or [], calls
        self.quantization = types.ModuleType("torchvision.models.quantization")

    def list_models(self, module: types.ModuleType | None = None) -> list[str]:
        """As torchvision's: with ``module`` only what is defined directly in it."""
        if module is self.quantization:
            return ["quantized_resnet18"]
        return self.names if module is self else self.names + self.others

    def is_model(self, name: str) -> bool:
        """As timm's: without the tag after the dot."""
        return name.split(".")[0] in self.names

    def create_model(self, name: str, **settings: object) -> nn.Module:
        """Note what was asked for."""
        self.calls.append((name, settings))
        return nn.Linear(1, int(str(settings.get("num_classes", 1000))))

    get_model = create_model


def installed(monkeypatch: pytest.MonkeyPatch, fake: FakeLibrary) -> None:
    monkeypatch.setitem(sys.modules, "timm", fake)
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(models=fake))
    monkeypatch.setitem(sys.modules, "torchvision.models", fake)


def test_libraries_are_asked_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list = []
    installed(monkeypatch, FakeLibrary(["resnet18", "resnet50"], calls))
    resolve_arch("timm:resnet18?classes=10&channels=1")()
    resolve_arch("timm:resnet18.a1_in1k")()
    resolve_arch("torchvision:resnet50?classes=5")()
    resolve_arch("torchvision:quantized_resnet18")()
    assert calls == [
        ("resnet18", {"pretrained": False, "num_classes": 10, "in_chans": 1}),
        ("resnet18.a1_in1k", {"pretrained": False}),
        ("resnet50", {"weights": None, "num_classes": 5}),
        ("quantized_resnet18", {"weights": None}),
    ]
    with pytest.raises(ModelError, match=r"known NAME \(such as resnet18, resnet50\), got 'timm:resnet19'"):
        resolve_arch("timm:resnet19")
    with pytest.raises(ModelError, match="channels"):
        resolve_arch("torchvision:resnet18?channels=1")


# with weights=None each of these still downloads a backbone, unless told otherwise
DOWNLOADERS = (
    "fcn_resnet50 fcn_resnet101 deeplabv3_resnet50 deeplabv3_resnet101 deeplabv3_mobilenet_v3_large "
    "lraspp_mobilenet_v3_large fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 "
    "fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_mobilenet_v3_large_320_fpn retinanet_resnet50_fpn "
    "maskrcnn_resnet50_fpn keypointrcnn_resnet50_fpn fcos_resnet50_fpn ssd300_vgg16 "
    "ssdlite320_mobilenet_v3_large"
).split()


@pytest.mark.parametrize("name", [*DOWNLOADERS, "raft_small", "r3d_18"])
def test_what_is_no_image_classifier_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list = []
    installed(monkeypatch, FakeLibrary(["resnet18"], calls, [*DOWNLOADERS, "raft_small", "r3d_18"]))
    with pytest.raises(
        ModelError, match=f"of an image classifier, got 'torchvision:{name}.*', which is none"
    ):
        resolve_arch(f"torchvision:{name}?classes=10")
    assert not calls


@pytest.mark.parametrize(
    "spec",
    [
        "timm:hf-hub:owner/net",
        "timm:hf_hub:owner/net",
        "timm:local-dir:/tmp/net",
        "timm:owner/resnet18",
        "timm:https://host/resnet18",
        "timm:resnet18.x:y",
        "timm:resnet18@main",
        "torchvision:pytorch/vision:resnet18",
        "torch.hub:pytorch/vision:resnet18",
        "hf-hub:owner/net",
    ],
)
def test_no_spec_reaches_out(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list = []
    fake = FakeLibrary(["resnet18"], calls)
    monkeypatch.setattr(fake, "is_model", lambda name: True)  # even were timm to know it
    installed(monkeypatch, fake)
    with pytest.raises(ModelError, match="must be .*, got '" + spec.replace(".", r"\.")):
        resolve_arch(spec)
    assert not calls


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_a_missing_library_names_the_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MissingDependency, match=rf"{kind}:resnet18 needs {kind} .*pip install .*'timm"):
        resolve_arch(f"{kind}:resnet18")


@pytest.mark.needs("timm")
def test_timm_itself() -> None:
    model = resolve_arch("timm:resnet18?classes=10&channels=1")().eval()
    assert model(torch.rand(1, 1, 64, 64)).shape == (1, 10)


@pytest.mark.needs("torchvision")
def test_torchvision_itself() -> None:
    model = resolve_arch("torchvision:resnet18?classes=10")().eval()
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 10)


@pytest.mark.needs("torchvision")
def test_torchvision_itself_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", reached)
    monkeypatch.setattr("torch.hub.download_url_to_file", reached)
    monkeypatch.setattr("socket.socket.connect", reached)
    refused = 0
    for name in torchvision.models.list_models():
        with torch.device("meta"):
            try:
                resolve_arch(f"torchvision:{name}")()
            except ModelError as exc:
                refused += "of an image classifier" in str(exc)
                assert "of an image classifier" in str(exc) or "meta tensor" in str(
                    exc
                )  # built, but not there
    assert refused >= len(DOWNLOADERS)
