"""``screen``: thousands of checkpoints to a table. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uapfast.cli import options as o
from uapfast.cli.base import app
from uapfast.cli.shell import Reporter, one_line, only_result_on_stdout
from uapfast.cli.show import screen_lines
from uapfast.config import TIMEOUT, check


@app.command()
def screen(
    references: Annotated[
        list[Path], typer.Argument(metavar="REF...", help="Reference files, written by `uapfast generate`.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="TABLE.parquet", help="Where the table goes.")],
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", metavar="FILE", help="CSV: path, and arch,name,mean,std,output if wanted."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Every weights file below it; needs --arch.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="SPEC", help=f"Of suspects without their own: {o.SPEC}.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where a stopped run left its store.")
    ] = True,
    fdr: Annotated[float, typer.Option("--fdr", help="Convict only if q_value is at or below it.")] = 0.05,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Convict only if p_value is at or below it.")
    ] = 1e-3,
    queries: Annotated[
        int | None, typer.Option("--queries", metavar="MAX", help="Most answers asked for one reference.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="local or ray.")] = "local",
    address: Annotated[
        str | None, typer.Option("--address", metavar="ADDR", help="Of a cluster (--engine ray).")
    ] = None,
    workers: o.Workers = None,
    timeout: o.Timeout = TIMEOUT,
    mean: o.Mean = None,
    std: o.Std = None,
    device: o.Device = "auto",
    precision: o.Precision = "float32",
    debug: o.Debug = False,
) -> int:
    """Screen checkpoints that nobody vouches for; a stopped run goes on where it was.

    Exit code: 1 if any row is piracy, else 3 if any is inconclusive, 4 if any is invalid, else 0; 2 error.
    """
    given = [str(p) for p in (manifest, folder) if p is not None]
    check(len(given) == 1, "screen", "--manifest and --dir", "one of them", " and ".join(given) or "neither")
    check(folder is None or arch is not None, "screen", "--arch", "given with --dir", "none")
    with only_result_on_stdout() as stdout, Reporter(rate=True) as progress:
        from uapfast.screening.plan import Skipped, from_folder, from_manifest
        from uapfast.screening.run import screen as run

        skipped, means, stds = Skipped(), o.numbers(mean, "--mean"), o.numbers(std, "--std")
        if manifest is not None:
            suspects = from_manifest(manifest, arch=arch, mean=means, std=stds)
        else:
            suspects = from_folder(str(folder), str(arch), mean=means, std=stds, skipped=skipped)
        screening = run(
            references, suspects, arch=arch, out=out, resume=resume, alpha=alpha, fdr=fdr, queries=queries,
            engine=engine, address=address, workers=workers, device=o.device(device, here=engine == "local"),
            timeout=timeout, precision=precision, progress=progress,  # type: ignore[arg-type]
        )  # fmt: skip
        summary = screening.finish()
        told = summary.to_dict() | {"skipped": skipped.count, "skipped_names": skipped.names}
        print(*screen_lines(told), f"wrote {one_line(out)}", sep="\n", file=stdout, flush=True)
    return summary.exit_code
