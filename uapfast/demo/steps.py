"""The demo's steps: data, victim, pool, reference, suspects, verdicts, report."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import torch
from torch import nn

import uapfast
from uapfast.config import ALPHA
from uapfast.data import load_data
from uapfast.demo import suspects as make
from uapfast.demo.table import print_summary, print_table
from uapfast.errors import InputError, PoolWarning
from uapfast.files import make_folder, require_writable, write_text
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.models.model import Model
from uapfast.pool.build import build_pool
from uapfast.pool.train import one_thread
from uapfast.report import Report, SuspectRow, collect, write_report
from uapfast.types import Progress


@dataclass(frozen=True, slots=True)
class Scale:
    """How much the demo trains.

    Attributes:
        twins: twins of the victim.
        surrogates: surrogates of each candidate.
        homologous: honest models of the pool.
        epochs: of every model.
        points: query points a view.
        views: views.
        suspects: at most so many copies and so many honest ones; 0 is all.
    """

    twins: int = 12
    surrogates: int = 2
    homologous: int = 40
    epochs: int = 12
    points: int = 50
    views: int = 20
    suspects: int = 0


FULL = Scale()
TINY = Scale(twins=2, surrogates=1, homologous=5, epochs=2, points=10, views=4, suspects=2)


def split_digits(seed: int) -> tuple[make.Split, torch.Tensor]:
    """The 1,797 digits shared out: 900 to the owner, 600 to the thief, 297 to measure; owner's indices."""
    data = load_data("digits")
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(seed))
    parts = (order[:900], order[900:1500], order[1500:])
    owner, thief, held = ((data.x(i), data.labels[i]) for i in parts)
    return make.Split(owner, thief, held), parts[0]


def _folder(out: Path, seed: int, scale: Scale) -> None:
    """Make or reuse ``out``; another demo's folder is refused, since its models would be mixed in."""
    settings = json.dumps({"seed": seed, **asdict(scale), "version": uapfast.__version__}, sort_keys=True)
    make_folder(out / "suspects")
    mark = out / "demo.json"
    require_writable(mark)
    if mark.exists() and mark.read_text(encoding="utf-8") != settings:
        raise InputError("demo", "--out", "a new folder, or one of a demo of the same settings", out)
    write_text(mark, settings)


def _made(path: Path, arch: str, build: Callable[[], nn.Module]) -> nn.Module:
    """The model in ``path``, made first if it is not there (a stopped demo goes on where it was)."""
    if not path.exists():
        save_weights(build(), path)
    module = load_model(arch, path).module
    assert module is not None
    return module


@one_thread()
def run_demo(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    scale: Scale = FULL,
    jobs: int | None = None,
    stream: TextIO | None = None,
    progress: Progress | None = None,
) -> Report:
    """Train a victim, twins, a pool and suspects on digits; make the reference; verify; report.

    Args:
        out: folder; gets victim.safetensors, pool/, suspects/, victim.uapref and report.html.
        seed: of everything random.
        scale: how much is trained.
        jobs: models trained at a time; all cores if None. The pool does not depend on it.
        stream: where the table goes; stdout if None.
        progress: called as ``progress(done, total, what)``.

    Returns:
        What the report shows.

    Raises:
        StorageError: ``out`` cannot be written.
        InputError: ``out`` holds another demo.
    """
    begin = time.perf_counter()
    folder, stream, report = Path(out), stream or sys.stdout, progress or (lambda done, total, what: None)
    _folder(folder, seed, scale)
    split, index = split_digits(seed)
    data = load_data("digits").subset(index)

    report(0, 1, "train the victim")
    weights = folder / "victim.safetensors"
    victim = _made(
        weights, make.RESIDUAL, lambda: make.train_honest(make.RESIDUAL, split.owner, seed, scale.epochs)
    )
    manifest = build_pool(
        make.RESIDUAL, weights, data, folder / "pool", init="random", twins=scale.twins,
        surrogates=scale.surrogates, homologous=scale.homologous, epochs=scale.epochs,
        jobs=jobs or os.cpu_count() or 1, seed=seed, progress=report, selected="no",
    )  # fmt: skip

    config = uapfast.GenerateConfig(
        points=scale.points,
        views=scale.views,
        ray=(0.0, 0.2),
        eps=0.3,
        fooling=0.6,
        uap_images=400,
        seed=seed,
    )
    images = torch.cat([split.owner[0], split.held[0]])
    with warnings.catch_warnings():
        # Digits are few, so the demo asks images of the training as well; the reference keeps the warning.
        warnings.filterwarnings("ignore", ".* images that the pool was made of", PoolWarning)
        made = uapfast.generate(victim, images, pool=manifest, config=config, progress=report)
    made.save(folder / "victim.uapref")
    reference = uapfast.load(folder / "victim.uapref")

    suspects = _suspects(victim, split, scale, seed)
    rows = _verify(reference, suspects, split, folder, report)
    spent = time.perf_counter() - begin
    shown = _shown(suspects, folder, weights)
    facts = {
        "victim": f"{make.accuracy(victim, split.held):.3f} accurate on held-out digits",
        "time": f"{spent:.0f} s",
    }
    result = collect(reference, rows, title="uapfast on handwritten digits", models=shown, facts=facts)
    write_report(result, folder / "report.html")
    print_table(result, stream)
    print_summary(result, folder, spent, _example(suspects[0], folder), stream)
    return result


def _suspects(victim: nn.Module, split: make.Split, scale: Scale, seed: int) -> list[make.DemoSuspect]:
    copies = list(make.copies(victim, split, scale.epochs, seed + 1000))
    honest = list(make.honest(split, scale.epochs, seed + 2000))
    most = scale.suspects or len(copies) + len(honest)
    return copies[:most] + honest[:most]


def _verify(
    reference: uapfast.Reference,
    suspects: list[make.DemoSuspect],
    split: make.Split,
    folder: Path,
    report: Progress,
) -> list[SuspectRow]:
    rows = []
    for number, suspect in enumerate(suspects):
        report(number, len(suspects), f"suspect {suspect.name}")
        path = folder / "suspects" / f"{suspect.name}.safetensors"
        module = _made(path, suspect.arch, suspect.make)
        verdict = uapfast.verify(reference, load_model(suspect.arch, path), alpha=ALPHA)
        rows.append(suspect.row(verdict, make.accuracy(module, split.held)))
    report(len(suspects), len(suspects), "suspects verified")
    return rows


def _shown(suspects: list[make.DemoSuspect], folder: Path, weights: Path) -> dict[str, Model]:
    """Whose answers the report shows: the victim, an extracted copy (or any other), an innocent."""
    copies = [s for s in suspects if s.truth == "piracy"]
    chosen = [next((s for s in copies if s.group == "extracted"), copies[0])]
    chosen += [s for s in suspects if s.truth == "innocent"][:1]
    shown = {"victim": load_model(make.RESIDUAL, weights)}
    for s in chosen:
        shown[s.name] = load_model(s.arch, folder / "suspects" / f"{s.name}.safetensors")
    return shown


def _example(suspect: make.DemoSuspect, folder: Path) -> str:
    weights = folder / "suspects" / f"{suspect.name}.safetensors"
    started = Path(sys.argv[0])  # .venv/bin/uapfast, where no PATH leads to it
    tool = str(started) if started.name == "uapfast" and shutil.which("uapfast") is None else "uapfast"
    return shlex.join([tool, "verify", f"{folder / 'victim.uapref'}", f"{weights}", "--arch", suspect.arch])
