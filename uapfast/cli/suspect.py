"""What is asked about a suspect: ``verify``, ``encode``, ``info``. Heavy imports stay inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uapfast.cli import base
from uapfast.cli import options as o
from uapfast.cli.base import app
from uapfast.cli.shell import one_line, only_result_on_stdout
from uapfast.cli.show import lines, verdict_lines

if TYPE_CHECKING:
    from uapfast.reference import Reference
    from uapfast.types import Verdict


@app.command()
def verify(
    reference: o.Reference,
    arch: Annotated[str | None, typer.Option("--arch", metavar="SPEC", help=o.ARCH_HELP)] = None,
    weights: Annotated[Path | None, typer.Option("--weights", metavar="FILE", help=o.WEIGHTS_HELP)] = None,
    answers: o.Recorded = None,
    class_names: o.ClassNames = None,
    as_json: o.Json = False,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Level: convict only if p_value is at or below it.")
    ] = 1e-3,
    output: o.Answers = o.Output.auto,
    class_order: Annotated[
        str | None,
        typer.Option(
            "--class-order",
            metavar="K[,K...]",
            help="For each class of the reference the suspect's class that means it.",
        ),
    ] = None,
    mean: o.Mean = None,
    std: o.Std = None,
    key: o.Key = None,
    device: o.Device = "auto",
    debug: o.Debug = False,
) -> int:
    """Decide whether a suspect descends from the victim.

    Exit code: 0 independent, 1 piracy, 3 inconclusive, 4 invalid, 5 unavailable, 2 error.
    """
    from uapfast.config import check
    from uapfast.errors import SuspectError

    check(0 < alpha < 0.5, "verify", "--alpha", "a level in (0, 0.5)", alpha)
    given = {"--arch": arch, "--weights": weights, "--mean": mean, "--std": std}
    _one_suspect(answers, class_names, {name for name, value in given.items() if value is not None})
    with only_result_on_stdout() as stdout:
        from uapfast.reference import load
        from uapfast.verbs.verify import invalid
        from uapfast.verbs.verify import verify as run

        known, order = load(reference), o.whole_numbers(class_order, "--class-order")
        if answers is not None:
            verdict = _recorded(known, answers, class_names, alpha, output.value, order)
        else:
            assert arch is not None and weights is not None  # see _one_suspect
            try:
                suspect = base.load(arch, weights, device, mean, std, output=output.value, key=key)
            except SuspectError as exc:  # weights with NaN: a fact about the suspect, not a failure of ours
                verdict = invalid(known, exc, alpha=alpha)
            else:
                verdict = run(known, suspect, alpha=alpha, output=output.value, class_order=order)
        if as_json:
            print(verdict.to_json(), file=stdout, flush=True)
        else:
            print(*verdict_lines(verdict.to_dict()), sep="\n", file=stdout, flush=True)
    return verdict.exit_code


def _one_suspect(answers: Path | None, class_names: Path | None, given: set[str]) -> None:
    """Either a model or recorded answers; raises ``InputError`` for neither, or parts of both."""
    from uapfast.config import check

    if answers is None:
        rule = "given as --arch and --weights, or as --answers"
        check(
            {"--arch", "--weights"} <= given, "verify", "the suspect", rule, " ".join(sorted(given)) or "none"
        )
        check(class_names is None, "verify", "--class-names", "given with --answers only", class_names)
    else:
        got = " ".join(["--answers", *sorted(given)])
        check(not given, "verify", "--answers", "given without a model", got)


def _recorded(
    known: Reference, answers: Path, class_names: Path | None, alpha: float, output: str, order: Any
) -> Verdict:
    """The verdict on recorded answers."""
    from uapfast.models.labels import read_class_names
    from uapfast.verbs.recorded import verify_recorded

    names = None if class_names is None else read_class_names(class_names)
    return verify_recorded(known, answers, alpha=alpha, output=output, class_order=order, class_names=names)


@app.command()
def encode(
    reference: o.Reference,
    arch: o.Arch,
    weights: o.Weights,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.npz", help="Gets z, float32 [V, d].")],
    output: o.Answers = o.Output.auto,
    mean: o.Mean = None,
    std: o.Std = None,
    key: o.Key = None,
    device: o.Device = "auto",
    debug: o.Debug = False,
) -> None:
    """Write the embedding of a suspect's answers: one unit row for each view."""
    from uapfast.files import atomic_path, require_writable

    require_writable(out, "embeddings")
    with only_result_on_stdout() as stdout:
        import numpy as np

        from uapfast.reference import load
        from uapfast.verbs.encode import encode as run

        suspect = base.load(arch, weights, device, mean, std, output=output.value, key=key)
        z = np.asarray(run(load(reference), suspect))
        with atomic_path(out) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, z=z.astype(np.float32, copy=False))
        print(f"wrote {one_line(out)}: z {list(z.shape)}", file=stdout, flush=True)


@app.command()
def info(reference: o.Reference, as_json: o.Json = False, debug: o.Debug = False) -> None:
    """Say what a reference holds and how it was made."""
    with only_result_on_stdout() as stdout:
        from uapfast.reference import load

        summary = load(reference).summary()
        if as_json:
            print(json.dumps(summary, allow_nan=False), file=stdout, flush=True)
        else:
            print(*lines(summary), sep="\n", file=stdout, flush=True)
