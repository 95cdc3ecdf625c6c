"""``uapfast.screen`` on real small models gives the answers of ``verify``."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file, save_file

import uapfast
from tests.api.screen_rows import table
from uapfast.errors import InputError
from uapfast.screening.table.rows import VERDICT_FIELDS

NAMES = ("victim-1", "victim-2", "pruned-1", *(f"honest-{i}" for i in range(6)), "half", "shifted")


@pytest.mark.parametrize("workers", [1, 3])
def test_without_early_stopping_every_number_is_that_of_verify_bit_for_bit(world, tmp_path, workers):
    out = tmp_path / "t.parquet"
    screening = uapfast.screen(
        world.references, world.suspects, out=out, early=False, workers=workers, alpha=0.01, fdr=1.0
    )
    summary = screening.finish()
    found = table(out)
    assert set(found) == {(r, n) for r in ("first", "second") for n in NAMES} and summary.rows == 22
    for (reference, name), row in found.items():
        verdict = world.verify(reference, name, 0.01).to_dict()
        for field in set(VERDICT_FIELDS):
            told = row[field]
            if field == "reasons":  # a list says besides what naming one party of it rests on
                told = [reason for reason in told if "p_holm" not in reason]
            assert told == verdict[field], (reference, name, field)
    assert found["first", "victim-1"]["decision"] == found["second", "victim-2"]["decision"] == "piracy"
    assert found["first", "victim-2"]["decision"] != "piracy" and summary.exit_code == 1


def test_hashes_are_those_of_the_tensors(world, tmp_path):
    out = tmp_path / "t.parquet"
    uapfast.screen(world.references, world.suspects, out=out).finish()
    found = table(out)
    for name in ("victim-1", "honest-2"):
        verdict = world.verify("first", name)
        assert found["first", name]["sha256"] == verdict.suspect_sha256


def test_stopping_early_asks_less_and_decides_the_same(world, tmp_path):
    early, full = tmp_path / "early.parquet", tmp_path / "full.parquet"
    a = uapfast.screen(world.references, world.suspects, out=early, alpha=0.01, fdr=1.0).finish()
    b = uapfast.screen(world.references, world.suspects, out=full, alpha=0.01, fdr=1.0, early=False).finish()
    assert a.queries_used < 0.9 * a.queries_full and b.queries_used == b.queries_full == a.queries_full
    early_rows, full_rows = table(early), table(full)
    used = {row["views_used"] for row in early_rows.values()}
    assert used <= {1, 2, 5, 10, 20} and len(used) > 1
    for key, row in early_rows.items():
        if full_rows[key]["decision"] in ("piracy", "independent"):
            other = {"piracy": "independent", "independent": "piracy"}[full_rows[key]["decision"]]
            assert row["decision"] != other, key
    for key in (("first", "victim-1"), ("second", "victim-2")):
        assert early_rows[key]["decision"] == "piracy"


def test_a_budget_of_queries_is_kept(world, tmp_path):
    out = tmp_path / "t.parquet"
    plan = world.references["first"].plan
    each = plan.blocks * plan.per_view
    uapfast.screen(world.references, world.suspects, out=out, queries=7 * each + 1, early=False).finish()
    assert {row["views_used"] for row in table(out).values()} == {7}
    assert {row["queries_full"] for row in table(out).values()} == {7 * each}
    with pytest.raises(InputError, match=f"queries must be at least {each}"):
        uapfast.screen(world.references, world.suspects, out=out, queries=each - 1)


def test_labels_only_and_the_papers_encoder_go_as_verify_goes(world, tmp_path):
    (tmp_path / "net.py").write_text(
        "from uapfast.models.nets import mlp_small\nfrom torch import nn\n"
        "class Labels(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.inner = mlp_small(1, 10, 8)\n"
        "    def forward(self, x):\n        return self.inner(x).argmax(1)\n"
    )
    source = world.suspect("pruned-1")
    path = tmp_path / "labels.safetensors"
    save_file({f"inner.{k}": v for k, v in load_file(source.path).items()}, path)
    arch = f"{tmp_path / 'net.py'}:Labels"
    with uapfast.screen(world.references, [path], arch=arch, early=False) as screening:
        rows = list(screening)
    model = uapfast.models.checkpoint.load_model(arch, path)
    for row in rows:
        verdict = uapfast.verify(world.references[row.reference], model)
        assert row.output == "labels" and row.p_value == verdict.p_value and row.z == verdict.z
        assert any("labels only" in reason for reason in row.reasons)
