"""Which files of a hub folder are its weights, and which links are followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.hub_configs import TIMM, VIT
from uapfast.errors import ModelError
from uapfast.suspects.folder import open_folder
from uapfast.suspects.hub_files import CONFIG, file_in, hub_folder, read_json, weights_beside, weights_in


def write(folder: Path, *names: str, config: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(TIMM if config is None else config))
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def test_what_lies_beside_a_model_is_no_weights(tmp_path: Path) -> None:
    beside = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state_0.pth")
    folder = write(tmp_path, *beside, "net.bin")
    assert weights_in(folder).name == "net.bin"
    (folder / "net.bin").unlink()
    with pytest.raises(ModelError, match="none"):
        weights_in(folder)


def test_the_usual_name_is_taken_and_else_one_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, "a.bin", "b.pth")
    with pytest.raises(ModelError, match=r"2: a.bin, b.pth"):
        weights_in(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert weights_in(folder).name == "pytorch_model.bin"
    (folder / "model.safetensors").write_bytes(b"x")
    assert weights_in(folder).name == "model.safetensors"
    assert weights_in(folder, "a.bin").name == "a.bin", "the file that the configuration names"


def test_an_adapter_over_the_weights_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    folder = write(tmp_path, "model.safetensors", "adapter_model.safetensors", config=VIT)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="folder must be without adapter_config.json.*merge_and_unload"):
        open_folder(folder)


@pytest.mark.parametrize("named", ["../a.bin", "/etc/passwd", "training_args.bin", "a.py", 5, ".bin"])
def test_the_file_that_a_configuration_names_lies_in_the_folder(tmp_path: Path, named: Any) -> None:
    folder = write(tmp_path / "in", "training_args.bin", "a.py")
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(ModelError):
        weights_in(folder, named)


def test_of_weights_in_parts_the_index_is_taken(tmp_path: Path) -> None:
    parts = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    folder = write(tmp_path, *parts)
    with pytest.raises(ModelError, match=r"the index of its parts .* got model-00001-of-00002\S* without it"):
        weights_in(folder)
    for name in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
        (folder / name).write_text(json.dumps({"weight_map": {"a": parts[0], "b": parts[1]}}))
        assert weights_in(folder) == folder / name, "safetensors before pickles"
    assert weights_in(folder, "pytorch_model.bin.index.json").name == "pytorch_model.bin.index.json"
    assert weights_beside(folder, weights_in(folder)) == [], "its parts are no other weights"
    (folder / "other.bin").write_bytes(b"x")
    assert weights_beside(folder, weights_in(folder)) == ["other.bin"]
    (folder / "model.safetensors").write_bytes(b"x")
    assert weights_in(folder).name == "model.safetensors", "one whole file is simpler"


def cache(root: Path, revision: str = "abc") -> Path:
    """A hub's cache of one model."""
    snapshot, blobs = root / "snapshots" / revision, root / "blobs"
    write(root / "made", "model.safetensors")
    snapshot.mkdir(parents=True)
    blobs.mkdir(exist_ok=True)
    for number, name in enumerate((CONFIG, "model.safetensors")):
        (root / "made" / name).rename(blobs / f"{number:040x}")
        (snapshot / name).symlink_to(f"../../blobs/{number:040x}")
    (root / "made").rmdir()
    return snapshot


def test_links_of_a_hub_s_cache_are_followed(tmp_path: Path) -> None:
    snapshot = cache(tmp_path / "models--owner--net")
    assert hub_folder(tmp_path / "models--owner--net") == hub_folder(snapshot) == snapshot
    assert read_json(snapshot, CONFIG) == TIMM
    assert weights_in(snapshot).parent.name == "blobs"
    (tmp_path / "models--owner--net" / "snapshots" / "def").mkdir()
    with pytest.raises(ModelError, match="one snapshot"):
        hub_folder(tmp_path / "models--owner--net")


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../../outside", "../../blobs/../../outside", "../../blobs/link", "other"]
)
def test_other_links_are_not(tmp_path: Path, target: str) -> None:
    snapshot = cache(tmp_path / "models--owner--net")
    (tmp_path / "outside").write_text(json.dumps(TIMM))
    (snapshot / "other").write_text(json.dumps(TIMM))
    (tmp_path / "models--owner--net" / "blobs" / "link").symlink_to(tmp_path / "outside")
    (snapshot / CONFIG).unlink()
    (snapshot / CONFIG).symlink_to(target)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_json(snapshot, CONFIG)


def test_a_plain_folder_has_no_links(tmp_path: Path) -> None:
    folder = write(tmp_path / "net")
    (tmp_path / "blobs").mkdir()
    (folder / "model.safetensors").symlink_to("../../blobs/x")
    with pytest.raises(ModelError, match="hub's cache"):
        file_in(folder, "model.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        '{"a": 1e}',
        '{"a": ' + "9" * 9999 + "}",
    ],
)
def test_a_configuration_that_is_no_plain_object(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(ModelError, match=r"config\.json must be a JSON object"):
        read_json(tmp_path, CONFIG)
