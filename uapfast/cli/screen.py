"""``screen``: thousands of checkpoints to a table. Heavy imports stay inside."""

from __future__ import annotations

from uapfast.cli import evidence_options as e
from uapfast.cli import options as o
from uapfast.cli import screen_options as s
from uapfast.cli.base import about_images, app
from uapfast.cli.shell import Reporter, one_line, only_result_on_stdout
from uapfast.cli.show import convicted_lines, screen_lines
from uapfast.config import TIMEOUT, check


@app.command()
def screen(
    references: s.ReferencesArgument,
    out: s.TableOption,
    manifest: s.ScreenManifestOption = None,
    folder: s.ScreenFolderOption = None,
    arch: s.ArchsOption = None,
    arch_dir: s.ArchDirOption = None,
    key: o.KeyOption = None,
    mean: o.MeanOption = None,
    std: o.StdOption = None,
    channel_order: o.ChannelOrderOption = None,
    class_order: o.ClassOrderOption = None,
    record: e.RecordDirOption = None,
    overwrite: e.OverwriteOption = False,
    resume: s.ResumeOption = True,
    fdr: s.FdrOption = 0.05,
    alpha: o.AlphaOption = 1e-3,
    queries: s.MostQueriesOption = None,
    endpoints: s.EndpointsOption = False,
    secret: s.SecretsOption = None,
    budget: o.BudgetOption = None,
    rate: o.RateOption = None,
    cache: o.CacheOption = None,
    engine: s.EngineOption = "local",
    address: s.AddressOption = None,
    workers: s.WorkersOption = None,
    timeout: s.TimeoutOption = TIMEOUT,
    device: o.DeviceOption = "auto",
    precision: o.PrecisionOption = "float32",
    batch_size: o.BatchSizeOption = None,
    profile: s.ProfileOption = False,
    debug: o.DebugOption = False,
) -> int:
    """Query many untrusted suspects and write one table; a stopped run continues where it was.

    Exit code: 1 if any row is piracy, else 3 if any is inconclusive, 4 if any is invalid, 5 if any is
    unavailable, else 0; 2 error.
    """
    given = [str(p) for p in (manifest, folder) if p is not None]
    got = " and ".join(given) or "neither"
    check(len(given) == 1, "screen", "--manifest or --dir", "given, and not both", got)
    check(folder is None or folder.is_dir(), "screen", "--dir", "an existing folder", str(folder))
    check(manifest is None or not manifest.is_dir(), "screen", "--manifest", "a CSV file", str(manifest))
    with only_result_on_stdout() as stdout, Reporter(rate=True) as progress:
        from uapfast.models.archdir import specs_in
        from uapfast.screening.run import screen as run

        specs = [*(arch or ()), *(() if arch_dir is None else specs_in(arch_dir))]
        asked = run(
            references, manifest or folder, arch=specs, key=key,
            **about_images(mean, std, channel_order),
            class_order=o.whole_numbers(class_order, "--class-order"), out=out, resume=resume,
            alpha=alpha, fdr=fdr, queries=queries, engine=engine, address=address, workers=workers,
            device=o.device(device, here=engine == "local"), timeout=timeout, precision=precision,  # type: ignore[arg-type]
            batch_size=batch_size, endpoints=endpoints, record=record, overwrite=overwrite,
            conduct={"budget": budget, "rate": rate, "cache": cache, "secrets": tuple(secret or ())},
            progress=progress,
        )  # fmt: skip
        with asked as screening:
            summary = screening.finish()
            said = screen_lines(summary.to_dict(), summary.of_the_list())
            said += convicted_lines(row for row in screening.rows() if row.decision == "piracy")
        said += summary.profile() if profile else []
        print(*said, f"wrote {one_line(out)}", sep="\n", file=stdout, flush=True)
    return summary.exit_code
