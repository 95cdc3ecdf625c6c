"""One small case of the commands, made by the commands: data, victim, pool, reference, suspects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn

from uapfast.cli import main

# So small a pool of so small networks carries no small p-value; here only the commands are tested.
ALPHA = "0.2"
FACTORY = """
import os
import torch
from torch import nn

print("a factory file may print")
os.write(1, b"so may compiled code\\n")


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))


def leaves():
    raise SystemExit(0)


def fails():
    raise RuntimeError("no such luck")
"""


# The pool's own shipped networks are convolutions; one recipe for all, short.
RECIPE = """
import torch


def train(model, images, labels, seed):
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(100):
        index = torch.randint(len(images), (64,), generator=generator)
        loss = torch.nn.functional.cross_entropy(model(images[index]), labels[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model
"""


@dataclass(frozen=True)
class World:
    """Files of one small case. ``arch`` is the SPEC of all models."""

    folder: Path
    arch: str
    data: str
    victim: Path
    manifest: Path
    reference: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def suspect(
        self, weights: Path, *more: str, function: str = "net", reference: Path | None = None
    ) -> list[str]:
        spec = f"{self.folder / 'net.py'}:{function}"
        return [str(reference or self.reference), "--arch", spec, "--weights", str(weights), *more]


def make_data(folder: Path) -> str:
    digits = load_digits()
    path = folder / "data.npz"
    np.savez(path, x=(digits.images / 16).astype(np.float32)[:900], y=digits.target[:900])
    return str(path)


def run_ok(*arguments: str) -> None:
    assert main(list(arguments)) == 0


def make_world(folder: Path) -> World:
    torch.set_num_threads(1)
    (folder / "net.py").write_text(FACTORY)
    (folder / "recipe.py").write_text(RECIPE)
    data = make_data(folder)
    loaded = np.load(data)
    x, y = torch.from_numpy(loaded["x"])[:, None], torch.from_numpy(loaded["y"])
    spaces: dict[str, object] = {}
    exec(RECIPE, spaces)

    def trained(seed: int, part: slice) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        return spaces["train"](net, x[part], y[part], seed)  # type: ignore[operator]

    victim = folder / "victim.safetensors"
    save_file(trained(0, slice(0, 900)).state_dict(), victim)
    save_file(trained(99, slice(300, 900)).state_dict(), folder / "honest.safetensors")
    arch = f"{folder / 'net.py'}:net"
    run_ok(
        "pool", "--arch", arch, "--weights", str(victim), "--data", data, "--out", str(folder / "pool"),
        "--init", "random", "--recipe", f"{folder / 'recipe.py'}:train", "--twins", "6", "--surrogates", "1",
        "--homologous", "10", "--epochs", "4",
    )  # fmt: skip
    manifest = folder / "pool" / "manifest.csv"
    reference = folder / "victim.uapref"
    run_ok(
        "generate", "--arch", arch, "--weights", str(victim), "--data", data, "--pool", str(manifest),
        "--out", str(reference), "--points", "20", "--views", "10", "--seed", "3", "--eps", "0.3",
        "--fooling", "0.3",
    )  # fmt: skip
    nan = load_file(victim)
    nan["1.weight"][0, 0] = float("nan")
    save_file(nan, folder / "nan.safetensors")
    three = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    save_file(three.state_dict(), folder / "three.safetensors")
    return World(folder, arch, data, victim, manifest, reference)


def answer(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(list(arguments))
    got = capfd.readouterr()
    return code, got.out, got.err


def failed(got: tuple[int, str, str], *told: str) -> None:
    """Exit code 2, nothing on stdout, and a last line on stderr that tells what is wrong."""
    code, out, err = got
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in err
    for part in told:
        assert part in last, last
