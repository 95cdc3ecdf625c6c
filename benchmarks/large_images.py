"""What an owner's steps need at 224 px: peak memory, seconds, the reference's size, time left.

    OMP_NUM_THREADS=1 python -m benchmarks.large_images --out bench-large [--minutes 20]

The victim is a ResNet-18 that was hardly trained, its three twins are reruns of the second half of its
training (``pool --branch``), of its 20 innocents 18 are small networks that ship: what is measured here is
memory, and no verdict means anything. Photographs of different sizes lie on disk as JPEG. Each step is the
command line in a process of its own; the pool is made in four. With ``--minutes`` no step begins later than
that: the same command goes on, and writes the result after the last step. A step that is killed begins anew,
``pool`` with the model that it was at.
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

from benchmarks import large_images_owner as owner
from uapfast.data import Framing, Images, load_data
from uapfast.files import write_text
from uapfast.models.checkpoint import save_weights
from uapfast.pool.recipe import LabelledImages

CLASSES, SIDE, SHORT, VIEWS = 10, 224, 256, 20
LIMIT, REFERENCE_LIMIT = 3e9, 200e6  # bytes
LEFT = re.compile(r"\d+:\d\d:\d\d left")
SMALL = [f"uapfast:{n}-small?channels=3&classes={CLASSES}&size={SIDE}" for n in ("cnn", "resnet", "vgg")]
FRAMED = ["--size", str(SHORT), "--crop", str(SIDE)]
# of the pool, which each command extends: homologous models, surrogates of each candidate
PARTS = (
    ("pool: 3 twins", 0, 0),
    ("pool: 10 innocents", 10, 0),
    ("pool: 20 innocents", 20, 0),
    ("pool: surrogates", 20, 1),
)
EPOCHS = 6  # of the small networks: fewer steps leave them guessing


def photographs(folder: Path, count: int, seed: int) -> None:
    """JPEG files of different sizes: colour blobs and noise under a tint and a grating of the class."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for number in range(count):
        label = number % CLASSES
        place = folder / f"class-{label}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        high, wide = rng.integers(240, 400, 2).tolist()
        blobs = np.asarray(coarse.resize((wide, high), Image.Resampling.BICUBIC), dtype=np.float32)
        angle = np.pi * label / CLASSES
        way = np.cos(angle) * np.arange(wide)[None] + np.sin(angle) * np.arange(high)[:, None]
        tint = 40 * np.cos(2 * angle + 2 * np.pi / 3 * np.arange(3))
        picture = 0.6 * blobs + 40 + tint + 30 * np.sin(way / 3)[..., None]
        picture += rng.integers(-20, 21, picture.shape)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(place / f"{number:05d}.jpg", quality=90)


def train_victim(out: Path) -> None:
    """The victim and its state at half of its training, by the owner's own recipe."""
    data = load_data(str(out / "owned"), Framing((SHORT,), (SIDE, SIDE)))
    torch.manual_seed(0)
    kept = LabelledImages(Images(data.images), data.labels)
    save_weights(owner.train(owner.resnet18(), kept, 0, keep=out / "half.pt"), out / "victim.safetensors")


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
    said = ""
    for line in child.stdout:
        said += line
        print(line, end="", file=sys.stderr, flush=True)
    _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in allowed:
        raise SystemExit(f"{name} ended with {code}\n{said[-2000:]}")
    found = {
        "step": name,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1e3),
        "time_left_shown": bool(LEFT.search(said)),
    }
    print(found, flush=True)
    return found


