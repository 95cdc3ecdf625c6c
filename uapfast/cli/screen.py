"""``screen``: thousands of checkpoints to a table. Heavy imports stay inside."""

from __future__ import annotations

from uapfast.cli import evidence_options as e
from uapfast.cli import options as o
from uapfast.cli import screen_options as s
from uapfast.cli.base import app
from uapfast.cli.shell import Reporter, one_line, only_result_on_stdout
from uapfast.cli.show import screen_lines
from uapfast.config import TIMEOUT, check


@app.command()
def screen(
    references: s.References,
    out: s.Table,
    manifest: s.ScreenManifest = None,
    folder: s.ScreenFolder = None,
    arch: s.Archs = None,
    arch_dir: s.ArchDir = None,
    key: o.Key = None,
    mean: o.Mean = None,
    std: o.Std = None,
    class_order: o.ClassOrder = None,
    record: e.RecordDir = None,
    overwrite: e.Overwrite = False,
    resume: s.Resume = True,
    fdr: s.Fdr = 0.05,
    alpha: o.Alpha = 1e-3,
    queries: s.MostQueries = None,
    endpoints: s.Endpoints = False,
    secret: s.Secrets = None,
    budget: o.Budget = None,
    rate: o.Rate = None,
    cache: o.AnswersCache = None,
    engine: s.Engine = "local",
    address: s.Address = None,
    workers: s.Workers = None,
    timeout: s.Timeout = TIMEOUT,
    device: o.Device = "auto",
    precision: o.Precision = "float32",
    batch_size: o.BatchSize = None,
    profile: s.Profile = False,
    debug: o.Debug = False,
) -> int:
    """Screen suspects that nobody vouches for; a stopped run goes on where it was.

    Exit code: 1 if any row is piracy, else 3 if any is inconclusive, 4 if any is invalid, 5 if any is
    unavailable, else 0; 2 error.
    """
    given = [str(p) for p in (manifest, folder) if p is not None]
    check(len(given) == 1, "screen", "--manifest and --dir", "one of them", " and ".join(given) or "neither")
    check(folder is None or folder.is_dir(), "screen", "--dir", "an existing folder", str(folder))
    check(manifest is None or not manifest.is_dir(), "screen", "--manifest", "a CSV file", str(manifest))
    with only_result_on_stdout() as stdout, Reporter(rate=True) as progress:
        from uapfast.models.archdir import specs_in
        from uapfast.screening.run import screen as run

        specs = [*(arch or ()), *(() if arch_dir is None else specs_in(arch_dir))]
        screening = run(
            references, manifest or folder, arch=specs, key=key, mean=o.numbers(mean, "--mean"),
            std=o.numbers(std, "--std"), class_order=o.whole_numbers(class_order, "--class-order"), out=out,
            resume=resume, alpha=alpha, fdr=fdr, queries=queries, engine=engine, address=address,
            workers=workers, device=o.device(device, here=engine == "local"), timeout=timeout,
            precision=precision, batch_size=batch_size, endpoints=endpoints, record=record,  # type: ignore[arg-type]
            overwrite=overwrite,
            conduct={"budget": budget, "rate": rate, "cache": cache, "secrets": tuple(secret or ())},
            progress=progress,
        )  # fmt: skip
        summary = screening.finish()
        said = screen_lines(summary.to_dict(), summary.of_the_list())
        said += summary.profile() if profile else []
        print(*said, f"wrote {one_line(out)}", sep="\n", file=stdout, flush=True)
    return summary.exit_code
