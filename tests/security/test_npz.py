"""Arrays of numpy: what fits comes back bit for bit, the rest is one typed line, and nothing is unpickled."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uapfast.errors import (
    CorruptFileError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedFileError,
    WeightsFileError,
)
from uapfast.safeload import Limits, open_checkpoint

TYPES = "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64".split()


def put(folder: Path, *records: tuple[str, bytes], name: str = "w.npz") -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for record, content in records:
            archive.writestr(record, content)
    return folder / name


def array(value: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, value, allow_pickle=True)
    return out.getvalue()


def head(text: str, body: bytes = b"", version: bytes = b"\1\0") -> bytes:
    wide = 2 if version == b"\1\0" else 4
    size = -(8 + wide + len(text) + 1) % 64 + len(text) + 1
    return (
        b"\x93NUMPY" + version + size.to_bytes(wide, "little") + text.ljust(size - 1).encode() + b"\n" + body
    )


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_and_order_comes_back(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for shape in ((), (3,), (2, 3, 4), (0, 5), (1,) * 6):
        value = np.asarray(rng.integers(0, 2, shape)).astype(dtype)
        arrays[f"c{len(shape)}.{value.size}"] = value
        arrays[f"f{len(shape)}.{value.size}"] = np.asfortranarray(value)
    np.savez(tmp_path / "w.npz", **arrays)
    with open_checkpoint(tmp_path / "w.npz") as found:
        assert set(found.tensors) == set(arrays) and found.kind == "zip" and found.tier != "header check"
        for name, value in arrays.items():
            assert np.array_equal(found.read(name), value) and found.tensors[name].shape == value.shape


def test_headers_of_other_versions(tmp_path: Path) -> None:
    body = np.arange(3, dtype=np.float32).tobytes()
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"
    records = [(f"v{v[0]}.npy", head(text, body, v)) for v in (b"\1\0", b"\2\0", b"\3\0")]
    with open_checkpoint(put(tmp_path, *records)) as found:
        assert [found.read(name).tolist() for name in found.tensors] == [[0, 1, 2]] * 3


class Danger:
    def __reduce__(self) -> Any:
        return (open, ("/nonexistent/uapfast", "w"))


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"
BAD: dict[str, tuple[type[WeightsFileError], str, bytes]] = {
    "objects": (UnsafeFileError, "objects in array a", array(np.array([Danger()], dtype=object))),
    "text": (UnsupportedFileError, "<U3.* for array a", array(np.array(["abc"]))),
    "complex": (UnsupportedFileError, "<c8", array(np.zeros(2, np.complex64))),
    "big-endian": (UnsupportedFileError, ">f4", array(np.zeros(2, ">f4"))),
    "fields": (UnsupportedFileError, "descr", array(np.zeros(2, [("x", "<f4")]))),
    "times": (UnsupportedFileError, "M8", array(np.zeros(2, "<M8[s]"))),
    "raw bytes": (UnsupportedFileError, "V2", array(np.zeros(2, "V2"))),
    "no array": (CorruptFileError, "no array of numpy", b"hello"),
    "empty": (CorruptFileError, "no array of numpy", b""),
    "version 4": (CorruptFileError, "no array", head(GOOD % "1,", b"\0" * 4, b"\4\0")),
    "a program": (UnsupportedFileError, "__import__", head("{'descr': __import__('os').system('true')}")),
    "short": (CorruptFileError, "4 bytes for array a of 12", head(GOOD % "3,", b"\0" * 4)),
    "long": (CorruptFileError, "16 bytes for array a of 12", head(GOOD % "3,", b"\0" * 16)),
    "cut in the header": (CorruptFileError, "a header of", head(GOOD % "3,")[:20]),
    "negative": (UnsupportedFileError, "for array a", head(GOOD % "-3,", b"\0" * 12)),
    "absurd": (TooLargeError, "tensors of at most", head(GOOD % "4611686018427387904,")),
    "absurd behind a zero": (TooLargeError, "tensors of at most", head(GOOD % "0, 4611686018427387904")),
    "65 dimensions": (TooLargeError, "dimensions", head(GOOD % ", ".join(["1"] * 65), b"\0" * 4)),
    "a header of 64 KiB": (CorruptFileError, "a header of", head((GOOD % "3,").ljust(60_000), b"\0" * 12)),
    "off its place": (
        UnsupportedFileError,
        "multiple of their items",
        b"\x93NUMPY\1\0" + (75).to_bytes(2, "little") + (GOOD % "1,").ljust(74).encode() + b"\n" + b"\0" * 4,
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays(tmp_path: Path, case: str) -> None:
    error, said, content = BAD[case]
    with pytest.raises(error, match=said) as caught:
        open_checkpoint(put(tmp_path, ("a.npy", content), ("b.npy", array(np.ones(2)))))
    assert type(caught.value) is error and str(caught.value).isprintable() and len(str(caught.value)) < 800


def test_limits_hold(tmp_path: Path) -> None:
    many = [(f"{i}.npy", array(np.float32(i))) for i in range(4)]
    open_checkpoint(put(tmp_path, *many), Limits(tensors=4)).close()
    with pytest.raises(TooLargeError, match="at most 3 tensors"):
        open_checkpoint(put(tmp_path, *many), Limits(tensors=3))
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(100 << 20, np.uint8))
    with pytest.raises(TooLargeError, match=r"grow at most 100-fold"):
        open_checkpoint(tmp_path / "w.npz")
    with open_checkpoint(put(tmp_path, ("a.npy", array(np.array([True, False]))[:-2] + b"\7\0"))) as found:
        with pytest.raises(CorruptFileError, match="neither 0 nor 1"):
            found.read("a")


def test_a_name_that_only_looks_like_an_archive_of_arrays(tmp_path: Path) -> None:
    mixed = put(tmp_path, ("a.npy", array(np.ones(2))), ("readme.txt", b"x"))
    with pytest.raises(UnsupportedFileError, match=r"a zip archive of a\.npy, readme\.txt"):
        open_checkpoint(mixed)
