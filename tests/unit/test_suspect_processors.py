"""What transformers' processors do to images, and what is done to those of their folders: the same."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.library_folders import images, processor_of
from uapfast.errors import ModelError
from uapfast.suspects.hub_config import transformers_input
from uapfast.suspects.preparation import Prepared

pytestmark = pytest.mark.needs("transformers", "torchvision")
OTHERS = ("imagegpt", "shieldgemma2", "siglip2", "timm_wrapper")  # they take something else than images
FLAGS = ("do_normalize", "do_rescale", "do_flip_channel_order", "include_top", "rescale_offset")


def variants(saved: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """As saved; each flag both ways; each key left out; another factor."""
    yield saved
    yield from ({**saved, k: v} for k in FLAGS if k in saved or k in FLAGS[:2] for v in (True, False))
    yield from (
        {k: v for k, v in saved.items() if k != left} for left in saved if left != "image_processor_type"
    )
    yield {**saved, "rescale_factor": 1 / 127.5}


def test_every_processor_of_a_classifier(tmp_path: Path) -> None:
    import transformers

    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    same = 0
    for kind in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        if kind in OTHERS:
            continue
        processor_of(kind).save_pretrained(tmp_path)
        file = tmp_path / "preprocessor_config.json"
        for given in list(variants(json.loads(file.read_text()))):
            try:
                how = transformers_input(given, {"model_type": kind, "num_channels": 3}, "p")
            except ModelError:  # a step that is not done, or statistics that do not stand there
                continue
            file.write_text(json.dumps(given))
            processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
            x = images(3, *(how.size or (224, 224)))
            pixels = list((x * 255).round().to(torch.uint8))
            theirs = processor(pixels, do_resize=False, do_center_crop=False, return_tensors="pt")[
                "pixel_values"
            ].float()
            ours = Prepared(nn.Identity(), how)(x)
            most = max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(
                ours, theirs, rtol=0, atol=1e-6 * most, msg=lambda said, given=given: f"{said} {given}"
            )
            same += 1
    assert same > 300
