"""Code of a network that changes: between two screens, while one runs, and two networks of one file."""

from __future__ import annotations

import uapfast
from tests.api.screen_world import CNN
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.models.registry import resolve_arch


def test_corrected_code_is_asked_again_and_counted(world, tmp_path):
    path, arch = world.suspect("honest-1").path, f"{tmp_path / 'net.py'}:net"
    assert world.suspect("honest-1").arch == CNN
    (tmp_path / "net.py").write_text("import wrapped\ndef net():\n    return wrapped.Net()\n")
    (tmp_path / "wrapped.py").write_text(
        "from uapfast.models.nets import cnn_small\nfrom torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(*cnn_small(1, 10, 8))\n"
        "    def forward(self, x):\n        return super().forward((x - 0.5) / 0.1)\n"
    )
    out, given = tmp_path / "t.parquet", {"arch": arch, "early": False}
    reference = world.references["first"]
    first = uapfast.screen(reference, [path], out=out, **given).finish()
    wrong = uapfast.verify(reference, load_model(arch, path))
    text = (tmp_path / "wrapped.py").read_text().replace("(x - 0.5) / 0.1", "(x - 0.0) / 1.0")
    (tmp_path / "wrapped.py").write_text(text)  # a neighbour, of the same size
    with uapfast.screen(reference, [path], out=out, **given) as screening:
        (row,) = screening
        assert screening.summary is not None and screening.summary.code_changed == 1
    right = uapfast.verify(reference, load_model(arch, path))
    assert first.code_changed == 0 and row.z == right.z != wrong.z
    assert row.z == world.verify("first", "honest-1").z
    again = uapfast.screen(reference, [path], out=out, **given).finish()
    assert again.code_changed == 0


def test_code_that_changes_while_a_screen_runs_is_an_error_of_that_row(world, tmp_path):
    path = tmp_path / "net.py"
    path.write_text("from uapfast.models.nets import mlp_small\ndef net():\n    return mlp_small(1, 10, 8)\n")
    with uapfast.screen(
        world.references["first"], [world.suspect("honest-0").path], arch=f"{path}:net"
    ) as screening:
        path.write_text(path.read_text() + "# edited\n")
        (row,) = screening
    assert row.error_class == "ModelError" and "code that it was when the screen began" in row.error_message


def test_fresh_weights_are_saved_for_the_reference_of_this_file(tmp_path):
    """Two networks of one file share no globals."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\nMADE = []\n"
        "def net():\n    MADE.append(1)\n    return nn.Linear(2, 1 + len(MADE))\n"
    )
    arch = f"{tmp_path / 'net.py'}:net"
    assert [resolve_arch(arch, anew=True)().out_features for _ in range(2)] == [2, 2]
    save_weights(resolve_arch(arch, anew=True)(), tmp_path / "w.safetensors")
    for _ in range(2):
        load_model(arch, tmp_path / "w.safetensors")
