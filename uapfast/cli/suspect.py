"""What is asked about a suspect: ``verify``, ``encode``, ``info``. Heavy imports stay inside."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uapfast.cli import base, evidence
from uapfast.cli import evidence_options as e
from uapfast.cli import options as o
from uapfast.cli.base import app
from uapfast.cli.shell import Reporter, one_line, only_result_on_stdout
from uapfast.cli.show import lines, nobody_lines, verdict_lines
from uapfast.cli.shown import PageRequest

if TYPE_CHECKING:
    from uapfast.reference import Reference
    from uapfast.types import Verdict


@app.command()
def verify(
    reference: o.ReferenceArgument,
    suspect: o.SuspectArgument = None,
    arch: o.MaybeArchOption = None,
    weights: o.MaybeWeightsOption = None,
    answers: o.AnswersOption = None,
    class_names: o.ClassNamesOption = None,
    as_json: o.JsonOption = False,
    alpha: o.MaybeAlphaOption = None,
    output: o.OutputOption = o.OutputChoice.auto,
    class_order: o.ClassOrderOption = None,
    mean: o.MeanOption = None,
    std: o.StdOption = None,
    channel_order: o.ChannelOrderOption = None,
    key: o.KeyOption = None,
    budget: o.BudgetOption = None,
    rate: o.RateOption = None,
    cache: o.CacheOption = None,
    dry_run: o.DryRunOption = False,
    batch_size: o.BatchSizeOption = None,
    record: e.RecordFileOption = None,
    statement: e.StatementFileOption = None,
    report: e.PageFileOption = None,
    signing_key: e.SigningKeyOption = None,
    commitment: e.CommitmentFileOption = None,
    salt: e.SaltOption = None,
    tsa: e.TsaOption = None,
    tsa_root: e.TsaRootOption = None,
    overwrite: e.OverwriteOption = False,
    device: o.DeviceOption = "auto",
    debug: o.DebugOption = False,
) -> int:
    """Decide on one suspect: is it closer to your model than to its twins, and closer than honest models?

    SUSPECT is recognised by its content (`uapfast inspect PATH` shows what a file or folder is):

    \b
      suspect.safetensors --arch net.py:make   weights, also .pt, .ckpt, .npz, *.index.json
      suspect.onnx                             an ONNX file
      FOLDER                                   written by timm or transformers for a hub
      http://HOST:PORT/v2/models/NAME          an endpoint
      endpoint.toml                            any other endpoint (docs/http.md)
      --answers FILE                           a record, or answers to `uapfast queries`

    Without --mean and --std a suspect is queried with the victim's, unless its answers show that it
    normalises its own input, or takes its channels in another order. Give --mean 0 --std 1 and
    --channel-order if you know.

    --report writes a page for the person who decides. --record, --statement and --commitment make evidence
    that somebody else can check (docs/evidence.md).

    Exit code: 0 independent, 1 piracy, 3 inconclusive, 4 invalid, 5 unavailable, 2 error.
    """  # noqa: D301, \b keeps the lines of a list
    from uapfast.config import check

    given = _the_one({"SUSPECT": suspect, "--weights": weights, "--answers": answers}, alpha)
    signing_key, key = evidence.signing(statement, signing_key, key)
    page, evident = PageRequest(report, given, answers), (commitment, salt, tsa, tsa_root, overwrite)
    wanted = evidence.EvidenceOptions(record, statement, signing_key, *evident, page)
    options = {"arch": arch, "key": key, "budget": budget, "rate": rate, "cache": cache}
    options |= base.about_images(mean, std, channel_order)
    order = o.whole_numbers(class_order, "--class-order")
    how: dict[str, Any] = {"alpha": alpha, "class_order": order, "seen": page.see}
    with only_result_on_stdout() as stdout, Reporter(rate=True, brief=True) as progress:
        if answers is not None:
            more = [n for n, v in (options | {"batch_size": batch_size}).items() if v is not None]
            check(not more, "verify", "--answers", "given without the options of a model", ", ".join(more))
            verdict = _recorded(reference, answers, class_names, output.value, how, wanted)
        else:
            check(class_names is None, "verify", "--class-names", "given with --answers only", class_names)
            options |= {"output": output.value, "device": o.device(device)}
            how |= {"batch_size": batch_size, "progress": progress}
            found = _asked(reference, given, options, how, dry_run, wanted)
            if isinstance(found, list):
                print(*found, sep="\n", file=stdout, flush=True)
                return 0
            verdict = found
        shown = [*verdict_lines(verdict.to_dict()), *page.write(verdict)]
        print(*([verdict.to_json()] if as_json else shown), sep="\n", file=stdout, flush=True)
    return verdict.exit_code


def _the_one(asked: dict[str, Any], alpha: float | None) -> str:
    """The suspect, which is given in one of several ways; at a level that there is."""
    from uapfast.config import check

    check(alpha is None or 0 < alpha < 0.5, "verify", "--alpha", "a level in (0, 0.5)", alpha)
    named = [name for name, value in asked.items() if value is not None]
    got = " and ".join(named) or "none"
    check(len(named) == 1, "verify", "the suspect", "one of " + ", ".join(asked), got)
    return str(asked[named[0]])


def _asked(
    reference: Path,
    given: str,
    options: dict[str, Any],
    how: dict[str, Any],
    dry_run: bool,
    wanted: evidence.EvidenceOptions,
) -> Verdict | list[str]:
    """The verdict on a suspect that is asked here, with its evidence; or what asking it would take."""
    from uapfast.config import ALPHA
    from uapfast.errors import SuspectError
    from uapfast.reference import load
    from uapfast.suspects.subject import subject_of
    from uapfast.verbs.verify import invalid

    known = load(reference)
    how["alpha"] = ALPHA if how["alpha"] is None else how["alpha"]
    dossier = wanted.dossier(reference, known, how["alpha"])
    try:
        found = _judge(known, given, options, how, dry_run, dossier)
    except SuspectError as exc:  # weights with NaN: a fact about the suspect, not a failure of ours
        with dossier.recorder(subject_of(None, given)) as record:
            found = invalid(known, exc, alpha=how["alpha"], record=record)
    return found if isinstance(found, list) else dossier.finish(found)


def _judge(
    known: Reference, given: str, options: dict[str, Any], how: dict[str, Any], dry_run: bool, dossier: Any
) -> Verdict | list[str]:
    """The verdict on a suspect, or what asking it would take; ``how`` are further arguments of ``verify``."""
    from uapfast.config import check
    from uapfast.suspects.base import Suspect
    from uapfast.suspects.resolve import open_suspect
    from uapfast.suspects.subject import subject_of
    from uapfast.verbs.verify import verify as run

    suspect = open_suspect(given, **options)
    how = how | {"output": options["output"], "device": options["device"]}
    if not isinstance(suspect, Suspect):
        check(not dry_run, "verify", "--dry-run", "given for an endpoint only", given)
        with dossier.recorder(subject_of(suspect, given)) as record:
            return run(known, suspect, record=record, **how)
    rule = "given for a network that runs here (weights, or a folder of a hub)"
    check(how["batch_size"] is None, "verify", "--batch-size", rule, given)
    with suspect:
        if not dry_run:
            with dossier.recorder(subject_of(suspect, given)) as record:
                return run(known, suspect, record=record, **how)
        from uapfast.suspects.http import HttpSuspect
        from uapfast.verbs.dry_run import dry_run as plan

        check(isinstance(suspect, HttpSuspect), "verify", "--dry-run", "given for an endpoint only", given)
        return lines(asdict(plan(known, suspect)))  # type: ignore[arg-type]


def _recorded(
    reference: Path,
    answers: Path,
    class_names: Path | None,
    output: str,
    how: dict[str, Any],
    wanted: evidence.EvidenceOptions,
) -> Verdict:
    """The verdict on a record, or on answers that were recorded elsewhere."""
    from uapfast.config import ALPHA
    from uapfast.models.labels import read_class_names
    from uapfast.reference import load
    from uapfast.suspects.record_reader import is_record
    from uapfast.suspects.subject import subject_of
    from uapfast.verbs.recorded import verify_recorded

    known = load(reference)
    if is_record(answers):
        return evidence.replayed(reference, known, answers, class_names, output, how, wanted)
    how = how | {"alpha": ALPHA if how["alpha"] is None else how["alpha"]}
    dossier = wanted.dossier(reference, known, how["alpha"])
    names = None if class_names is None else read_class_names(class_names)
    with dossier.recorder(subject_of(None, answers)) as record:
        verdict = verify_recorded(known, answers, output=output, class_names=names, record=record, **how)
    found: Verdict = dossier.finish(verdict)
    return found


@app.command()
def encode(
    reference: o.ReferenceArgument,
    arch: o.ArchOption,
    weights: o.WeightsOption,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.npz", help="Gets z, float32 [V, d].")],
    output: o.OutputOption = o.OutputChoice.auto,
    mean: o.MeanOption = None,
    std: o.StdOption = None,
    channel_order: o.ChannelOrderOption = None,
    key: o.KeyOption = None,
    device: o.DeviceOption = "auto",
    debug: o.DebugOption = False,
) -> None:
    """Write the embedding of a suspect's answers: one row per view."""
    from uapfast.files import atomic_path, require_writable

    require_writable(out, "embeddings")
    with only_result_on_stdout() as stdout:
        import numpy as np

        from uapfast.reference import load
        from uapfast.verbs.encode import encode as run

        images = mean, std, channel_order
        suspect = base.load_given(arch, weights, device, *images, output=output.value, key=key)
        z = np.asarray(run(load(reference), suspect))
        with atomic_path(out) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, z=z.astype(np.float32, copy=False))
        print(f"wrote {one_line(out)}: z {list(z.shape)}", file=stdout, flush=True)


@app.command()
def info(reference: o.ReferenceArgument, as_json: o.JsonOption = False, debug: o.DebugOption = False) -> None:
    """Show what a reference holds and how it was made."""
    with only_result_on_stdout() as stdout:
        from uapfast.examination.calibration import reference_summary
        from uapfast.reference import load

        found = reference_summary(load(reference))
        if as_json:
            print(json.dumps(found, allow_nan=False), file=stdout, flush=True)
        else:
            print(*nobody_lines(found), *lines(found), sep="\n", file=stdout, flush=True)
