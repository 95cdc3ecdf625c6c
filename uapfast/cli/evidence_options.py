"""The options of evidence, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecordFileOption = Annotated[
    Path | None,
    typer.Option(
        "--record",
        metavar="FILE",
        help="Write every answer here as it came; `verify --answers FILE` reads it.",
    ),
]
RecordDirOption = Annotated[
    Path | None,
    typer.Option("--record", metavar="DIR", help="Folder for a record of each suspect and reference."),
]
StatementFileOption = Annotated[
    Path | None,
    typer.Option("--statement", metavar="FILE", help="Write the signed verdict here, for `uapfast audit`."),
]
PageFileOption = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE.html", help="Write a page on this suspect here; it opens offline."
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace existing results, even if others depend on them."),
]
SigningKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--signing-key",
        metavar="KEY.pem",
        help="The Ed25519 private key that signs --statement; --key KEY.pem then means the same.",
    ),
]
CommitmentFileOption = Annotated[
    Path | None,
    typer.Option(
        "--commitment",
        metavar="FILE",
        help="The commitment under which the verdict is made, from `uapfast commit`.",
    ),
]
SaltOption = Annotated[
    Path | None,
    typer.Option(
        "--salt",
        metavar="FILE",
        help="The salt of the commitment; by default COMMITMENT.salt in the same folder.",
    ),
]
TsaOption = Annotated[
    str | None,
    typer.Option("--tsa", metavar="URL", help="The time-stamping authority (RFC 3161) to use."),
]
TsaRootOption = Annotated[
    Path | None,
    typer.Option(
        "--tsa-root", metavar="CERT.pem", help="Certificates of the time-stamping authorities that you trust."
    ),
]
