"""Manifests and folders as lists of suspects, and what bad ones get."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from uapfast.errors import InputError, ManifestError
from uapfast.screening.listing.collection import Skipped, from_folder
from uapfast.screening.listing.entry import Defaults, Entry, as_specs
from uapfast.screening.listing.manifest import from_manifest
from uapfast.screening.listing.sources import as_entries

NET = "uapfast:mlp-small?size=8"
ONE = Defaults((NET,))


def manifest(folder: Path, text: str) -> Path:
    path = folder / "m.csv"
    path.write_text(text)
    return path


def test_a_manifest_names_files_relative_to_itself(tmp_path):
    header, first = "path,arch,name,mean,std,output", f"a.pt,{NET},first,0.5 0.4 0.3,1;1;2,logits"
    text = f"{header}\n{first}\n\nb/c.safetensors,{NET},,,,\n"
    first, second = from_manifest(manifest(tmp_path, text))
    assert (first.name, first.path, first.mean, first.std) == (
        "first", str(tmp_path / "a.pt"), (0.5, 0.4, 0.3), (1.0, 1.0, 2.0),
    )  # fmt: skip
    assert first.output == "logits" and second.output == "auto" and second.mean is None
    assert second.name == "b/c.safetensors"


def test_lines_without_their_own_take_the_arguments(tmp_path):
    text = f"path,arch,mean,std\na.pt,,,\nb.pt,{NET},1,2\n"
    first, second = from_manifest(manifest(tmp_path, text), Defaults(("uapfast:cnn-small",), (0.1,), (0.2,)))
    assert (first.arch, first.mean, first.std) == ("uapfast:cnn-small", (0.1,), (0.2,))
    assert (second.arch, second.mean, second.std) == (NET, (1.0,), (2.0,))


def test_a_pool_manifest_can_be_screened(tmp_path):
    (found,) = from_manifest(manifest(tmp_path, f"path,arch,relation,candidate\na.pt,{NET},piracy,victim\n"))
    assert found.arch == NET


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "an empty one"),
        ("path,arch\n", "none"),
        ("name,arch\nx,y\n", "'path'"),
        ("path\nx\n", "'arch'"),
        ("path,arch,colour\nx,y,z\n", "'colour'"),
        ("path,path,arch\nx,x,y\n", "every column once"),
        (f"path,arch\nx,{NET},z\n", "3 on line 2"),
        (f"path,arch\n,{NET}\n", "line 2"),
        ("path,arch\nx,\n", "line 2"),
        (f"path,arch,output\nx,{NET},words\n", "'words'"),
        (f"path,arch,mean\nx,{NET},blue\n", "'blue'"),
        (f"path,arch,mean\nx,{NET},nan\n", "'nan'"),
        ('path,arch\n"x,y\n', "CSV"),
        ("path,arch\nx,evil.py:make\n", "'evil.py:make'"),
    ],
)
def test_bad_manifests_are_named(tmp_path, text, told):
    with pytest.raises(ManifestError, match="screen: .* must be") as caught:
        list(from_manifest(manifest(tmp_path, text)))
    assert told in str(caught.value)


def test_a_manifest_that_is_missing_or_binary(tmp_path):
    with pytest.raises(ManifestError, match="readable"):
        list(from_manifest(tmp_path / "none.csv"))
    (tmp_path / "b.csv").write_bytes(b"path,arch\n\xff\xfe,x\n")
    with pytest.raises(ManifestError, match="UTF-8"):
        list(from_manifest(tmp_path / "b.csv"))


def test_a_manifest_runs_no_file_but_the_one_the_user_named(tmp_path):
    """A manifest may come with the files that nobody trusts."""
    path = manifest(tmp_path, "path,arch\na.pt,net.py:other\n")
    (tmp_path / "net.py").write_text("")
    (found,) = from_manifest(path, Defaults((f"{tmp_path / 'net.py'}:make",)))
    assert found.arch == "net.py:other" and found.base == str(tmp_path.resolve())
    (tmp_path / "elsewhere.py").write_text("")
    with pytest.raises(ManifestError, match="net.py:other"):
        list(from_manifest(path, Defaults((f"{tmp_path / 'elsewhere.py'}:make",))))


def test_a_folder_is_searched_for_what_looks_like_a_model(tmp_path):
    for name in ("b.pt", "a.safetensors", "notes.txt", "sub/deep.BIN", "sub/refused.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.symlink(tmp_path, tmp_path / "sub" / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "dangling.pt")
    names = [s.name for s in from_folder(tmp_path, ONE)]
    assert names == ["a.safetensors", "b.pt", "dangling.pt", "sub/deep.BIN", "sub/refused.h5"]


def test_models_are_known_by_their_first_bytes_and_what_is_skipped_is_named(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "zip.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for i, kind in enumerate(("a.safetensors", "zip.pt", "old.pt")):
        for name in (f"blob{i}", f"step.{i}000", f"hidden-{i}.txt"):
            shutil.copy(tmp_path / kind, tmp_path / name)
    for name in ("best.pth.tar", "old.th", "OTHER.PTH.TAR"):
        (tmp_path / name).touch()
    with zipfile.ZipFile(tmp_path / "notes.docx", "w") as archive:
        archive.writestr("word/document.xml", "text")
    (tmp_path / "empty").touch()
    for i in range(6):
        (tmp_path / f"log{i}.txt").write_text('{"a": 1}' * 9)
    os.mkfifo(tmp_path / "pipe")
    skipped = Skipped()
    names = {s.name for s in from_folder(tmp_path, ONE, skipped=skipped)}
    kept = {"a.safetensors", "zip.pt", "old.pt", "best.pth.tar", "old.th", "OTHER.PTH.TAR"}
    assert names == kept | {f"blob{i}" for i in range(3)} | {f"step.{i}000" for i in range(3)} | {
        f"hidden-{i}.txt" for i in range(3)
    }
    assert skipped.count == 9 and skipped.names == ["empty", "log0.txt", "log1.txt", "log2.txt", "log3.txt"]
    assert str(skipped) == "9 (empty, log0.txt, log1.txt, log2.txt, log3.txt, ...)" and str(Skipped()) == "0"


def test_a_folder_without_models(tmp_path):
    (tmp_path / "notes.txt").touch()
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="--dir must be"):
            list(from_folder(place, ONE))
    with pytest.raises(InputError, match=r"1 \(notes.txt\) other files"):
        list(from_folder(tmp_path, ONE))


def test_names_that_are_no_text_survive(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\n.pt"
    open(path, "wb").close()
    (found,) = from_folder(tmp_path, ONE)
    assert found.name == "\\udcff\\n.pt"
    again = Entry.from_json(found.to_json())
    assert again == found and os.path.exists(again.path) and again.stamp() != "-"
    found.shown.encode()


def test_keys_tell_files_and_networks_apart(tmp_path):
    a = Entry(str(tmp_path / "a.pt"), NET)
    assert a.identity == Entry(str(tmp_path / "." / "a.pt"), NET, "another name").identity
    assert a.identity != Entry(str(tmp_path / "b.pt"), NET).identity
    for other in (Entry(a.path, "uapfast:cnn-small"), Entry(a.path, NET, mean=(0.5,), std=(1.0,))):
        assert a.identity != other.identity and a.network != other.network
    assert Entry(a.path, "n.py:f", base="/x").network != Entry(a.path, "n.py:f", base="/y").network


def test_a_stamp_changes_with_the_file(tmp_path):
    path = tmp_path / "a.pt"
    suspect = Entry(str(path), NET)
    assert suspect.stamp() == "-"
    path.write_bytes(b"1")
    first = suspect.stamp()
    path.write_bytes(b"22")
    assert suspect.stamp() not in (first, "-")
    assert Entry("nul\0byte", NET).stamp() == "-"


def test_what_callers_may_give(tmp_path):
    own = Entry("x.pt", NET)
    assert list(as_entries([own, "y.pt", Path("z.pt")], ONE))[0] is own
    (tmp_path / "a.pt").touch()
    assert [s.name for s in as_entries(tmp_path, ONE)] == ["a.pt"]
    for bad, arch in ((["y.pt"], None), (7, NET), ([7], NET), ([""], NET)):
        with pytest.raises(InputError, match="screen"):
            list(as_entries(bad, Defaults(as_specs(arch))))
    with pytest.raises(InputError, match="output"):
        Entry("x.pt", NET, output="words")
