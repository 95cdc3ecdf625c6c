"""Mutated configurations of hub folders: what a hostile hand may write into their JSON files.

    python -m tests.security.fuzz_hub --cases 1000 --seed 1

opens and asks such folders, of the libraries that are installed (timm, transformers).
"""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.security import cases
from uapfast.suspects.folder import open_folder
from uapfast.suspects.hub_files import CONFIG, PREPROCESSOR
from uapfast.suspects.inspect import inspect

SLOW = 30.0  # seconds that one folder may take, on a busy machine

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 64, 1000, 65_536, 999_999, 1_000_000, 10**9, 2**31, 2**63, 10**30,
    0.0, -0.5, 0.5, 1e-30, 1e30, 1e300, "", "x", "relu", "hf-hub:owner/net", "local-dir:/etc",
    cases.CANARY, "../../etc/passwd", "http://127.0.0.1:9/x", "__import__('os').system('id')", "os.system",
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


# -- folders ---------------------------------------------------------------------------------------
def timm_folders(place: Path) -> list[Path]:
    """Small folders as timm writes them, one of them in its older flat form."""
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    found = []
    for name, settings in (("test_resnet", {}), ("test_vit", {"img_size": 32, "patch_size": 8})):
        network = timm.create_model(name, num_classes=5, **settings)
        said = {"num_classes": 5, "label_names": list("abcde")}
        save_for_hf(
            network, str(place / name), model_config=said, model_args=settings, safe_serialization=True
        )
        found.append(place / name)
    flat = json.loads((found[0] / CONFIG).read_text())
    (found[0] / CONFIG).write_text(json.dumps({**flat.pop("pretrained_cfg"), **flat}))
    return found


def transformers_folders(place: Path) -> list[Path]:
    """Small folders as transformers writes them."""
    import transformers as tr

    torch.manual_seed(0)
    vit = tr.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16,
        patch_size=8, num_labels=3,
    )  # fmt: skip
    resnet = tr.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    tr.ViTForImageClassification(vit).save_pretrained(place / "vit")
    tr.ResNetForImageClassification(resnet).save_pretrained(place / "resnet")
    for name in ("vit", "resnet"):
        tr.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(place / name)
    return [place / "vit", place / "resnet"]


def folders(place: Path) -> list[Path]:
    """Right folders of every library that is installed."""
    made = {"timm": timm_folders, "transformers": transformers_folders}
    return [f for name, make in made.items() if importlib.util.find_spec(name) for f in make(place)]


def ask(folder: Path) -> str:
    """Open it, ask it for two images."""
    model = open_folder(folder)
    answers = model.answers(torch.rand(2, model.preparation.channels, 32, 32))
    return f"answers with {answers.kind}"


def opened(whole: list[Path], count: int, seed: int) -> Iterator[Callable[[], str]]:
    """Cases: each a folder with one of its JSON files changed, looked at and asked; then put right again."""
    draw = random.Random(seed)
    files = [folder / name for folder in whole for name in (CONFIG, PREPROCESSOR) if (folder / name).exists()]
    good = {file: file.read_bytes() for file in files}

    def case(file: Path, text: bytes) -> str:
        file.write_bytes(text)
        try:
            inspect(file.parent)
            return ask(file.parent)
        finally:
            file.write_bytes(good[file])

    for _ in range(count):
        file = draw.choice(files)
        text = mutated(json.loads(good[file]), draw)
        yield lambda file=file, text=text: case(file, text)  # type: ignore[misc]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        made = folders(Path(place))
        if not made:
            sys.exit("neither timm nor transformers is installed")
        cases.main(lambda count, seed: opened(made, count, seed), SLOW)
