"""Folders that the libraries write themselves, of several families: their own logits, to the last digits.

``python -m benchmarks.library_folders`` tries all of them.
"""

from __future__ import annotations

import pytest

from benchmarks.library_folders import SAME, SPREAD, of_timm, of_transformers, tried

TIMM = ("resnet18", "efficientnet_b0", "mobilenetv3_small_100", "convnext_atto", "vit_tiny_patch16_224",
        "deit_tiny_patch16_224", "levit_128s", "test_resnet")  # fmt: skip
TRANSFORMERS = ("Levit", "MobileNetV2", "ResNet", "PPLCNet")


@pytest.mark.needs("timm")
@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    row = tried(of_timm, name)
    assert "said" not in row, row
    assert row["far"] <= SAME and row["spread"] > SPREAD


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    row = tried(of_transformers, f"{name}ForImageClassification")
    assert "said" not in row, row
    assert row["far"] <= SAME and row["spread"] > SPREAD
