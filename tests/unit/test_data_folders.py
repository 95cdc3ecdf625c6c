"""Folders of pictures: modes, bits, classes, framing, and what is refused."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uapfast.data import Framing, ImageFiles, load_data
from uapfast.errors import DataError, DataWarning, MissingDependency


def picture(path: Path, mode: str, size: tuple[int, int], value: int) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = {"L": value, "RGB": (value, 0, 9), "RGBA": (value, 0, 9, 255), "P": value, "1": value % 2}[mode]
    image.new(mode, size, colour).save(path)


def test_folder_of_class_folders(tmp_path: Path) -> None:
    for label, name in enumerate(("ankle", "boot", "coat")):
        for i in range(2):
            picture(tmp_path / name / f"{i}.png", "RGB", (5, 4), 10 * label + i)
    (tmp_path / "ankle" / "notes.txt").write_text("not an image")
    data = load_data(str(tmp_path))
    assert data.images.shape == (6, 3, 4, 5) and data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 10, 11, 20, 21]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("RGBA", 3), ("P", 3)])
def test_modes_of_images(tmp_path: Path, mode: str, channels: int) -> None:
    for name in ("a", "b"):
        picture(tmp_path / name / "0.png", mode, (3, 3), 7)
    assert load_data(str(tmp_path)).images.shape == (2, channels, 3, 3)


def save(folder: Path, image: Any, name: str = "0.png", **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **settings)
    return folder / name


def two(folder: Path, image: Any, name: str = "0.png", **settings: Any) -> torch.Tensor:
    """The first image of a folder that holds a picture in each of two classes."""
    for label in ("a", "b"):
        save(folder / label, image, name, **settings)
    return load_data(str(folder)).x()[0]


RAMP = np.array([[0, 1, 255, 256], [257, 32767, 65534, 65535]], dtype=np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bits_keep_their_scale(tmp_path: Path, suffix: str) -> None:
    image = pytest.importorskip("PIL.Image")
    found = two(tmp_path, image.fromarray(RAMP), f"0{suffix}")
    assert found.shape == (1, 2, 4) and torch.equal(
        found[0], torch.from_numpy((RAMP / 65535).astype(np.float32))
    )


def test_8_and_16_bits_beside_each_other(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    save(tmp_path / "a", image.new("L", (4, 2), 51))
    save(tmp_path / "b", image.fromarray(RAMP))
    x = load_data(str(tmp_path)).x()
    assert float(x[0, 0, 0, 0]) == pytest.approx(0.2) and float(x[1].max()) == 1.0


def test_floats_are_taken_within_0_and_1(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    right = np.array([[0.0, 0.25], [0.5, 1.0]], dtype=np.float32)
    assert torch.equal(two(tmp_path / "x", image.fromarray(right), "0.tif")[0], torch.from_numpy(right))
    with pytest.raises(DataError, match=r"mode F in 0\.\.1, got 0\.\.255: .*0\.tif"):
        two(tmp_path / "y", image.fromarray(right * 255), "0.tif")


def test_palette_and_cmyk_become_rgb(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    pixels[0, 0], pixels[1, 1] = (255, 0, 0), (0, 0, 255)
    rgb = image.fromarray(pixels)
    right = torch.from_numpy(pixels).permute(2, 0, 1) / 255.0
    assert torch.equal(two(tmp_path / "p", rgb.quantize(4)), right)
    assert torch.equal(two(tmp_path / "c", rgb.convert("CMYK"), "0.tif"), right)
    assert torch.equal(two(tmp_path / "g", rgb, "0.gif"), right)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_alpha_is_dropped_where_it_hides_nothing(tmp_path: Path, mode: str) -> None:
    image = pytest.importorskip("PIL.Image")
    solid = image.new("RGBA", (2, 2), (40, 40, 40, 255)).convert(mode)
    assert torch.unique(two(tmp_path / "solid", solid)).tolist() == pytest.approx([40 / 255])
    settings = {"transparency": solid.getpixel((0, 0))} if mode == "P" else {}
    if mode != "P":
        solid.putpixel((1, 1), (*solid.getpixel((1, 1))[:-1], 254))
    with pytest.raises(DataError, match=r"without transparency .*0\.png"):
        two(tmp_path / "clear", solid, **settings)


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = image.fromarray(np.array([[0, 50, 100], [150, 200, 250]], dtype=np.uint8))
    exif = image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    found = two(tmp_path, picture, exif=exif)
    assert (found[0] * 255).round().tolist() == [[150, 0], [200, 50], [250, 100]]


def test_several_frames_are_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    frames = [image.new("L", (3, 3), v) for v in (0, 90)]
    for suffix in (".gif", ".tif"):
        with pytest.raises(DataError, match=rf"of one frame, got 2 frames: .*0\{suffix}"):
            two(tmp_path / suffix[1:], frames[0], f"0{suffix}", save_all=True, append_images=frames[1:])


def test_dot_folders_and_dot_files_are_no_classes(tmp_path: Path) -> None:
    for label, name in enumerate((".ipynb_checkpoints", ".git", "ankle", "boot")):
        picture(tmp_path / name / "0.png", "L", (3, 3), label)
    (tmp_path / "ankle" / "._0.png").write_bytes(b"of a Mac")
    (tmp_path / "ankle" / ".ipynb_checkpoints").mkdir()
    data = load_data(str(tmp_path))
    assert data.labels.tolist() == [0, 1] and data.images[:, 0, 0, 0].tolist() == [2, 3]


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    for name in ("ankle", "boot"):
        picture(tmp_path / name / "0.png", "L", (3, 3), 1)
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "0.jp2").write_bytes(b"x")
    with pytest.raises(DataError, match="each with images .*got none in bag of"):
        load_data(str(tmp_path))


def test_grayscale_beside_colour_is_repeated_and_said(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "0.png", "L", (3, 3), 9)
    picture(tmp_path / "b" / "1.png", "RGB", (3, 3), 1)
    with pytest.warns(DataWarning, match=r"in grayscale among pictures in colour, .*0\.png$"):
        data = load_data(str(tmp_path))
    assert data.images.shape == (2, 3, 3, 3) and data.images[0].unique().tolist() == [9]


def test_train_and_val_are_to_be_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            picture(tmp_path / split / name / "0.png", "L", (3, 3), 1)
    with pytest.raises(DataError, match=r"one part of the data: .*train or .*val, got .* holds train, val"):
        load_data(str(tmp_path))
    assert len(load_data(str(tmp_path / "val"))) == 2


def photographs(folder: Path) -> None:
    """Two pictures of other sizes, bright on the left."""
    image = pytest.importorskip("PIL.Image")
    for name, (height, width) in (("a", (40, 60)), ("b", (90, 30))):
        values = np.zeros((height, width, 3), dtype=np.uint8)
        values[:, : width // 2] = 200
        save(folder / name, image.fromarray(values))


def test_photographs_are_resized_and_cut_as_torchvision_does(tmp_path: Path) -> None:
    photographs(tmp_path)
    with pytest.raises(
        DataError,
        match=r"of one size \[40, 60\].*such as --size 256 --crop 224\), got \[90, 30\]: .*b.0\.png",
    ):
        load_data(str(tmp_path))
    data = load_data(str(tmp_path), Framing((20,), (16, 16)))
    assert data.images.shape == (2, 3, 16, 16)
    assert data.images[:, 0, 8, 0].tolist() == [200, 200] and data.images[:, 0, 8, -1].tolist() == [0, 0]
    assert load_data(str(tmp_path), Framing((8, 12))).images.shape == (2, 3, 8, 12)
    with pytest.raises(DataError, match=r"at most the size of every picture, 90 x 30 of .*0\.png"):
        load_data(str(tmp_path), Framing(None, (32, 32)))
    with pytest.raises(DataError, match="for a folder of pictures only, got 'digits'"):
        load_data("digits", Framing((8,)))


@pytest.mark.parametrize(
    "wrong", [{"size": (0,)}, {"size": (1, 2, 3)}, {"crop": (5,)}, {"interpolation": "best"}]
)
def test_framings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        Framing(**wrong)


def test_what_does_not_fit_is_read_as_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(tmp_path)
    framing = Framing((20,), (16, 16))
    whole = load_data(str(tmp_path), framing)
    monkeypatch.setattr("uapfast.data.folder.HELD", 16 * 16 * 3)  # one of the two
    data = load_data(str(tmp_path), framing)
    assert isinstance(data.images, ImageFiles) and isinstance(whole.images, torch.Tensor)
    assert torch.equal(data.x(), whole.x()) and data.sha256 == whole.sha256
    assert len(data.images._held) == 1
    (tmp_path / "b" / "0.png").unlink()
    again = pickle.loads(pickle.dumps(data)).subset(torch.tensor([0]))
    assert torch.equal(again.x(), whole.x()[:1]) and len(again) == 1
    with pytest.raises(DataError, match=r"images that can be read .*, got .*b.0\.png"):
        data.x()


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder of class folders"):
        load_data(str(tmp_path))
    picture(tmp_path / "a" / "0.png", "L", (3, 3), 7)
    with pytest.raises(DataError, match="at least 2 classes, got only class 0"):
        load_data(str(tmp_path))
    picture(tmp_path / "b" / "big.png", "L", (3, 4), 7)
    with pytest.raises(DataError, match=r"one size \[3, 3\], as 0\.png has .*, got \[4, 3\]: .*big\.png"):
        load_data(str(tmp_path))
    (tmp_path / "b" / "big.png").write_bytes((tmp_path / "a" / "0.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"images that can be read .*, got .*big\.png"):
        load_data(str(tmp_path))


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependency, match="Pillow"):
        load_data(str(tmp_path))


def test_all_broken_pictures_are_told_at_once(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{i}.png")
    for name in ("a/1.png", "b/2.png"):  # cut off: the header is whole
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:1000])
    with pytest.raises(DataError, match=r"can be read .*a.1\.png \(\w+\), .*b.2\.png \(\w+\)$"):
        load_data(str(tmp_path))
    for i in range(5):
        (tmp_path / "b" / f"x{i}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a.1\.png .*x1\.png \(Uni\w+\) and 3 more$"):
        load_data(str(tmp_path))
