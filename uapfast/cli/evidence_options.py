"""The options of evidence, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecordFile = Annotated[
    Path | None,
    typer.Option(
        "--record", metavar="FILE", help="Gets every answer as it came; `verify --answers FILE` reads it."
    ),
]
RecordDir = Annotated[
    Path | None,
    typer.Option("--record", metavar="DIR", help="Gets a record of each suspect and reference."),
]
StatementFile = Annotated[
    Path | None,
    typer.Option("--statement", metavar="FILE", help="Gets the verdict, signed, for `uapfast audit`."),
]
PageFile = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Gets a page on this suspect; opens offline."),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace results that are there already; others may rest on them."),
]
SigningKey = Annotated[
    Path | None,
    typer.Option(
        "--signing-key",
        metavar="KEY.pem",
        help="Signs --statement: an Ed25519 private key. --key KEY.pem beside --statement means the same.",
    ),
]
CommitmentFile = Annotated[
    Path | None,
    typer.Option("--commitment", metavar="FILE", help="That it is made under, from `uapfast commit`."),
]
Salt = Annotated[
    Path | None,
    typer.Option("--salt", metavar="FILE", help="Of the commitment; unset, COMMITMENT.salt beside it."),
]
Tsa = Annotated[
    str | None,
    typer.Option("--tsa", metavar="URL", help="A time-stamping authority (RFC 3161)."),
]
TsaRoot = Annotated[
    Path | None,
    typer.Option("--tsa-root", metavar="CERT.pem", help="Of time-stamping authorities that are trusted."),
]
