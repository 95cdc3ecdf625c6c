"""Manifests: what is written is read back; what is wrong is named with its line."""

from __future__ import annotations

import hashlib
import json
import string
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from uapfast.errors import ManifestError, ModelError, PoolError, StorageError
from uapfast.models.checkpoint import save_weights
from uapfast.pool.manifest import ManifestEntry, load_pool, read_manifest, write_manifest
from uapfast.pool.pool import Pool, PoolModel

FIXED = [HealthCheck.function_scoped_fixture]
NETS = """from torch import nn


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four models and the file of their architecture, in sub-folders."""
    (tmp_path / "models").mkdir()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "nets.py").write_text(NETS)
    for i, name in enumerate("abcd"):
        torch.manual_seed(i)
        module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        save_weights(module, tmp_path / "models" / f"{name}.safetensors")
    return tmp_path


def write(folder: Path, *lines: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


A, B, C, D = (f"models/{n}.safetensors,code/nets.py:make" for n in "abcd")
HEAD = "path,arch,name,relation,candidate"
GOOD = (HEAD, f"{A},v,victim,", f"{B},t,twin,", f"{C},p,piracy,t", f"{D},h,homologous,")


def test_a_pool_from_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, *GOOD)
    monkeypatch.chdir("/")
    pool = load_pool(path)
    assert pool.victim is not None and pool.victim.name == "v"
    assert [m.name for m in pool.twins] == ["t"] and [m.name for m in pool.homologous] == ["h"]
    assert [m.name for m in pool.piracy("t")] == ["p"] and pool.piracy("v") == ()
    assert pool.kinds == ("code/nets.py:make",), "without pool.json the architecture is the kind"
    assert len({m.model.sha256 for m in pool.models}) == 4
    assert pool.manifest_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "pool.json").write_text(json.dumps({"models": [{"name": "p", "kind": "soft"}]}))
    assert load_pool(path).kinds == ("soft",)


def test_two_columns_are_enough(folder: Path) -> None:
    entries = read_manifest(write(folder, "path,arch", A, "", B, "  ,  "))
    assert entries == [
        ManifestEntry("models/a.safetensors", "code/nets.py:make", "a"),
        ManifestEntry("models/b.safetensors", "code/nets.py:make", "b"),
    ]
    with pytest.raises(
        ManifestError, match="relation must be given for every model of a pool, got none for 'a'"
    ):
        load_pool(folder / "manifest.csv")


def test_spreadsheets_are_read(folder: Path) -> None:
    """A byte order mark, CRLF, quotes, columns in another order."""
    path = folder / "manifest.csv"
    text = '"relation",arch,path\r\ntwin, code/nets.py:make ,"models/a.safetensors"\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_manifest(path) == [ManifestEntry("models/a.safetensors", "code/nets.py:make", "a", "twin")]


