"""Mutated configurations of hub folders: what a hostile hand may write into ``config.json``."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 64, 1000, 65_536, 999_999, 1_000_000, 10**9, 2**31, 2**63, 10**30,
    0.0, -0.5, 0.5, 1e-30, 1e30, 1e300, "", "x", "relu", "hf-hub:owner/net", "local-dir:/etc",
    "../../etc/passwd", "http://127.0.0.1:9/x", "__import__('os').system('id')", "os.system",
    "a" * 5000, "\x00", "\u202e", "1e9",
    [], {}, [0], [1, 2, 3], [10**9] * 3, [1] * 5000, [[1, 2], [3, 4]], {"a": {"b": {"c": 1}}}, [None],
    ["x", "y"], {"height": 10**9, "width": 1}, {"shortest_edge": 10**7}, {"0": "cat", "1": "dog"},
    [1000] * 64,
)  # fmt: skip
ADDED: tuple[tuple[str, Any], ...] = (
    ("auto_map", {"AutoModelForImageClassification": "evil.Evil"}),
    ("custom_pipelines", {"x": {"impl": "evil.py"}}),
    ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("backbone", "resnet50"), ("use_pretrained_backbone", True), ("use_timm_backbone", True),
    ("_attn_implementation", "owner/kernels"), ("attn_implementation", "flash_attention_2"),
    ("transformers_weights", "../../outside.safetensors"), ("transformers_weights", "training_args.bin"),
    ("pretrained_cfg", {"url": "http://127.0.0.1:9/w.pth", "hf_hub_id": "owner/net", "custom_load": True}),
    ("model_args", {"checkpoint_path": "/etc/passwd"}), ("model_args", {"features_only": True}),
    ("model_args", {"depth": 1000, "embed_dim": 65_536}), ("model_args", {"img_size": 4096, "patch_size": 1}),
    ("num_labels", 10**9), ("num_classes", 10**9), ("__class__", "str"), ("to_dict", 1),
    ("architectures", ["Evil"]), ("architectures", ["AutoModelForImageClassification"]),
    ("architectures", ["pipeline"]),
    ("architecture", "hf-hub:owner/net"), ("architecture", "resnet50"), ("fusion_config", {"x": 1}),
    ("hidden_size", 10**6), ("num_hidden_layers", 1000), ("problem_type", "regression"),
    ("dtype", "float8_e4m3fn"), ("torch_dtype", "os"), ("pruned_heads", {"0": [0]}),
    ("image_size", 4096), ("patch_size", 1),
    ("id2label", 5),
)  # fmt: skip


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield from _places(one, (*at, key))


def mutated(config: dict[str, Any], rng: random.Random) -> bytes:
    """The text of a configuration with one to three things changed."""
    config = copy.deepcopy(config)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(config))
        kind = rng.random()
        if kind < 0.25 or not places:
            key, value = rng.choice(ADDED)
            config[key] = value
            continue
        *above, last = rng.choice(places)
        holder = config
        for key in above:
            holder = holder[key]
        if kind < 0.4:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(rng.choice(VALUES))
    text = bytearray(json.dumps(config).encode())
    kind = rng.random()
    if kind < 0.1:
        for _ in range(rng.randint(1, 4)):
            text[rng.randrange(len(text))] = rng.randrange(256)
    elif kind < 0.13:
        del text[rng.randrange(len(text)) :]
    elif kind < 0.16:
        text = bytearray(b'{"architecture": "resnet18", ') + text[1:]
    elif kind < 0.18:
        text = text.replace(b": 1", b": NaN", 1)
    elif kind < 0.2:
        text = bytearray(b"[" * 100_000)
    return bytes(text)
