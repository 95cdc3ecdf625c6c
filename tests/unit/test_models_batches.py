"""Batches are even and fit the images; verify and screen cut the same queries alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from uapfast.errors import InputError
from uapfast.models.batches import BATCH, batch_size, most_at_once
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.models.model import Model
from uapfast.models.registry import resolve_arch
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.networks.skeleton import Skeleton

ARCH = "uapfast:cnn-small?channels=3&classes=4&size=32"


def test_larger_images_make_smaller_batches() -> None:
    sizes = [most_at_once((3, side, side)) for side in (8, 64, 128, 224, 2048)]
    assert sizes == [BATCH, BATCH, 64, 20, 1]
    assert most_at_once((3, 224, 224), "cuda") == 167 and most_at_once((1, 64, 256)) == 64


def test_no_forward_is_wasted_on_120_queries_of_224_px() -> None:
    most = most_at_once((3, 224, 224))
    assert batch_size(120, most) == 20 and 120 % batch_size(120, most) == 0
    seen: list[int] = []
    module = nn.Sequential(nn.AvgPool2d(56), nn.Flatten(), nn.Linear(48, 4))
    module.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    model = Model(module)
    seen.clear()
    model.answers_to([torch.rand(40, 3, 224, 224)] * 3, 4, 120)
    assert seen == [20] * 6


@pytest.mark.parametrize(("most", "count"), [(None, 300), (7, 60), (64, 130)])
def test_verify_and_screen_ask_in_the_same_batches(tmp_path: Path, most: int | None, count: int) -> None:
    torch.manual_seed(0)
    path = tmp_path / "w.safetensors"
    save_weights(resolve_arch(ARCH)(), path)
    chunks = list(torch.rand(count, 3, 32, 32).split(23))
    model = load_model(ARCH, path).with_batch_size(most)
    assert model.module is not None
    skeleton = Skeleton(Entry(str(path), ARCH), most=most)
    skeleton.load({k: v.clone() for k, v in model.module.state_dict().items()}, path)
    seen: dict[str, list[int]] = {"verify": [], "screen": []}
    for who, module in (("verify", model.module), ("screen", skeleton.module)):
        module.register_forward_pre_hook(lambda m, args, who=who: seen[who].append(len(args[0])))
    ours = model.answers_to(chunks, 4, count).values
    assert torch.equal(ours, skeleton.answer(iter(chunks), count, "s"))
    assert seen["verify"] == seen["screen"] and len(set(seen["verify"])) == 1
    assert max(seen["verify"]) <= (most or BATCH) and sum(seen["verify"]) - count < len(seen["verify"])


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_a_batch_size_is_a_whole_number(size: object) -> None:
    with pytest.raises(InputError, match="batch_size must be a whole number >= 1"):
        Model(nn.Identity()).with_batch_size(size)  # type: ignore[arg-type]
