"""What an owner runs: ``generate``, ``pool``, ``subspace``, ``demo``. Heavy imports stay inside."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from uapfast.cli import base
from uapfast.cli import evidence_options as e
from uapfast.cli import options as o
from uapfast.cli.base import app
from uapfast.cli.shell import Reporter, notes_counted, one_line, only_result_on_stdout
from uapfast.cli.show import reference_lines, subspace_lines
from uapfast.config import check


@app.command()
def generate(
    arch: o.ArchOption,
    weights: o.WeightsOption,
    data: o.DataOption,
    pool: o.PoolOption,
    out: Annotated[Path, typer.Option("--out", metavar="REF", help="Write the reference here.")],
    overwrite: e.OverwriteOption = False,
    eps: o.EpsOption = 0.1,
    norm: o.NormOption = o.NormChoice.linf,
    uap: o.UapOption = o.UapChoice.margin,
    points: o.PointsOption = None,
    views: Annotated[int, typer.Option("--views", help="Number of views (sets of query points).")] = 20,
    ray: o.RayOption = None,
    encoder: o.EncoderOption = o.EncoderChoice.lineage,
    selection: o.SelectionOption = None,
    fooling: o.FoolingOption = 0.8,
    min_fooling: o.MinFoolingOption = 0.3,
    strict: Annotated[bool, typer.Option("--strict", help="Fail below --min-fooling.")] = False,
    show_uap: o.ShowUapOption = False,
    wire_safe: o.WireSafeOption = False,
    size: o.SizeOption = None,
    crop: o.CropOption = None,
    interpolation: o.InterpolationOption = o.InterpolationChoice.bilinear,
    mean: o.MeanOption = None,
    std: o.StdOption = None,
    vouch: o.VouchOption = None,
    log: o.LogOption = None,
    log_blind: o.LogBlindOption = None,
    seed: o.SeedOption = 0,
    batch_size: o.BatchSizeOption = None,
    device: o.DeviceOption = "auto",
    debug: o.DebugOption = False,
) -> None:
    """Make the reference: the questions for suspects, and how your model and the pool answer them."""
    from uapfast.config import GenerateConfig
    from uapfast.files import require_writable

    config = GenerateConfig(
        eps=eps, norm=norm.value, uap=uap.value, points=points, views=views, ray=o.numbers(ray, "--ray"),
        encoder=encoder.value, selection=selection.value if selection else None, fooling=fooling,
        min_fooling=min_fooling, strict=strict, wire_safe=wire_safe, show_uap=show_uap, seed=seed,
    )  # fmt: skip
    require_writable(out, "reference", new=not overwrite)
    with only_result_on_stdout() as stdout, Reporter(rate=True) as progress, notes_counted(one_line(out)):
        from uapfast.data import load_data, stored_images
        from uapfast.examination.calibration import reference_summary
        from uapfast.pool.manifest import load_pool
        from uapfast.verbs.generate import generate as run

        victim = base.load_given(arch, weights, device, mean, std, name="victim")
        owned = load_data(data, o.framing(size, crop, interpolation))
        reference = run(
            victim, owned.images, owned.labels, pool=load_pool(pool, o.device(device)), config=config,
            device=o.device(device), progress=progress, vouched=_vouched(vouch or []), batch_size=batch_size,
            log=None if log is None else stored_images(log), log_blind=log_blind,
        )  # fmt: skip
        reference.save(out)
        said = [f"wrote {one_line(out)}", *reference_lines(reference_summary(reference), one_line(out))]
        print(*said, sep="\n", file=stdout, flush=True)


def _vouched(given: list[str]) -> dict[str, str]:
    """``NAME=REASON``, each once."""
    found: dict[str, str] = {}
    for text in given:
        name, _, reason = text.partition("=")
        good = bool(name.strip()) and bool(reason.strip()) and name.strip() not in found
        check(good, "generate", "--vouch", "NAME=REASON, once per name", repr(text))
        found[name.strip()] = reason.strip()
    return found


@app.command()
def pool(
    arch: o.ArchOption,
    weights: o.WeightsOption,
    data: o.DataOption,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Folder of the pool; an existing pool is continued."),
    ],
    init: o.InitOption = None,
    ancestor: o.AncestorOption = None,
    size: o.SizeOption = None,
    crop: o.CropOption = None,
    interpolation: o.InterpolationOption = o.InterpolationChoice.bilinear,
    mean: o.MeanOption = None,
    std: o.StdOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="FILE.py:train",
            help="(model, images, labels, seed) -> model, or (model, dataset, seed) -> model, which reads "
            "images when it needs them; with --branch also checkpoint=PATH. Images are in 0..1, and the "
            "model applies --mean and --std itself.",
        ),
    ] = None,
    twins: Annotated[int, typer.Option("--twins", help="Number of twins to train.")] = 8,
    branch: o.BranchOption = None,
    branch_at: o.BranchAtOption = None,
    designated: o.DesignatedOption = None,
    selected: o.SelectedOption = None,
    surrogates: o.SurrogatesOption = 2,
    homologous: o.HomologousOption = 40,
    homologous_arch: o.HomologousArchsOption = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes of the default recipe.")] = 5,
    jobs: Annotated[int, typer.Option("--jobs", help="Number of models to train at the same time.")] = 1,
    seed: o.SeedOption = 0,
    batch_size: o.BatchSizeOption = None,
    device: o.DeviceOption = "auto",
    debug: o.DebugOption = False,
) -> None:
    """Train the models that yours is compared with: twins (your training, other seeds) and honest others.

    A stopped run continues where it was.
    """
    with only_result_on_stdout() as stdout, Reporter(rate=True) as progress:
        from uapfast.data import load_data
        from uapfast.pool.build import build_pool
        from uapfast.pool.origin import Origin, said_init
        from uapfast.pool.twins import pool_record_path

        said_init(init)  # before the data is read
        owned = load_data(data, o.framing(size, crop, interpolation))
        manifest = build_pool(
            arch, weights, owned, out, init=init or "", ancestor=ancestor,
            mean=o.numbers(mean, "--mean"), std=o.numbers(std, "--std"), recipe=recipe, twins=twins,
            surrogates=surrogates, homologous=homologous, other_archs=homologous_arch or (), epochs=epochs,
            jobs=jobs, seed=seed, device=o.device(device), progress=progress,
            branch=branch, branch_at=branch_at, designated=designated,
            selected=selected.value if selected else None, batch_size=batch_size,
        )  # fmt: skip
        record = json.loads(pool_record_path(manifest).read_text(encoding="utf-8"))
        said = Origin(**record["base"]["init"]).sentence()
        print(f"wrote {one_line(manifest)}", f"init: {said}", sep="\n", file=stdout, flush=True)


@app.command()
def subspace(
    arch: o.ArchOption,
    weights: o.WeightsOption,
    data: o.DataOption,
    pool: o.PoolOption,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for subspace.json and subspace.png.")
    ],
    per_model: Annotated[int, typer.Option("--per-model", help="Number of UAPs per model.")] = 10,
    rank: Annotated[int, typer.Option("--rank", help="Dimensions of the victim's subspace.")] = 4,
    eps: o.EpsOption = 0.1,
    norm: Annotated[
        o.NormChoice, typer.Option("--norm", help="The norm that --eps bounds.")
    ] = o.NormChoice.linf,
    size: o.SizeOption = None,
    crop: o.CropOption = None,
    interpolation: o.InterpolationOption = o.InterpolationChoice.bilinear,
    mean: o.MeanOption = None,
    std: o.StdOption = None,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "auto",
    debug: o.DebugOption = False,
) -> None:
    """Measure how consistent the UAP subspaces of victim, piracy and homologous models are (SVD)."""
    from uapfast.files import make_folder, write_bytes, write_text

    make_folder(out)
    with only_result_on_stdout() as stdout, Reporter(rate=True) as progress:
        from uapfast.data import load_data
        from uapfast.pool.manifest import load_pool
        from uapfast.report.subspace_plot import subspace_png
        from uapfast.verbs.subspace import subspace as run

        victim = base.load_given(arch, weights, device, mean, std, name="victim")
        owned = load_data(data, o.framing(size, crop, interpolation))
        found = run(
            victim, owned.images, pool=load_pool(pool, o.device(device)), per_model=per_model,
            rank=rank, eps=eps, norm=norm.value, seed=seed, progress=progress,
        )  # fmt: skip
        write_bytes(out / "subspace.png", subspace_png(found))
        write_text(out / "subspace.json", json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n")
        print(
            *subspace_lines(found.to_dict()),
            f"wrote {one_line(out / 'subspace.png')}",
            sep="\n",
            file=stdout,
            flush=True,
        )


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the models and the report.")
    ] = Path("demo-out"),
    seed: o.SeedOption = 0,
    debug: o.DebugOption = False,
) -> None:
    """Run everything on scikit-learn's handwritten digits, in minutes: train, verify, report."""
    from uapfast.demo import run_demo

    with Reporter() as progress:
        run_demo(out, seed=seed, stream=sys.stdout, progress=progress)
