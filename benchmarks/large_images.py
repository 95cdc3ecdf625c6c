"""What an owner's steps need at 224 px: peak memory, seconds, the reference's size, time left.

    python -m benchmarks.large_images --out bench-large [--images 1250] [--points 1000] [--twins-like-victim]

The victim is a ResNet-18 with random weights (its head brought to scale), the innocents are small networks
of random weights: what is measured here is memory, and no verdict means anything. Photographs of different
sizes lie on disk as JPEG. Each step is the command line in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks import resnet
from uapfast.models.checkpoint import save_weights
from uapfast.pool.manifest import Entry, write_manifest

CLASSES, SIDE, VIEWS = 10, 224, 20
LIMIT, REFERENCE_LIMIT = 3e9, 200e6  # bytes
LEFT = re.compile(r"\d+:\d\d:\d\d left")


def resnet18() -> nn.Module:
    """At 224 px."""
    return resnet((2, 2, 2, 2), False)


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES)
    )


def photographs(folder: Path, count: int) -> None:
    """JPEG files of different sizes, colour blobs under noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class-{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        high, wide = rng.integers(240, 400, 2).tolist()
        picture = np.asarray(coarse.resize((wide, high), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (picture + rng.integers(-20, 21, picture.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(place / f"{number:05d}.jpg", quality=90)


@torch.no_grad()
def scaled(module: nn.Module, x: Tensor) -> nn.Module:
    """With a head whose answers differ from image to image, as random weights alone do not give them."""
    module.eval()
    logits = module(x)
    head = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    head.weight.mul_(2.0 / logits.std(0)[:, None])
    head.bias.copy_(head.bias - (module(x).mean(0)))
    return module


def make_pool(folder: Path, twins_like_victim: bool, innocents: int = 20, twins: int = 3) -> Path:
    """Victim, twins and innocents with random weights, and their manifest."""
    torch.manual_seed(0)
    x = nn.functional.interpolate(torch.rand(16, 3, 8, 8), size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)
    here = f"{os.path.relpath(Path(__file__).resolve(), folder.resolve())}"
    entries = []

    def add(name: str, relation: str, make: str) -> None:
        save_weights(scaled(globals()[make](), x), folder / f"{name}.safetensors")
        entries.append(Entry(f"{name}.safetensors", f"{here}:{make}", name, relation, None))

    add("victim", "victim", "resnet18")
    for i in range(twins):
        add(f"twin-{i}", "twin", "resnet18" if twins_like_victim else "small")
    for i in range(innocents):
        add(f"homologous-{i:02d}", "homologous", "small")
    write_manifest(folder / "manifest.csv", entries)
    return folder / "manifest.csv"


def step(name: str, arguments: list[str], allowed: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run one command; its peak resident memory, seconds, and whether it said how long it would take."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", "from uapfast.cli import main; raise SystemExit(main())", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in allowed:
        raise SystemExit(f"{name} ended with {code}\n{said[-2000:]}")
    found = {
        "step": name,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_mb": round(usage.ru_maxrss / 1e3),
        "time_left_shown": bool(LEFT.search(said)),
    }
    print(found, flush=True)
    return found


def run(out: Path, images: int, points: int, twins_like_victim: bool) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "photos").is_dir():
        photographs(out / "photos", images)
    manifest, reference = make_pool(out, twins_like_victim), out / "victim.uapref"
    arch, weights = f"{Path(__file__).resolve()}:resnet18", str(out / "victim.safetensors")
    small_arch, suspects = f"{Path(__file__).resolve()}:small", out / "suspects.csv"
    few = [f"victim.safetensors,{arch}", f"homologous-00.safetensors,{small_arch}"]
    suspects.write_text("\n".join(["path,arch", *few]) + "\n", encoding="utf-8")
    rows = [
        step("generate", [
            "generate", "--arch", arch, "--weights", weights, "--data", str(out / "photos"), "--size", "256",
            "--crop", str(SIDE), "--pool", str(manifest), "--out", str(reference), "--ray", "0",
            "--points", str(points // VIEWS),
        ]),
        step("info", ["info", str(reference)]),
        step("verify", ["verify", str(reference), weights, "--arch", arch], (0, 1, 3, 4)),
        step("screen", [
            "screen", str(reference), "--manifest", str(suspects), "--out", str(out / "table.parquet"),
            "--no-resume", "--workers", "1", "--arch", arch, "--arch", small_arch,
        ], (0, 1, 3, 4, 5)),
    ]  # fmt: skip
    size = reference.stat().st_size
    peak = max(row["peak_mb"] for row in rows) * 1e3 * 1e3
    return {
        "settings": {
            "images": images, "points": points, "side": SIDE, "twins_like_victim": twins_like_victim,
            "threads": torch.get_num_threads(), "torch": torch.__version__,
        },
        "steps": rows,
        "reference_mb": round(size / 1e6, 1),
        "points_as_float32_mb": round(points * 3 * SIDE * SIDE * 4 / 1e6, 1),
        "peak_below_3_gb": peak < LIMIT,
        "reference_below_200_mb": size < REFERENCE_LIMIT,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-screen/large"))
    parser.add_argument("--images", type=int, default=1250)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--twins-like-victim", action="store_true")
    parser.add_argument("--result", type=Path, default=Path("benchmarks/results/large_images.json"))
    given = parser.parse_args()
    command = f"python -m benchmarks.large_images --images {given.images} --points {given.points}"
    command += " --twins-like-victim" if given.twins_like_victim else ""
    found = {"command": command, **run(given.out, given.images, given.points, given.twins_like_victim)}
    given.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
