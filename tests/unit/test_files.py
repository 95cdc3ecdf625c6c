from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from uapfast.errors import StorageError
from uapfast.files import atomic_path, require_writable, write_bytes, write_text


def test_a_failing_block_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "x.bin"
    write_bytes(target, b"old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_files_get_the_permissions_of_ordinary_ones(tmp_path):
    write_text(tmp_path / "a", "é")
    (tmp_path / "b").write_text("b")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "é"
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path, monkeypatch, fault):
    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=os.strerror(fault)):
        write_bytes(tmp_path / "x", b"0123456789")
    assert list(tmp_path.iterdir()) == []


def test_a_file_size_limit_of_the_system_leaves_nothing(tmp_path):
    """The real thing: the kernel refuses the write half-way."""
    code = (
        "import resource, sys\n"
        "from uapfast.errors import StorageError\n"
        "from uapfast.files import write_bytes\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    write_bytes(sys.argv[1], bytes(1 << 20))\n"
        "except StorageError as exc:\n    print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "must be writable" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [lambda p: write_bytes(p, b"x"), require_writable])
def test_impossible_places_are_named(tmp_path, write):
    with pytest.raises(StorageError, match="nowhere"):
        write(tmp_path / "nowhere" / "x")
    with pytest.raises(StorageError, match="file name"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_trying_a_place_keeps_what_is_there(tmp_path):
    (tmp_path / "x").write_text("kept")
    require_writable(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("kind", "mine"),
    [
        ("reference", b'\x40\0\0\0\0\0\0\0{"__metadata__":{"uapref":"{}"}}'),
        ("table", b"PAR1...PAR1"),
        ("embeddings", b"PK\x03\x04..."),
        ("page", b"<!DOCTYPE html>\n<html>"),
    ],
)
def test_a_result_takes_no_other_files_place(tmp_path, kind, mine):
    path = tmp_path / "x"
    require_writable(path, kind)  # new
    path.write_bytes(mine)
    require_writable(path, kind)  # made again
    for other in (b"weights", b'\x40\0\0\0\0\0\0\0{"w":{"dtype":"F32"}}'):
        path.write_bytes(other)
        with pytest.raises(StorageError, match=f"an earlier {kind}"):
            require_writable(path, kind)
        assert path.read_bytes() == other
