"""What the HTTP adapter costs beside a bare client of the same protocol, at batch 64 and 224 px.

    python -m tests.servers.make --torch tritonserver mlserver
    python -m benchmarks.bench_http --save benchmarks/results/bench_http.md

Both ask the same server for the same images [64 n,3,224,224], float32, one request at a time, in turns; each
figure is the median of the ratios within a round. The adapter also hashes every image for its cache, keeps
the images in a file, reads the metadata, and asks three images again; the bare client only asks. For binary
tensors that is Triton's own client (in a process of its own), for JSON httpx2 with a body of ``json.dumps``.
Served are a ResNet-18 (torch, one thread), and next to nothing: there the adapter's own cost is not hidden.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch

from tests.servers import start
from uapfast._version import versions
from uapfast.files import write_text
from uapfast.suspects.http import open_http
from uapfast.testing import servers_dir

HERE = Path(__file__).parent
BATCH, SHAPE = 64, (3, 224, 224)
CODE = (HERE / "http_classifier.py", HERE / "networks.py")
SERVERS: dict[str, Callable[..., Any]] = {"Triton": start.triton, "MLServer": start.mlserver}
CASES = (
    ("Triton", "binary", "resnet18"), ("Triton", "binary", "nothing"),
    ("Triton", "JSON", "resnet18"), ("Triton", "JSON", "nothing"),
    ("MLServer", "JSON", "resnet18"), ("MLServer", "JSON", "nothing"),
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Of a batch: wall seconds, and CPU seconds of the client."""

    wall: float
    cpu: float


def adapter(url: str, images: torch.Tensor, binary: bool) -> tuple[Cost, np.ndarray]:
    """Ours: a new suspect, with nothing in its cache."""
    options = {} if binary else {"encoding": "array"}
    with open_http(url, concurrency=1, timeout=600, attempts=1, output="logits", **options) as suspect:
        wall, cpu = time.perf_counter(), time.process_time()
        answers = suspect.answers_to(images.split(BATCH), 10)
        return cost(wall, cpu, len(images)), answers.values.numpy()


def by_hand(url: str, images: torch.Tensor) -> tuple[Cost, np.ndarray]:
    """JSON over httpx2."""
    out = []
    with httpx2.Client(trust_env=False, timeout=600) as client:
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in images.split(BATCH):
            data = batch.numpy().ravel().tolist()
            tensor = {"name": "x", "shape": list(batch.shape), "datatype": "FP32", "data": data}
            body = json.dumps({"inputs": [tensor], "outputs": [{"name": "scores"}]}).encode()
            found = client.post(f"{url}/infer", content=body, headers={"Content-Type": "application/json"})
            tensor = found.raise_for_status().json()["outputs"][0]
            out.append(np.float32(tensor["data"]).reshape(tensor["shape"]))
    return cost(wall, cpu, len(images)), np.concatenate(out)


def tritons_own(url: str, file: Path, count: int) -> tuple[Cost, np.ndarray]:
    """``tritonclient``, which times itself: it runs in Triton's venv."""
    python, out = servers_dir() / "tritonserver" / "bin" / "python", file.with_name("answers.npy")
    command = [python, HERE / "http_triton_client.py", url, file, out]
    said = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True).stdout
    wall, cpu = json.loads(said)
    return Cost(wall / (count / BATCH), cpu / (count / BATCH)), np.load(out)


def cost(wall: float, cpu: float, images: int) -> Cost:
    batches = images / BATCH
    return Cost((time.perf_counter() - wall) / batches, (time.process_time() - cpu) / batches)


def row(server: str, form: str, network: str, rounds: int, batches: int) -> str:
    """One line of the table."""
    binary = form == "binary"
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH * batches, *SHAPE, generator=draw)
    with tempfile.TemporaryDirectory(prefix="bench-http-") as place:
        folder = Path(place)
        (folder / "network").write_text(network)
        np.save(folder / "images.npy", images.numpy())
        model = start.Model(folder / "network", CODE, SHAPE)
        ours, bare = [], []
        with SERVERS[server](model, folder / "server") as url:
            adapter(url, images[:1], binary)  # warms up
            for _ in range(rounds):
                mine, answers = adapter(url, images, binary)
                theirs, want = (
                    tritons_own(url, folder / "images.npy", len(images)) if binary else by_hand(url, images)
                )
                assert np.allclose(answers, want, atol=1e-4)
                ours.append(mine)
                bare.append(theirs)
    pairs = list(zip(ours, bare, strict=True))
    wall = [a.wall / b.wall for a, b in pairs]
    cpu = statistics.median(a.cpu for a in ours), statistics.median(b.cpu for b in bare)
    seconds = statistics.median(b.wall for b in bare)
    cells = (
        server, form, network, batches, rounds, f"{statistics.median(wall):.2f}",
        f"{min(wall):.2f} to {max(wall):.2f}", f"{seconds:.2f} s", *(f"{1e3 * c:,.0f} ms" for c in cpu),
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


HEAD = """# The HTTP adapter beside a bare client

Made by `python -m benchmarks.bench_http`; what is asked, and by whom, is in that file's head. {versions}.
Where one batch is asked, the three images that the adapter asks again are 5 % of the work.

| server | tensors | network | batches | rounds | time of the adapter / of a bare client | in the rounds | a batch, bare | CPU of a batch, adapter | bare |
|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501


def main() -> None:
    """Measure the cases, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4, help="of binary tensors; JSON takes one")
    parser.add_argument("--json-rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose names hold this, e.g. 'Triton binary'")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = versions()
    text = HEAD.format(versions=", ".join(f"{n} {known[n]}" for n in ("uapfast", "torch", "numpy")))
    for server, form, network in CASES:
        if args.only not in f"{server} {form} {network}":
            continue
        rounds, batches = (args.rounds, args.batches) if form == "binary" else (args.json_rounds, 1)
        text += row(server, form, network, rounds, batches) + "\n"
        print(text.splitlines()[-1], flush=True)
    if args.save:
        load = f"Load at the end: {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors."
        write_text(args.save, f"{text}\n{load}\n")


if __name__ == "__main__":
    main()
