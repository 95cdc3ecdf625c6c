"""Pools by the owner's own recipe and architecture: what changes, fails, or dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.small_pool import SMALL, data
from uapfast.errors import (
    ModelError,
    PoolError,
    PoolWarning,
)
from uapfast.models.checkpoint import save_weights
from uapfast.models.registry import resolve_arch
from uapfast.pool.build import build_pool
from uapfast.pool.manifest import load_pool
from uapfast.pool.recipe import default_recipe
from uapfast.pool.train import predict

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
import torch


def train(model, images, labels, seed):
    assert images.dtype == torch.float32 and labels.dtype == torch.int64 and labels.ndim == 1
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr={rate})
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model
"""
NET = """
from torch import nn


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, {width}), nn.ReLU(), nn.Linear({width}, 10))
"""


@pytest.fixture
def own(tmp_path: Path) -> tuple[str, str, Path]:
    """The owner's architecture and recipe as files, and weights."""
    (tmp_path / "net.py").write_text(NET.format(width=24))
    (tmp_path / "train.py").write_text(RECIPE.format(rate=0.01))
    arch = f"{tmp_path}/net.py:make"
    torch.manual_seed(1)
    module = default_recipe(resolve_arch(arch)(), data().x(), data().labels, 1)
    save_weights(module, tmp_path / "victim.safetensors")
    return arch, f"{tmp_path}/train.py:train", tmp_path


def test_the_owners_recipe_and_architecture(own: tuple[str, str, Path]) -> None:
    arch, recipe, folder = own
    small = {**SMALL, "surrogates": 1}
    manifest = build_pool(
        arch, folder / "victim.safetensors", data(), folder / "pool", recipe=recipe, **small
    )
    pool = load_pool(manifest)
    assert "../net.py:make" in manifest.read_text() and len(pool.models) == 1 + 2 + 3 + 3
    record = json.loads((folder / "pool" / "pool.json").read_text())
    by_owner = {r["name"] for r in record["models"] if r["owners_recipe"]}
    assert {"twin-00", "twin-01"} <= by_owner and not [n for n in by_owner if n.startswith("piracy")]
    twin = pool.twins[0].model
    assert twin.module is not None
    accuracy = (predict(twin.module, data().x()).argmax(-1) == data().labels).double().mean()
    assert float(accuracy) > 0.5
    assert record["base"]["recipe"] == "train" and len(record["base"]["code"]) == 64


@pytest.mark.parametrize(
    ("which", "said"), [("net.py", r"code of \S+net\.py:make"), ("train.py", "code of the recipe")]
)
def test_an_edited_file_does_not_mix(own: tuple[str, str, Path], which: str, said: str) -> None:
    arch, recipe, folder = own
    settings: dict[str, Any] = {
        "init": "random",
        "recipe": recipe,
        "twins": 1,
        "surrogates": 0,
        "homologous": 0,
    }
    build_pool(arch, folder / "victim.safetensors", data(), folder / "pool", **settings)
    (folder / which).write_text((folder / which).read_text() + "\n# edited\n")
    with pytest.raises(PoolError, match=rf"twin-00 was made with other {said}$"):
        build_pool(arch, folder / "victim.safetensors", data(), folder / "pool", **settings)


def test_a_recipe_that_normalises_once_more_is_told_at_the_first_twin(own: tuple[str, str, Path]) -> None:
    """The model that it is handed applies mean and std itself; hours of other trainings would be in vain."""
    arch, recipe, folder = own
    path = Path(recipe.rpartition(":")[0])
    path.write_text(path.read_text().replace("model(images)", "model((images - 0.5) / 0.1)"))
    module = default_recipe(resolve_arch(arch)(), (data().x() - 0.5) / 0.1, data().labels, 1)
    save_weights(module, folder / "victim.safetensors")
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest, **more: told.append(f"warning: {message}")
        build_pool(
            arch, folder / "victim.safetensors", data(), folder / "pool", init="random", recipe=recipe,
            mean=[0.5], std=[0.1], twins=2, surrogates=0, homologous=1,
            progress=lambda done, total, what: told.append(what),
        )  # fmt: skip
    early = told[told.index("twin-00") : told.index("twin-01")]
    assert len(early) == 2 and "applies mean and std itself" in early[1]
    assert early[1].endswith("2 models are still to be made: Ctrl-C stops")
    assert sum("still to be made" in text for text in told) == 1
    assert "twin-01" in next(text for text in told if "applies mean" in text and "still" not in text)