WRONG = {
    "empty": ((), r"an empty one"),
    "blank": (("", "  "), r"an empty one"),
    "no header": ((A,), r"with a column 'path'"),
    "no arch": (("path,name", "a,b"), r"with a column 'arch', got path,name"),
    "unknown column": (("path,arch,colour", f"{A},red"), r"columns path,arch,.* only, got 'colour'"),
    "column twice": (("path,arch,path", f"{A},x"), r"every column once, got path,arch,path"),
    "missing file": (
        ("path,arch", A, "models/z.safetensors,code/nets.py:make"),
        r"got models/z\.safetensors \(line 3",
    ),
    "a folder": (("path,arch", "models,code/nets.py:make"), r"of existing files, got models \(line 2"),
    "short line": (("path,arch", "models/a.safetensors"), "of 2 fields on every line, got 1 on line 2"),
    "long line": (("path,arch", "", f"{A},x"), "of 2 fields on every line, got 3 on line 3"),
    "no path": (("path,arch", ",uapfast:cnn-small"), r"an empty field \(line 2"),
    "no spec": (("path,arch", "models/a.safetensors,"), r"an empty field \(line 2"),
    "unknown relation": (
        (HEAD, f"{A},a,thief,"),
        r"relation must be one of victim, twin, .*got 'thief' \(line 2",
    ),
    "capital relation": ((HEAD, f"{A},a,Twin,"), r"got 'Twin'"),
    "name twice": ((HEAD, f"{A},x,twin,", f"{B},x,twin,"), r"name must be of distinct names, got 'x' twice"),
    "stem twice": (("path,arch", A, A), r"'a' twice"),
    "two victims": ((HEAD, f"{A},a,victim,", f"{B},b,victim,"), r"at most one victim, got a, b"),
    "piracy of nobody": ((HEAD, f"{A},a,piracy,"), r"candidate must be the name of .*got None for 'a'"),
    "piracy of unknown": ((HEAD, f"{A},a,piracy,twin-7"), r"got 'twin-7' for 'a'"),
    "piracy of an innocent": ((HEAD, f"{A},h,homologous,", f"{B},b,piracy,h"), r"got 'h' for 'b'"),
    "piracy of another victim": ((HEAD, f"{A},v,victim,", f"{B},b,piracy,victim"), r"got 'victim' for 'b'"),
    "victim unnamed": (
        (HEAD, f"{A},a,piracy,v"),
        r"victim \('victim', since no line has that relation\) or of a twin for .*got 'v' for 'a'",
    ),
    "victim by its relation": (
        (HEAD, f"{A},v,victim,", f"{B},b,piracy,victim"),
        r"the name of the victim \('v'\) or of a twin",
    ),
    "mean alone": (
        ("path,arch,mean", f"{A},0.5"),
        r"mean and std must be given together, .*got \(0.5,\) and",
    ),
    "other lengths": (("path,arch,mean,std", f"{A},0.5 0.5,0.2"), r"one value per channel, got .* \(line 2"),
    "std of 0": (("path,arch,mean,std", f"{A},0.5,0"), r"std must be above 0, got '0' \(line 2"),
    "mean in words": (
        ("path,arch,mean,std", f"{A},half,0.2"),
        r"mean must be finite numbers .*got 'half' \(line 2",
    ),
    "two ancestors": (
        (HEAD, f"{A},a,ancestor,", f"{B},b,ancestor,"),
        "ancestor must be at most one model, got a, b",
    ),
    "parent of nobody": (
        (HEAD + ",parent", f"{A},a,twin,,z"),
        "parent of a must be the name of another model of the pool .* got 'z'",
    ),
    "an innocent copy": (
        (HEAD + ",parent", f"{A},v,victim,,", f"{B},h,homologous,,v"),
        "parent of h must be one that was made without the victim for a homologous model .*got h <- v",
    ),
    "candidate of a twin": (
        (HEAD, f"{A},a,twin,victim"),
        r"for piracy models only, got 'victim' for twin \(line 2",
    ),
    "open quote": (("path,arch", f'"{A}'), "a CSV file in UTF-8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(folder: Path, name: str) -> None:
    lines, said = WRONG[name]
    with pytest.raises(ManifestError, match=said):
        load_pool(write(folder, *lines))


def test_preprocessing_parents_and_an_ancestor_are_read(folder: Path) -> None:
    """Numbers with blanks, or with commas in quotes, as on the command line."""
    head = "path,arch,name,relation,mean,std,parent"
    path = write(
        folder,
        head,
        f"{A},v,victim,0.5 0.25,0.2;0.1,old",
        f'{B},t,twin,"0.5,0.25","0.2, 0.1",checkpoint',
        f"{C},old,ancestor,,,",
        f"{D},h,homologous,,,old",
    )
    found = {e.name: e for e in read_manifest(path)}
    assert (found["v"].mean, found["v"].std) == (found["t"].mean, found["t"].std) == ((0.5, 0.25), (0.2, 0.1))
    pool = load_pool(path)
    assert {m.name: m.parent for m in pool.models} == {"v": "old", "t": "checkpoint", "old": None, "h": "old"}
    assert pool.ancestor is not None and pool.ancestor.name == "old" and pool.homologous[0].parent == "old"
    assert pool.victim is not None and pool.homologous[0].model.preprocessing is None
    found = pool.victim.model.preprocessing or {}
    mean, std = found["mean"], found["std"]
    assert (mean, std) == (pytest.approx([0.5, 0.25]), pytest.approx([0.2, 0.1]))


def test_the_victim_need_not_be_listed(folder: Path) -> None:
    pool = load_pool(write(folder, HEAD, f"{B},t,twin,", f"{C},p,piracy,victim"))
    assert pool.victim is None and [m.name for m in pool.piracy("victim")] == ["p"]


def test_unreadable_manifests(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"No such file .*none\.csv"):
        read_manifest(folder / "none.csv")
    with pytest.raises(ManifestError, match="a readable CSV file"):
        read_manifest(folder)
    with pytest.raises(ManifestError, match=r"a file name, got 'a\\x00b'"):
        read_manifest("a\0b")
    (folder / "latin.csv").write_bytes("path,arch\nä.pt,x\n".encode("latin-1"))
    with pytest.raises(ManifestError, match="UTF-8"):
        read_manifest(folder / "latin.csv")


def test_models_that_cannot_be_used(folder: Path) -> None:
    path = write(folder, *GOOD)
    bad = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        bad[1].bias[1] = float("nan")
    save_weights(bad, folder / "models" / "b.safetensors")
    with pytest.raises(PoolError, match="weights of t must be finite, got NaN"):
        load_pool(path)
    save_weights(nn.Linear(4, 3), folder / "models" / "b.safetensors")
    with pytest.raises(ModelError, match=r"missing: 1\.bias, 1\.weight; unexpected: bias, weight"):
        load_pool(path)
    (folder / "pool.json").write_text('{"models": [{"name": 3}]}')
    with pytest.raises(ManifestError, match="beside a whole pool.json, got KeyError"):
        load_pool(path)


TEXT = st.text(string.ascii_letters + string.digits + " ,;'\"äé-_.?=&#|", min_size=1, max_size=12).map(
    str.strip
)
NUMBERS = st.floats(1e-6, 10, allow_subnormal=False)
NAMES = TEXT.filter(lambda s: s not in ("", ".", "..") and len(s.encode()) < 40)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=8, unique_by=lambda t: t[0]), st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=FIXED)
def test_round_trip(tmp_path: Path, rows: list[tuple[str, str]], data: st.DataObject) -> None:
    entries = []
    for i, (name, arch) in enumerate(rows):
        relation = data.draw(st.sampled_from([None, "twin", "homologous", "piracy"]))
        count = data.draw(st.integers(0, 3))
        mean, std = (
            tuple(data.draw(st.lists(NUMBERS, min_size=count, max_size=count))) or None for _ in "ms"
        )
        parent = data.draw(st.sampled_from([None, "ancestor"]))
        source = "victim" if relation == "piracy" else None
        entries.append(ManifestEntry(f"f{i}.pt", arch, name, relation, source, mean, std, parent))
        (tmp_path / f"f{i}.pt").touch()
    write_manifest(tmp_path / "m.csv", entries)
    assert read_manifest(tmp_path / "m.csv") == entries


