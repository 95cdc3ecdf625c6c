"""A bad suspect is one row with an error, and the run goes on."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

import uapfast
from tests.api.bad_suspects import bad_suspects
from tests.api.screen_world import MLP
from uapfast.errors import ModelError
from uapfast.screening.asking.reader import HostBuffer, read_checkpoint
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.networks.skeletons import Skeletons


def test_one_bad_suspect_is_one_row_and_the_run_goes_on(world, tmp_path):
    (tmp_path / "exits.py").write_text("def net():\n    raise SystemExit(0)\n")
    (tmp_path / "fails.py").write_text(
        "from uapfast.models.nets import mlp_small\nfrom torch import nn\n"
        "class net(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(*mlp_small(1, 10, 8))\n"
        "    def forward(self, x):\n        raise RuntimeError('no\\nsuch luck')\n"
    )
    bad = bad_suspects(world, tmp_path)
    mixed = [s for pair in zip(bad, [world.suspect("honest-3")] * len(bad), strict=True) for s in pair]
    out = tmp_path / "t.parquet"
    summary = uapfast.screen(world.references["first"], mixed, out=out, workers=2).finish()
    rows = pq.read_table(out).to_pylist()
    assert [r["name"] for r in rows] == [s.name for s in mixed]
    for row in rows[1::2]:
        assert row["decision"] != "invalid" and row["error_class"] is None
    told = {r["name"]: (r["error_class"], r["error_message"]) for r in rows[::2]}
    assert all(r["decision"] == "invalid" and r["p_value"] is None for r in rows[::2])
    for name in ("nan", "overflow"):
        assert told[name][0] == "SuspectError" and "must be finite" in told[name][1]
    for name in ("wide", "missing", "more", "arch", "classes"):
        assert told[name][0] == "ModelError", (name, told[name])
    for name in ("cut", "empty", "noise", "folder", "loop", "pipe", "absent", "nul"):
        assert told[name][0] in ("CorruptFileError", "UnsupportedFileError", "TooLargeError"), told[name]
    assert told["exits"][0] == "SystemExit" and told["fails"] == (
        "SuspectError", "fails: network must be one that accepts images [1, 8, 8], got RuntimeError: no",
    )  # fmt: skip
    assert summary.decisions["invalid"] == len(bad) and summary.exit_code == 4


def test_a_file_that_claims_too_much_is_refused_before_it_is_read(world, tmp_path):
    path = tmp_path / "big.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 28], "data_offsets": [0, 1 << 30]}}).encode()
    with open(path, "wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + (1 << 30))
    slot = HostBuffer()
    with pytest.raises(ModelError, match="those of the architecture"):
        read_checkpoint(Entry(str(path), MLP), slot, Skeletons().shapes)
    assert slot.size == 0


def test_nan_answers_are_invalid_with_the_views_that_gave_them(world, tmp_path):
    (tmp_path / "net.py").write_text(
        "from uapfast.models.nets import mlp_small\nfrom torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(*mlp_small(1, 10, 8))\n"
        "    def forward(self, x):\n        return super().forward(x) / 0 * 0\n"
    )
    path = world.suspect("honest-0").path
    with uapfast.screen(world.references, [path], arch=f"{tmp_path / 'net.py'}:Net") as screening:
        rows = list(screening)
    assert [r.decision for r in rows] == ["invalid"] * 2 and {r.error_class for r in rows} == {"SuspectError"}