SLOW = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from uapfast.pool.build import build_pool
from tests.unit.small_pool import data


def train(model, images, labels, seed):
    Path({out!r}, f"worker-{{os.getpid()}}").touch()
    time.sleep(600)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in jobs of the background
    build_pool({arch!r}, {victim!r}, data(), {out!r}, init="random", recipe=__file__ + ":train",
               twins=2, surrogates=0, homologous=0, jobs=2)
"""


def test_an_interrupt_waits_for_no_training(own: tuple[str, str, Path]) -> None:
    """Sent to the command alone, as kill and schedulers do; a terminal sends it to its workers as well."""
    arch, _, folder = own
    out = folder / "pool"
    script = folder / "slow.py"
    victim = str(folder / "victim.safetensors")
    script.write_text(SLOW.format(root=str(ROOT), arch=arch, victim=victim, out=str(out)))
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 240
    while len(workers := list(out.glob("worker-*"))) < 2 and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert len(workers) == 2 and "KeyboardInterrupt" in said
    for worker in workers:
        assert not Path("/proc", worker.name.partition("-")[2]).exists()


def test_a_pool_whose_code_changed_is_loaded_with_a_warning(own: tuple[str, str, Path]) -> None:
    """Its weights fit the changed code as well: only the hash tells."""
    arch, recipe, folder = own
    settings: dict[str, Any] = {"init": "random", "recipe": recipe, "twins": 1, "surrogates": 0}
    weights = folder / "victim.safetensors"
    manifest = build_pool(arch, weights, data(), folder / "pool", homologous=1, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = load_pool(manifest)
    text = (folder / "net.py").read_text()
    (folder / "net.py").write_text(text.replace("nn.ReLU()", "nn.Tanh()"))
    said = r"the code of \.\./net\.py:make is not what the pool was trained with"
    with pytest.warns(PoolWarning, match=said):
        after = load_pool(manifest)
    assert after.twins[0].model.sha256 == before.twins[0].model.sha256
    assert len(after.warnings) == len(before.warnings) + 1 and "net.py:make" in after.warnings[-1]
    (folder / "net.py").write_text(text)
    assert load_pool(manifest).warnings == before.warnings


NAN = "    model[1].weight.data.fill_(float('nan')); return model"


@pytest.mark.parametrize(
    ("body", "jobs", "error", "said"),
    [
        ("    raise MemoryError('boom')", 1, PoolError, "twin-00 must be possible, got MemoryError: boom"),
        ("    return 3", 1, ModelError, "a function that returns the trained nn.Module, got int"),
        (NAN, 1, PoolError, "training of twin-00 must be one that converges, got NaN"),
        (NAN, 2, PoolError, "training of twin-0[01] must be one that converges, got NaN"),
    ],
)
def test_recipes_that_fail(
    own: tuple[str, str, Path], body: str, jobs: int, error: type[Exception], said: str
) -> None:
    arch, _, folder = own
    (folder / "bad.py").write_text(f"def train(model, images, labels, seed):\n{body}\n")
    with pytest.raises(error, match=said):
        build_pool(
            arch,
            folder / "victim.safetensors",
            data(),
            folder / "pool",
            init="random",
            recipe=f"{folder}/bad.py:train",
            jobs=jobs,
            twins=jobs,
            surrogates=0,
            homologous=0,
        )
    assert not list((folder / "pool" / "models").glob("*")), "nothing half-made is left"


def test_a_killed_worker_is_one_typed_error(own: tuple[str, str, Path]) -> None:
    arch, _, folder = own
    (folder / "bad.py").write_text(
        "import os\n\n\ndef train(model, images, labels, seed):\n    os.kill(os.getpid(), 9)\n"
    )
    with pytest.raises(PoolError, match="worker process must be able to finish .* got one that was killed"):
        build_pool(
            arch,
            folder / "victim.safetensors",
            data(),
            folder / "pool",
            init="random",
            recipe=f"{folder}/bad.py:train",
            jobs=2,
            twins=2,
            surrogates=0,
            homologous=0,
        )