@given(st.one_of(st.binary(max_size=200), st.text('path,arch\n\r" twinpiracy', max_size=80).map(str.encode)))
@settings(deadline=None, max_examples=200, suppress_health_check=FIXED)
def test_any_bytes_give_entries_or_a_manifest_error(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "any.csv").write_bytes(blob)
    try:
        read_manifest(tmp_path / "any.csv")
    except ManifestError as exc:
        assert exc.where == "manifest"


def test_what_would_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    for name in (" a", "a\n", "a\rb", "\ud800"):
        with pytest.raises(ManifestError, match="name must be free of surrounding blanks"):
            write_manifest(tmp_path / "m.csv", [ManifestEntry("f.pt", "x:y", name)])
    assert not (tmp_path / "m.csv").exists()
    with pytest.raises(StorageError, match="folder must be an existing one"):
        write_manifest(tmp_path / "none" / "m.csv", [ManifestEntry("f.pt", "x:y", "a")])


def test_pools_in_memory() -> None:
    def net(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

    pool = Pool.from_models(
        twins=[net(0), net(1)],
        piracy={"victim": [net(2), net(3)], "twin-01": [net(4)]},
        homologous=[lambda x: x.flatten(1)],
    )
    assert [m.name for m in pool.twins] == ["twin-00", "twin-01"]
    assert [m.name for m in pool.piracy("twin-01")] == ["piracy-twin-01-00"]
    assert pool.kinds == ("kind-00", "kind-01") and pool.homologous[0].model.module is None
    assert Pool(()).kinds == () and Pool(()).victim is None
    with pytest.raises(PoolError, match="the victim or a twin, got 'twin-02'"):
        Pool.from_models(twins=[net(0)], piracy={"twin-02": [net(1)]})
    model = pool.twins[0].model
    for rows, said in (
        ([PoolModel("a", "twin", None, "k", model)] * 2, "'a' twice"),
        ([PoolModel("a", "thief", None, "k", model)], "'thief'"),
        ([PoolModel(n, "victim", None, "k", model) for n in "ab"], "at most one model"),
        (
            [PoolModel("a", "victim", None, "k", model), PoolModel("b", "piracy", "victim", "k", model)],
            "got 'victim'",
        ),
    ):
        with pytest.raises(PoolError, match=said):
            Pool(tuple(rows))
