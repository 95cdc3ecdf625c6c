"""Evidence: ``commit``, ``audit``, and what ``verify`` writes besides. Heavy imports stay inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from uapfast.cli import evidence_options as e
from uapfast.cli import options as o
from uapfast.cli.base import app
from uapfast.cli.shell import one_line, only_result_on_stdout
from uapfast.cli.shown import PageRequest

if TYPE_CHECKING:
    from uapfast.evidence.dossier import Dossier
    from uapfast.reference import Reference
    from uapfast.types import Verdict

PRIVATE = b"PRIVATE KEY-----"
WIDE = 2000  # characters of a line of an audit
KeyFileOption = Annotated[
    Path,
    typer.Option(
        "--key",
        metavar="KEY.pem",
        help="The private key that signs; `openssl genpkey -algorithm ed25519 -out KEY.pem` makes one.",
    ),
]


class EvidenceOptions(NamedTuple):
    """The options of evidence, as they were given."""

    record: Path | None
    statement: Path | None
    key: Path | None
    commitment: Path | None
    salt: Path | None
    tsa: str | None
    tsa_root: Path | None
    overwrite: bool
    shown: PageRequest

    def dossier(self, path: Path, reference: Reference, alpha: float) -> Dossier:
        """Checks them before anybody is asked; raises as :class:`uapfast.evidence.dossier.Dossier`."""
        from uapfast.evidence.dossier import Dossier, DossierRequest

        files = self._asdict()
        shown: PageRequest = files.pop("shown")
        found = Dossier(DossierRequest(**files), path, reference, alpha)
        shown.begins(found)
        return found


def signing(
    statement: Path | None, signing_key: Path | None, key: str | None
) -> tuple[Path | None, str | None]:
    """The private key, and the name of weights: beside a statement ``--key`` may be either."""
    if statement is None or signing_key is not None or key is None:
        return signing_key, key
    from uapfast.files import open_plain

    try:
        with open_plain(key) as stream:
            private = PRIVATE in stream.read(1 << 12)
    except (OSError, ValueError):
        private = key.endswith(".pem")  # a file that is missing is named as such
    return (Path(key), None) if private else (None, key)


def replayed(
    path: Path,
    known: Reference,
    record: Path,
    class_names: Path | None,
    output: str,
    how: dict[str, Any],
    wanted: EvidenceOptions,
) -> Verdict:
    """The verdict on a record, and the statement of it where one is wanted."""
    from uapfast.config import check
    from uapfast.verbs.replay import verify_record

    given = {"--class-names": class_names, "--class-order": how["class_order"], "--record": wanted.record}
    given["--output"] = None if output == "auto" else output
    for name, value in given.items():
        check(value is None, "verify", name, "left out with a record, which says it itself", value)
    verdict, recording = verify_record(known, record, alpha=how["alpha"], seen=wanted.shown.see)
    dossier = wanted.dossier(path, known, verdict.alpha)
    dossier.recording = recording
    return dossier.finish(verdict, kept=True)


@app.command()
def commit(
    reference: o.ReferenceArgument,
    key: KeyFileOption,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", help="The commitment is written here: publish it, or hand it over."
        ),
    ],
    salt: Annotated[
        Path | None,
        typer.Option(
            "--salt",
            metavar="FILE",
            help="The salt is written here: keep it to yourself. By default OUT.salt.",
        ),
    ] = None,
    tsa: e.TsaOption = None,
    tsa_root: e.TsaRootOption = None,
    alpha: o.AlphaOption = 1e-3,
    debug: o.DebugOption = False,
) -> None:
    """Fix a reference before a suspect is asked: its salted hash, signed (with --tsa time-stamped)."""
    with only_result_on_stdout() as stdout:
        from uapfast.evidence.commitment import commit as run
        from uapfast.evidence.commitment import salt_path
        from uapfast.evidence.keys import load_private
        from uapfast.evidence.timestamp import load_certificates, said
        from uapfast.examination.calibration import convicts_nobody
        from uapfast.examination.levels import compared
        from uapfast.reference import load

        roots = None if tsa_root is None else load_certificates(tsa_root)
        found = run(reference, load_private(key), out, salt=salt, tsa=tsa, roots=roots, alpha=alpha)
        stamp = found.stamp
        by = "your own word: no --tsa" if stamp is None else f"stamped by {stamp.authority}"
        shown = [
            f"wrote {one_line(out)}: SHA-256(salt, reference) {found.value}",
            f"wrote {one_line(salt_path(out, salt))}: the salt; keep it with the reference until the audit",
            f"committed {said(found.time)} ({one_line(by)}), key {found.signed.key.keyid}",
            f"level {alpha:g}, {compared(alpha)}",
        ]
        nobody = convicts_nobody(load(reference), alpha)
        shown += [] if nobody is None else [one_line(nobody, WIDE)]
        print(*shown, sep="\n", file=stdout, flush=True)


@app.command()
def audit(
    statement: Annotated[
        Path, typer.Argument(metavar="STATEMENT", help="Written by `uapfast verify --statement`.")
    ],
    reference: Annotated[
        Path, typer.Option("--reference", metavar="REF", help="The reference that the statement is about.")
    ],
    record: Annotated[Path, typer.Option("--record", metavar="FILE", help="The record of the answers.")],
    commitment: Annotated[
        Path | None,
        typer.Option("--commitment", metavar="FILE", help="The commitment that the statement cites."),
    ] = None,
    salt: e.SaltOption = None,
    trust: Annotated[
        Path | None,
        typer.Option(
            "--trust", metavar="PUBKEY", help="The accuser's public key (PEM), which you got by another way."
        ),
    ] = None,
    tsa_root: e.TsaRootOption = None,
    any_key: Annotated[
        bool, typer.Option("--any-key", help="Without --trust: whoever signed it, nobody says who that was.")
    ] = False,
    any_tsa: Annotated[
        bool, typer.Option("--any-tsa", help="Without --tsa-root: whoever stamped, it may be the signer.")
    ] = False,
    as_json: o.JsonOption = False,
    debug: o.DebugOption = False,
) -> int:
    """Check, offline and line by line, everything that a signed statement says.

    Exit code: 0 if all of it was checked and holds, 1 if anything does not hold, 3 if nothing failed but
    something that the statement rests on could not be checked (its last line names it), 2 error.
    """
    with only_result_on_stdout() as stdout:
        from uapfast.config import check
        from uapfast.evidence.audit import Files
        from uapfast.evidence.audit import audit as run
        from uapfast.evidence.keys import load_public
        from uapfast.evidence.timestamp import load_certificates

        for name, any_, given in (("--any-key", any_key, trust), ("--any-tsa", any_tsa, tsa_root)):
            check(not (any_ and given), "audit", name, "left out beside what it does without", str(given))
        key = None if trust is None else load_public(trust)
        roots = None if tsa_root is None else load_certificates(tsa_root)
        found = run(Files(statement, reference, record, commitment, salt, key, roots, any_key, any_tsa))
        if as_json:
            print(json.dumps(found.to_dict()), file=stdout, flush=True)
        else:
            said = [one_line(text, WIDE) for text in (*found.checks, found.sentence)]
            print(*said, sep="\n", file=stdout, flush=True)
    return found.exit_code
