"""Models of hub folders with timm and transformers themselves, where they are installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.security import cases, fuzz_hub
from uapfast.errors import ModelError, SuspectError
from uapfast.suspects.folder import open_folder
from uapfast.testing import require


@pytest.fixture
def nothing_outside() -> Iterator[list[str]]:
    """What was asked of the network, or started, meanwhile."""
    with cases.nothing_outside() as seen:
        yield seen


@pytest.mark.needs("timm")
def test_timm_s_own_folder(tmp_path: Path, nothing_outside: list[str]) -> None:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=5).eval()
    save_for_hf(network, str(tmp_path), model_config={"label_names": list("abcde")}, safe_serialization=True)
    model, x = open_folder(tmp_path), torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(model.answers(x).values, network((x - 0.5) / 0.5).detach())
    assert model.class_names == tuple("abcde") and model.preparation.size == (160, 160)
    assert not nothing_outside


def vit_folder(folder: Path) -> Any:
    import transformers

    torch.manual_seed(0)
    settings = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16,
        patch_size=8, id2label={0: "ant", 1: "bee", 2: "cat"}, label2id={"ant": 0, "bee": 1, "cat": 2},
    )  # fmt: skip
    network = transformers.ViTForImageClassification(settings).eval()
    network.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return network


@pytest.mark.needs("transformers")
def test_transformers_own_folder(tmp_path: Path, nothing_outside: list[str]) -> None:
    import transformers

    network = vit_folder(tmp_path)
    model, x = open_folder(tmp_path), (torch.rand(2, 3, 16, 16) * 255).round() / 255
    assert model.class_names == ("ant", "bee", "cat")
    torch.testing.assert_close(model.answers(x).values, network((x - 0.5) / 0.5).logits.detach())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    for size in (16, 11):
        given = (torch.rand(2, 3, size, size) * 255).round().to(torch.uint8)
        theirs = network(**processor(list(given), return_tensors="pt")).logits.detach()
        torch.testing.assert_close(model.answers(given / 255).values, theirs, atol=5e-3, rtol=0)
    assert not nothing_outside


@pytest.mark.needs("transformers")
def test_transformers_own_parts(tmp_path: Path, nothing_outside: list[str]) -> None:
    """A folder that transformers itself wrote in parts is the folder that it wrote in one file."""
    network = vit_folder(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "parts")
    (tmp_path / "parts" / "model.safetensors").unlink()
    network.save_pretrained(tmp_path / "parts", max_shard_size="4KB")
    assert len(list((tmp_path / "parts").glob("model-*-of-*.safetensors"))) > 1
    one, parts = open_folder(tmp_path / "one"), open_folder(tmp_path / "parts")
    x = torch.rand(2, 3, 16, 16)
    assert parts.sha256 == one.sha256 and torch.equal(parts.answers(x).values, one.answers(x).values)
    assert not any("not taken" in note for note in parts.notes) and not nothing_outside


@pytest.mark.needs("transformers")
@pytest.mark.parametrize(
    ("last", "dtype", "said"),
    [
        ("SCB", torch.int8, "by bitsandbytes to 8 bits"),
        ("weight.absmax", torch.uint8, "by bitsandbytes to 4 bits"),
        ("weight_scale", torch.float8_e4m3fn, "with scales beside them"),
    ],
)
def test_quantised_weights_of_transformers_are_named(
    tmp_path: Path, last: str, dtype: torch.dtype, said: str
) -> None:
    vit_folder(tmp_path)
    file = tmp_path / "model.safetensors"
    state = safetensors.torch.load_file(file)
    state["classifier.weight"] = state["classifier.weight"].to(dtype)
    state[f"classifier.{last}"] = torch.ones(1)
    safetensors.torch.save_file(state, file)
    with pytest.raises(ModelError, match=rf"weights quantised {said}: classifier\.{last}"):
        open_folder(tmp_path)


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("kind", ["missing", "unexpected", "mismatched", "NaN", "integers"])
def test_transformers_weights_have_to_fit(tmp_path: Path, kind: str) -> None:
    vit_folder(tmp_path)
    file = tmp_path / "model.safetensors"
    state = safetensors.torch.load_file(file)
    bias = state.pop("classifier.bias")
    changed = {
        "missing": {},
        "unexpected": {"classifier.bias": bias, "classifier.more": torch.zeros(3)},
        "mismatched": {"classifier.bias": torch.zeros(7)},
        "NaN": {"classifier.bias": bias * float("nan")},
        "integers": {"classifier.bias": bias.to(torch.int8)},
    }[kind]
    safetensors.torch.save_file({**state, **changed}, file)
    expected = SuspectError if kind == "NaN" else ModelError
    with pytest.raises(expected, match={"integers": "real numbers", "NaN": "finite"}.get(kind, kind)):
        open_folder(tmp_path)


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("name", ["EvilForImageClassification", "ImageGPTForImageClassification"])
def test_only_image_classifiers_of_transformers(tmp_path: Path, name: str) -> None:
    vit_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    with pytest.raises(ModelError, match="an image classifier of transformers"):
        open_folder(tmp_path)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_mutated_folders_are_refused_or_answer(tmp_path: Path, library: str) -> None:
    """Some of ``python -m tests.security.fuzz_hub``'s thousand."""
    require(library)
    whole = {"timm": fuzz_hub.timm_folders, "transformers": fuzz_hub.transformers_folders}[library](tmp_path)
    for folder in whole:
        assert fuzz_hub.ask(folder) == "answers with logits"
    found = cases.run(fuzz_hub.opened(whole, 60, 3), fuzz_hub.SLOW)
    assert not found.findings and not found.outside, found.lines()
    assert found.ends["answers with logits"] > 2 and found.ends["ModelError"] > 10, found.lines()
