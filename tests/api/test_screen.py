"""``uapfast.screen`` on real small models: the answers of ``verify``, resumed, isolated, whole."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import uapfast
from tests.api.screen_world import CNN, MLP, RESIDUAL, World
from uapfast.errors import (
    InputError,
    ManifestError,
    MissingDependency,
    ModelError,
    ReferenceFileError,
    StorageError,
    SuspectError,
)
from uapfast.models.batches import batch_size, batches
from uapfast.models.model import tensors_sha256
from uapfast.screening import judge as judge_module
from uapfast.screening import worker
from uapfast.screening.engines import ENGINES
from uapfast.screening.entry import Entry
from uapfast.screening.reader import HostBuffer, read_checkpoint
from uapfast.screening.rows import SECONDS, VERDICT_FIELDS
from uapfast.suspects.networks.skeletons import Skeleton, Skeletons

NAMES = ("victim-1", "victim-2", "pruned-1", *(f"honest-{i}" for i in range(6)), "half", "shifted")


def table(path: Path) -> dict[tuple[str, str], dict]:
    rows = pq.read_table(path).to_pylist()
    found = {(r["reference"], r["name"]): r for r in rows}
    assert len(found) == len(rows)
    return found


def bare(rows: dict) -> dict:
    """Without what no two runs share."""
    return {k: {c: v for c, v in row.items() if c not in SECONDS} for k, row in rows.items()}


# -- the same as verify ----------------------------------------------------------------------------


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


# -- in place ------------------------------------------------------------------------------------------


def loaded(suspect: Entry, skeletons: Skeletons):
    return read_checkpoint(suspect, HostBuffer(), skeletons.shapes)


@pytest.mark.parametrize("arch", [MLP, CNN, RESIDUAL])
def test_zero_weights_give_zero_logits(arch, tmp_path):
    """The canary: were the copy not in the memory that answers, the old weights would answer."""
    skeleton = Skeleton(Entry("x", arch))
    assert skeleton.in_place
    x = torch.rand(5, 1, 8, 8)
    state = {k: v.clone() for k, v in skeleton.module.state_dict().items()}
    skeleton.load(state, "x")
    before = skeleton.answer([x], 5, "x")
    assert float(before.abs().max()) > 0
    skeleton.load({k: torch.zeros_like(v) for k, v in state.items()}, "x")
    assert not skeleton.answer([x], 5, "x").any()
    skeleton.load(state, "x")
    assert torch.equal(skeleton.answer([x], 5, "x"), before)


def test_huge_but_finite_weights_pass_and_every_infinity_is_seen():
    skeleton = Skeleton(Entry("x", MLP))
    state = {k: torch.full_like(v, 3e38) for k, v in skeleton.module.state_dict().items()}
    skeleton.load(state, "x")
    for value in (float("inf"), float("-inf"), float("nan")):
        broken = state | {"3.bias": torch.full((10,), value)}
        with pytest.raises(SuspectError, match="weights 3.bias must be finite"):
            skeleton.load(broken, "x")


def test_memory_of_the_weights_never_moves(world):
    skeletons = Skeletons()
    places = []
    for name in ("honest-2", "honest-5", "honest-2", "honest-5"):
        suspect = world.suspect(name)
        found = loaded(suspect, skeletons)
        with skeletons.borrow(suspect) as skeleton:
            skeleton.load(found.tensors, name)
            places.append(tuple(t.data_ptr() for t in skeleton.module.parameters()))
            for key, tensor in load_file(suspect.path).items():
                assert torch.equal(skeleton.module.state_dict()[key], tensor)
    assert len(set(places[1:])) == 1  # the first was asked on a network made as for verify


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        self.b.weight = self.a.weight
        self.register_buffer("mask", torch.ones(64), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.out = nn.Linear(64, 10).double()

    def forward(self, x):
        return self.out((self.b(self.a(x.flatten(1)).relu()) * self.mask).double())


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 10)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.seen += 1
        return self.out(x.flatten(1)) * self.seen


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 10)
        self.scale = 1.0

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        self.scale = float(state_dict[prefix + "out.bias"][0])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x):
        return self.out(x.flatten(1)) * self.scale


class Scribbler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        return self.out(x.mul_(2).sub_(1).flatten(1))


@pytest.mark.parametrize("kind", [Tied, Stateful, Hooked, Scribbler])
def test_odd_networks_answer_as_they_do_alone(world, tmp_path, kind):
    names = []
    for seed in range(4):
        torch.manual_seed(seed)
        state = {k: v.contiguous().clone() for k, v in kind().state_dict().items()}
        save_file(state, tmp_path / f"{seed}.safetensors")
        names.append(tmp_path / f"{seed}.safetensors")
    factory = tmp_path / "net.py"
    factory.write_text(f"from {__name__} import {kind.__name__}\n")
    sys.modules.setdefault(__name__, sys.modules[kind.__module__])
    arch = f"{factory}:{kind.__name__}"
    reference = world.references["first"]
    with uapfast.screen(reference, names, arch=arch, early=False, workers=1) as screening:
        rows = {row.path: row for row in screening}
    for path in names:
        model = uapfast.models.checkpoint.load_model(arch, path)
        row, verdict = rows[str(path)], uapfast.verify(reference, model)
        if (
            kind is Stateful
        ):  # its answers depend on how queries are cut into batches; its state must not leak
            assert row.error_class is None
            continue
        assert (row.p_value, row.z) == (verdict.p_value, verdict.z), row


def test_a_network_that_keeps_state_leaks_none_of_it(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "s.safetensors"
    save_file(Stateful().state_dict(), path)
    (tmp_path / "net.py").write_text(f"from {__name__} import Stateful\n")
    sys.modules.setdefault(__name__, sys.modules[Stateful.__module__])
    skeleton = Skeleton(Entry(str(path), f"{tmp_path / 'net.py'}:Stateful"))
    x, answers = torch.rand(5, 1, 8, 8), []
    for _ in range(3):
        skeleton.load(load_file(path), path)
        first = skeleton.answer([x], 5, "s")
        if not skeleton.settled():
            skeleton.load(load_file(path), path)
            first = skeleton.answer([x], 5, "s")
        answers.append(first)
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[1], answers[2])


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 511, 600, 4000])
def test_batches_have_one_size_and_lose_nothing(count):
    x = torch.arange(count, dtype=torch.float32)[:, None]
    size = batch_size(count)
    found = list(batches(torch.split(x, 7), size))
    assert size <= 256 and {len(b) for b, _ in found} == {size} and len(found) == -(-count // 256)
    assert torch.equal(torch.cat([b[:rows] for b, rows in found]), x)


# -- identical tensors, resuming -------------------------------------------------------------------


def test_identical_tensors_are_asked_once(world, tmp_path, monkeypatch):
    asked = []
    real = judge_module.judge

    def counted(panel, skeletons, found):
        asked.append(found.entry.name)
        return real(panel, skeletons, found)

    monkeypatch.setattr(worker, "judge", counted)
    source = world.suspect("honest-0")
    copies = []
    for i in range(20):
        path = tmp_path / f"{i:02d}.safetensors"
        # another file: metadata and order differ, tensors do not
        save_file(dict(reversed(load_file(source.path).items())), path, metadata={"n": str(i)})
        copies.append(Entry(str(path), MLP))
    shutil.copy(world.suspect("honest-1").path, tmp_path / "other.safetensors")
    other = Entry(str(tmp_path / "other.safetensors"), CNN)
    out = tmp_path / "t.parquet"
    uapfast.screen(world.references, [*copies, other], out=out, workers=2).finish()
    assert len(asked) == 2 and sorted(asked)[1] == "other.safetensors"
    rows = [r for (reference, _), r in table(out).items() if reference == "first"]
    first = next(r for r in rows if r["same_as"] is None and r["name"] != "other.safetensors")
    for row in rows:
        if row["name"] not in (first["name"], "other.safetensors"):
            assert row["same_as"] == first["name"] and row["z"] == first["z"] and row["path"] != first["path"]


def test_what_torch_saved_is_read_too_and_recognised_as_the_same(world, tmp_path):
    state = load_file(world.suspect("honest-5").path)
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    some = [Entry(str(tmp_path / n), RESIDUAL) for n in ("zip.pt", "legacy.bin")]
    with uapfast.screen(world.references["first"], some, early=False, workers=1) as screening:
        a, b = screening
    verdict = world.verify("first", "honest-5")
    assert a.sha256 == b.sha256 == verdict.suspect_sha256 and b.same_as == a.name
    assert a.z == b.z == verdict.z


def test_a_rerun_asks_nothing_and_a_longer_list_only_what_is_new(world, tmp_path, monkeypatch):
    out = tmp_path / "t.parquet"
    uapfast.screen(world.references, world.suspects[:5], out=out).finish()
    before = table(out)
    asked = []
    real = judge_module.judge
    monkeypatch.setattr(
        worker,
        "judge",
        lambda p, s, found: asked.append(found.entry.name) or real(p, s, found),
    )
    uapfast.screen(world.references, world.suspects[:5], out=out).finish()
    assert not asked and table(out) == before
    uapfast.screen(world.references, world.suspects[:7], out=out).finish()
    assert sorted(asked) == sorted(s.name for s in world.suspects[5:7])
    uapfast.screen(world.references, world.suspects[:2], out=out, resume=False).finish()
    assert len(asked) == 4 and len(table(out)) == 4
    uapfast.screen(world.references, world.suspects[:2], out=out, alpha=0.02).finish()
    assert len(asked) == 6  # other settings, other rows


def test_a_broken_off_iteration_is_continued(world, tmp_path):
    out = tmp_path / "t.parquet"
    whole = tmp_path / "whole.parquet"
    uapfast.screen(world.references, world.suspects, out=whole).finish()
    screening = uapfast.screen(world.references, world.suspects, out=out, workers=1)
    for _ in screening:
        break
    screening.close()
    assert not out.exists()
    uapfast.screen(world.references, world.suspects, out=out, workers=2).finish()
    assert bare(table(out)) == bare(table(whole))


def test_references_under_other_names_keep_their_rows(world, tmp_path):
    out = tmp_path / "t.parquet"
    uapfast.screen(world.references, world.suspects[:2], out=out).finish()
    files = [world.folder / "second.uapref", world.folder / "first.uapref"]
    shutil.copy(files[1], tmp_path / "renamed.uapref")
    uapfast.screen([files[0], tmp_path / "renamed.uapref"], world.suspects[:2], out=out).finish()
    assert [k[0] for k in table(out)] == ["second", "second", "renamed", "renamed"]


# -- one bad suspect is one row ----------------------------------------------------------------------


def bad_suspects(world: World, folder: Path) -> list[Entry]:
    good = load_file(world.suspect("honest-0").path)
    nan = {k: v.clone() for k, v in good.items()}
    nan["1.weight"][3, 4] = float("nan")
    wide = good | {"1.weight": torch.zeros(128, 65)}
    files = {
        "nan": nan, "overflow": {k: v.double() * 1e300 for k, v in good.items()}, "wide": wide,
        "missing": {k: v for k, v in good.items() if k != "3.bias"}, "more": good | {"x": torch.zeros(3)},
    }  # fmt: skip
    for name, tensors in files.items():
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")
    whole = Path(world.suspect("honest-0").path).read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-10])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "noise.safetensors").write_bytes(bytes(range(256)) * 20)
    (folder / "folder.safetensors").mkdir()
    (folder / "loop.safetensors").symlink_to(folder / "loop.safetensors")
    import os

    os.mkfifo(folder / "pipe.safetensors")
    names = [*files, "cut", "empty", "noise", "folder", "loop", "pipe", "absent"]
    found = [Entry(str(folder / f"{n}.safetensors"), MLP, n) for n in names]
    path = world.suspect("honest-0").path
    return [
        *found,
        Entry(path, "uapfast:none-such", "arch"),
        Entry(path, "uapfast:mlp-small?size=8&classes=7", "classes"),
        Entry(path, f"{folder / 'exits.py'}:net", "exits"),
        Entry(path, f"{folder / 'fails.py'}:net", "fails"),
        Entry("nul\0byte", MLP, "nul"),
    ]


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
        "SuspectError", "fails: answers must be returned for images [1, 8, 8], got RuntimeError: no",
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


# -- arguments, engines, progress ------------------------------------------------------------------------


def test_bad_arguments_are_named(world, tmp_path):
    some, path = world.suspects[:1], world.suspects[0].path
    for given, told in (
        ({"alpha": 0.7}, "alpha"),
        ({"fdr": 0}, "fdr"),
        ({"fdr": True}, "fdr"),
        ({"queries": 0}, "queries"),
        ({"workers": 1.5}, "workers"),
        ({"engine": "abacus"}, "engine"),
        ({"arch": "uapfast:none"}, "SPEC"),
    ):
        with pytest.raises(InputError, match=f"{told} must be"):
            uapfast.screen(world.references, some, **given)
    for references in ([], 7, [7], {"a": world.references["first"], "b": world.references["first"]}):
        with pytest.raises(InputError, match="references? must be"):
            uapfast.screen(references, some)
    with pytest.raises(ReferenceFileError):
        uapfast.screen(path, some)
    with pytest.raises(InputError, match="arch must be given"):
        uapfast.screen(world.references, [path])
    with pytest.raises(ManifestError):
        uapfast.screen(world.references, tmp_path / "none.csv")
    with pytest.raises(StorageError):
        uapfast.screen(world.references, some, out=tmp_path / "none" / "t.parquet")
    unfinished = uapfast.screen(world.references, some)
    with unfinished, pytest.raises(InputError, match="unfinished"):
        next(unfinished.rows())


def test_an_engine_that_is_not_installed_names_its_extra(world, monkeypatch):
    monkeypatch.setitem(ENGINES, "ray", ("uapfast.screening.none_such", "none_such", "ray"))
    with pytest.raises(MissingDependency, match=r"pip install 'uapfast\[ray\]'"):
        uapfast.screen(world.references, world.suspects[:1], engine="ray")


def test_progress_and_rows_come_while_it_runs(world):
    seen = []
    screening = uapfast.screen(
        world.references, world.suspects, progress=lambda done, total, what: seen.append((done, total))
    )
    with screening:
        rows = list(screening)
        assert len(rows) == 22 and all(r.q_value is None for r in rows)
        assert seen == [(i, 11) for i in range(12)]
        finished = list(screening.rows())
        assert all(r.q_value is not None for r in finished) and len(finished) == 22
        assert np.isfinite([r.seconds_forward for r in rows]).all()


def test_threads_and_settings_are_given_back(world):
    threads, running = torch.get_num_threads(), threading.active_count()
    for _ in range(2):
        screening = uapfast.screen(world.references, world.suspects[:4], workers=2)
        next(iter(screening))
        screening.close()
    uapfast.screen(world.references, world.suspects[:4], workers=2).finish()
    assert torch.get_num_threads() == threads and threading.active_count() == running


def test_state_hash_is_what_a_module_has(world):
    skeletons = Skeletons()
    suspect = world.suspect("honest-5")
    module = uapfast.models.checkpoint.load_model(suspect.arch, suspect.path).module
    assert module is not None and loaded(suspect, skeletons).sha256 == tensors_sha256(module)
    assert replace(suspect, name="x").network == suspect.network


@pytest.mark.parametrize("kind", [Tied, Stateful, Scribbler])
def test_all_weights_in_one_copy_are_those_of_one_by_one(tmp_path, kind):
    (tmp_path / "net.py").write_text(f"from {__name__} import {kind.__name__}\n")
    sys.modules.setdefault(__name__, sys.modules[kind.__module__])
    arch, slot, skeletons = f"{tmp_path / 'net.py'}:{kind.__name__}", HostBuffer(), Skeletons()
    for seed, dtype in enumerate((torch.float32, torch.float32, torch.float16, torch.float32)):
        torch.manual_seed(seed)
        state = {k: v.clone().contiguous() for k, v in kind().state_dict().items()}
        state = {k: v.to(dtype) if v.dtype == torch.float32 else v for k, v in state.items()}
        path = tmp_path / f"{seed}.safetensors"
        save_file(state, path)
        suspect = Entry(str(path), arch)
        found = read_checkpoint(suspect, slot, skeletons.shapes)
        assert (found.flat is None) == (dtype == torch.float16)
        module = kind()
        module.load_state_dict({k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()})
        with skeletons.borrow(suspect) as skeleton:
            assert found.fits is skeleton.shapes
            skeleton.load(found.tensors, path, found.fits, found.flat)
            for name, tensor in module.state_dict().items():
                assert torch.equal(skeleton.module.state_dict()[name], tensor), (seed, name)


def test_what_lay_between_weights_before_is_no_nan_of_the_next(world, tmp_path):
    slot, skeletons = HostBuffer(), Skeletons()
    state = load_file(world.suspect("honest-2").path)
    nan = {k: v * torch.nan if v.is_floating_point() else v for k, v in state.items()}
    save_file(nan, tmp_path / "nan.safetensors")
    for path, arch in ((tmp_path / "nan.safetensors", RESIDUAL), (Path(world.suspects[0].path), MLP)):
        found = read_checkpoint(Entry(str(path), arch), slot, skeletons.shapes)
    assert found.flat is not None and bool(torch.isfinite(found.flat).all())
