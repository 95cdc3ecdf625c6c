"""Configurations of hub folders as timm and transformers write them."""

from __future__ import annotations

from typing import Any

INPUT = {
    "input_size": [3, 32, 48],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.2, 0.2],
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "fixed_input_size": True,
}
TIMM: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": 3,
    "num_features": 512,
    "global_pool": "avg",
    "model_args": {"img_size": [32, 48], "in_chans": 3},
    "label_names": ["a", "b", "c"],
    "pretrained_cfg": {"tag": "a1_in1k", "url": "https://host/w", "custom_load": True, **INPUT},
}
FLAT: dict[str, Any] = {"architecture": "resnet18", "labels": ["a", "b"], "num_classes": 2, **INPUT}
VIT: dict[str, Any] = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "image_size": 32,
    "id2label": {"0": "cat", "1": "dog"},
    "label2id": {"cat": 0, "dog": 1},
    "torch_dtype": "float16",
    "transformers_version": "4.30.0",
}
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
