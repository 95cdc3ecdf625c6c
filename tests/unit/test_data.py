"""Data specs: what is there comes back as it is; what cannot be used is refused by name."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uapfast.data import image_keys, load_data, make_dataset
from uapfast.errors import DataError

X = (np.arange(6 * 4 * 4) % 256).astype(np.uint8).reshape(6, 4, 4)
Y = np.array([0, 1, 2, 0, 1, 2])


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_npz_as_it_is(tmp_path: Path) -> None:
    data = load_data(npz(tmp_path / "a.npz", x=X, y=Y))
    assert data.images.dtype == torch.uint8 and data.images.shape == (6, 1, 4, 4) and data.classes == 3
    assert torch.equal(data.images[:, 0], torch.from_numpy(X)) and data.labels.dtype == torch.int64
    assert torch.equal(data.x(), torch.from_numpy(X[:, None] / np.float32(255)))
    part = data.subset(torch.tensor([1, 3]))
    assert len(part) == 2 and part.classes == 3 and torch.equal(part.x(), data.x(torch.tensor([1, 3])))
    assert part.sha256 != data.sha256 == load_data(str(tmp_path / "a.npz")).sha256
    colour = np.random.default_rng(0).random((6, 3, 5, 4)).astype(np.float64)
    float_data = load_data(npz(tmp_path / "b.npz", x=colour, y=Y.astype(np.uint8)))
    assert float_data.images.dtype == torch.float32
    assert torch.equal(float_data.x(), torch.from_numpy(colour.astype(np.float32)))


def test_images_are_known_again_whatever_their_type() -> None:
    x = np.random.default_rng(0).integers(0, 256, (70, 1, 4, 4), dtype=np.uint8)
    y = np.arange(70) % 2
    own, same = make_dataset(x, y, "u"), make_dataset(x.astype(np.float32) / 255, y, "f")
    (sha256, keys), (other, again) = own.read(), same.read()
    assert sha256 == own.sha256 != other == same.sha256
    assert (
        keys.tolist() == again.tolist() == image_keys(own.images).tolist() and len(set(keys.tolist())) == 70
    )
    assert image_keys(torch.from_numpy(255 - x[:1])).tolist() != keys[:1].tolist()


def test_hash_sees_shape_type_and_labels() -> None:
    a = make_dataset(X, Y, "a")
    others = [
        make_dataset(X.reshape(6, 2, 8), Y, "a"),
        make_dataset((X / np.float32(255)).astype(np.float32), Y, "a"),
        make_dataset(X, Y[::-1], "a"),
    ]
    assert a.sha256 not in {o.sha256 for o in others} and make_dataset(X, Y, "b").sha256 == a.sha256


F = (X / np.float32(255)).astype(np.float32)
BAD_ARRAYS = {
    "floats of 0..255": (X.astype(np.float32), Y, r"x of d must be in 0..1, got 0\.\.95 \(divide by 255\?\)"),
    "normalised": (F * 4 - 2, Y, r"in 0\.\.1, got -2\.\..*normalisation belongs into the model"),
    "just above one": (F + 0.7, Y, r"got 0\.7\.\.1\.07"),
    "nan": (np.where(F > 0.3, np.nan, F), Y, "finite, got NaN"),
    "float64 beyond float32": (F.astype(np.float64) + 1e300, Y, r"in 0\.\.1, got 1e\+300"),
    "int64": (X.astype(np.int64), Y, r"uint8, or float in 0\.\.1, got int64"),
    "bool": (X > 3, Y, "got bool"),
    "words": (np.full((6, 4, 4), "a"), Y, "an array of numbers, got ndarray"),
    "two axes": (X[0], Y, r"not empty, got \[4, 4\]"),
    "five axes": (X[:, None, None], Y, r"got \[6, 1, 1, 4, 4\]"),
    "no images": (X[:0], Y[:0], r"not empty, got \[0, 1, 4, 4\]"),
    "empty images": (X[:, :0], Y, r"not empty, got \[6, 1, 0, 4\]"),
    "fewer labels": (X, Y[:5], r"y of d must be \[6\], one label per image, got \[5\]"),
    "column of labels": (X, Y[:, None], r"got \[6, 1\]"),
    "float labels": (X, Y.astype(np.float32), "integers, got float32"),
    "one-hot labels": (X, np.eye(3)[Y], r"got \[6, 3\]"),
    "negative labels": (X, Y - 1, r"got -1\.\.1"),
    "wild labels": (X, Y * 10**9, "got 0..2000000000"),
    "one class": (X, Y * 0 + 1, "at least 2 classes, got only class 1"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_cannot_be_used(name: str) -> None:
    x, y, said = BAD_ARRAYS[name]
    with pytest.raises(DataError, match=said):
        make_dataset(x, y, "d")


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.float32, np.float64, np.int16]),
        hnp.array_shapes(min_dims=0, max_dims=5, max_side=4),
    ),
    hnp.arrays(st.sampled_from([np.int64, np.uint8, np.float32]), hnp.array_shapes(min_dims=0, max_dims=2)),
)
@settings(deadline=None, max_examples=300)
def test_any_arrays_give_a_sound_data_set_or_a_data_error(x: np.ndarray, y: np.ndarray) -> None:
    try:
        data = make_dataset(x, y, "d")
    except DataError:
        return
    assert data.x().dtype == torch.float32 and float(data.x().min()) >= 0 and float(data.x().max()) <= 1
    assert len(data.x()) == len(data.labels) == len(x) and 0 <= int(data.labels.min())
    assert int(data.labels.max()) == data.classes - 1 and data.classes >= 2


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "FILE.npz, fashion-mnist, digits.*got ''"),
        (None, "got None"),
        ("cifar10", "got 'cifar10'"),
        ("data.csv", "got 'data.csv'"),
        ("digits:valid", "digits:train or digits:test, got 'digits:valid'"),
        ("none.npz", "an existing file, got none.npz"),
        ("\0.npz", "existing file|FILE.npz"),
    ],
)
def test_specs_that_name_nothing(
    spec: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=said):
        load_data(spec)


def test_npz_without_the_arrays(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"with arrays x and y .*got images, y"):
        load_data(npz(tmp_path / "a.npz", images=X, y=Y))
    with pytest.raises(DataError, match="plain arrays"):
        load_data(npz(tmp_path / "b.npz", x=np.array([None] * 6, dtype=object), y=Y))
    (tmp_path / "c.npz").write_bytes(b"")
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04")
    np.save(tmp_path / "e.npy", X)
    (tmp_path / "e.npy").rename(tmp_path / "e.npz")
    for name in "cde":
        with pytest.raises(DataError, match=rf"a whole \.npz .*{name}\.npz|arrays x and y"):
            load_data(str(tmp_path / f"{name}.npz"))


@given(st.data())
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_npz_never_raise_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "z.npz"
    np.savez_compressed(path, x=X, y=Y)
    blob = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(
        bytes(blob[: data.draw(st.integers(0, len(blob)))] if data.draw(st.booleans()) else blob)
    )
    try:
        load_data(str(path))
    except DataError as exc:
        assert len(str(exc)) < 800


def test_digits_and_their_halves() -> None:
    whole, train, test = (load_data(s) for s in ("digits", "digits:train", "digits:test"))
    assert whole.images.shape == (1797, 1, 8, 8) and whole.classes == 10
    assert 0 <= float(whole.x().min()) and float(whole.x().max()) == 1.0
    assert len(train) + len(test) == 1797
    counts = [torch.bincount(d.labels, minlength=10) for d in (train, test)]
    assert int((counts[0] - counts[1]).abs().max()) <= 1
    rows = [tuple(r.flatten().tolist()) for r in whole.x()]
    both = [tuple(r.flatten().tolist()) for d in (train, test) for r in d.x()]
    assert sorted(rows) == sorted(both)


def idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray, zipped: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        blob = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        name = f"{part}-{kind}-ubyte"
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(blob) if zipped else blob)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("sub", ["", "fashion-mnist"])
def test_idx_files_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, sub: str
) -> None:
    idx(tmp_path / sub, "train", X, Y.astype(np.uint8), zipped)
    idx(tmp_path / sub, "t10k", X[:2] + 1, Y[:2].astype(np.uint8), zipped)
    monkeypatch.setenv("UAPFAST_DATA", str(tmp_path))
    whole = load_data("fashion-mnist")
    assert len(whole) == 8 and torch.equal(whole.images[:6, 0], torch.from_numpy(X))
    assert torch.equal(load_data("fashion-mnist:train").labels, torch.from_numpy(Y))
    assert torch.equal(load_data("fashion-mnist:test").images[:, 0], torch.from_numpy(X[:2] + 1))


def test_missing_and_damaged_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uapfast.data.FASHION_FOLDER", str(tmp_path / "nowhere"))
    monkeypatch.delenv("UAPFAST_DATA", raising=False)
    with pytest.raises(DataError, match=r"dataset-fashion-mnist.*UAPFAST_DATA.*got no train-images.*nowhere"):
        load_data("fashion-mnist")
    monkeypatch.setenv("UAPFAST_DATA", str(tmp_path))
    idx(tmp_path, "train", X, Y.astype(np.uint8))
    file = tmp_path / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    plain = gzip.decompress(whole)
    for blob in (
        b"",
        whole[:20],
        whole[:-9],
        b"not gzip",
        gzip.compress(b""),
        gzip.compress(plain[:-1]),
        gzip.compress(plain + b"\0"),
        gzip.compress(b"\0\0\x0d" + plain[3:]),
        gzip.compress(b"\0\0\x08\xff" + b"\xff" * 80),
    ):
        file.write_bytes(blob)
        with pytest.raises(DataError, match="whole idx files"):
            load_data("fashion-mnist:train")


@pytest.mark.needs_fashion_mnist
def test_fashion_mnist_itself(fashion_mnist: Path) -> None:
    data = load_data("fashion-mnist:test")
    assert data.images.shape == (10_000, 1, 28, 28) and data.images.dtype == torch.uint8
    assert torch.bincount(data.labels).tolist() == [1000] * 10