def commands(out: Path, points: int) -> list[tuple[str, list[str], tuple[int, ...]]]:
    """Every step: name, arguments, exit codes that are no error."""
    arch = f"{Path(owner.__file__).resolve()}:resnet18"
    recipe = f"{Path(owner.__file__).resolve()}:train"
    weights, reference, suspects = out / "victim.safetensors", out / "victim.uapref", out / "suspects.csv"
    small = sorted((out / "pool" / "models").glob("homologous-01.safetensors"))
    lines = ["path,arch", f"{weights.resolve()},{arch}", *(f"{path.resolve()},{SMALL[0]}" for path in small)]
    suspects.write_text("\n".join(lines) + "\n", encoding="utf-8")
    # each several times: of 20 innocents two are of the victim's architecture then
    archs = [word for spec in SMALL * 4 for word in ("--homologous-arch", spec)]
    return [
        *((name, [
            "pool", "--arch", arch, "--weights", str(weights), "--data", str(out / "owned"), *FRAMED,
            "--out", str(out / "pool"), "--init", "random", "--recipe", recipe,
            "--branch", str(out / "half.pt"), "--branch-at", str(owner.BRANCH_AT),
            "--twins", "3", "--homologous", str(honest), "--surrogates", str(copies),
            "--epochs", str(EPOCHS), *archs,
        ], (0,)) for name, honest, copies in PARTS),
        ("generate", [
            "generate", "--arch", arch, "--weights", str(weights), "--data", str(out / "unseen"), *FRAMED,
            "--pool", str(out / "pool" / "branches.csv"), "--out", str(reference), "--ray", "0",
            "--points", str(points // VIEWS),
        ], (0,)),
        ("verify", ["verify", str(reference), str(weights), "--arch", arch], (0, 1, 3, 4)),
        ("screen", [
            "screen", str(reference), "--manifest", str(suspects), "--out", str(out / "table.parquet"),
            "--no-resume", "--workers", "1", "--arch", arch, "--arch", SMALL[0],
        ], (0, 1, 3, 4, 5)),
    ]  # fmt: skip


def run(out: Path, images: int, points: int, owned: int, minutes: float) -> dict[str, Any] | None:
    """Steps that are not done and begin in time; what all took, or None where some are left."""
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate((("owned", owned), ("unseen", images))):
        if not (out / name).is_dir():
            photographs(out / f"{name}.part", count, seed)
            (out / f"{name}.part").rename(out / name)
    if not (out / "victim.safetensors").is_file():
        train_victim(out)
    kept = out / "steps.json"
    rows = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    for position in range(len(PARTS) + 3):
        name, arguments, allowed = commands(out, points)[position]
        if name not in {row["step"] for row in rows}:
            if time.monotonic() - start > 60 * minutes:
                print(f"{name} is next: the same command goes on", flush=True)
                return None
            rows.append(step(name, arguments, allowed))
            write_text(kept, json.dumps(rows) + "\n")
    size = (out / "victim.uapref").stat().st_size
    return {
        "settings": {
            "images": images, "points": points, "owned": owned, "side": SIDE,
            "threads": torch.get_num_threads(), "torch": torch.__version__,
        },
        "steps": rows,
        "reference_mb": round(size / 1e6, 1),
        "points_as_float32_mb": round(points * 3 * SIDE * SIDE * 4 / 1e6, 1),
        "seconds": round(sum(row["seconds"] for row in rows)),
        "time_left_shown_at_every_step": all(row["time_left_shown"] for row in rows),
        "peak_below_3_gb": max(row["peak_mb"] for row in rows) * 1e6 < LIMIT,
        "reference_below_200_mb": size < REFERENCE_LIMIT,
    }  # fmt: skip


def page(found: dict[str, Any]) -> str:
    """The result for people."""
    settings = found["settings"]
    lines = [
        "# An owner's steps at 224 px", "",
        f"`{found['command']}`: a ResNet-18 of {CLASSES} classes, 3 twins by `--branch`, 20 innocents (18",
        f"of them small networks), one surrogate of each candidate, {settings['owned']} photographs to train",
        f"on, {settings['images']} others for {settings['points']} query points;",
        f"threads: {settings['threads']}, torch {settings['torch']}. Seconds depend on what else the machine",
        "does; memory is what is measured.",
        "",
        "| step | peak memory, MB | seconds | of a CPU | time left shown |", "|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {r['step']} | {r['peak_mb']} | {r['seconds']:.0f} | {r['cpu_seconds']:.0f} | "
        f"{'yes' if r['time_left_shown'] else 'no'} |"
        for r in found["steps"]
    ]
    below = {True: "below", False: "above"}
    lines += [
        "", f"Peak {below[found['peak_below_3_gb']]} 3 GB; the reference of {found['reference_mb']} MB is",
        f"{below[found['reference_below_200_mb']]} 200 MB (its points as float32: "
        f"{found['points_as_float32_mb']} MB).", "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-screen/large"))
    parser.add_argument("--images", type=int, default=1250)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--owned", type=int, default=160)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--result", type=Path, default=Path("benchmarks/results/large_images.json"))
    given = parser.parse_args()
    command = f"python -m benchmarks.large_images --images {given.images} --points {given.points}"
    command += f" --owned {given.owned}"
    done = run(given.out, given.images, given.points, given.owned, given.minutes)
    if done is None:
        return
    found = {"command": command, **done}
    write_text(given.result, json.dumps(found, indent=1) + "\n")
    write_text(given.result.with_suffix(".md"), page(found))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
