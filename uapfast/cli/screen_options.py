"""The options of ``uapfast screen`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uapfast.cli.options import SPEC

Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", help="How long reading one suspect, or asking it, may take; or inf."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", help="How many suspects to ask at a time; by default one for each core."
    ),
]
References = Annotated[
    list[Path], typer.Argument(metavar="REF...", help="Reference files, written by `uapfast generate`.")
]
Table = Annotated[Path, typer.Option("--out", metavar="TABLE.parquet", help="The table is written here.")]
ScreenManifest = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="A list of suspects, CSV: path, and if wanted kind,arch,name,mean,std,output,key,class_order.",
    ),
]
ScreenFolder = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="Ask every model below this folder: hub folders, ONNX files, weights."
    ),
]
Archs = Annotated[
    list[str] | None,
    typer.Option(
        "--arch",
        metavar="SPEC",
        help=f"Architecture of weights files: {SPEC}. Given several times, the one that fits is taken.",
    ),
]
ArchDir = Annotated[
    Path | None,
    typer.Option(
        "--arch-dir",
        metavar="DIR",
        help="Your Python files; their factories count as further --arch. They are run.",
    ),
]
Profile = Annotated[bool, typer.Option("--profile", help="Say where the time went, by stage.")]
Resume = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Go on where a stopped run left its store.")
]
Fdr = Annotated[float, typer.Option("--fdr", help="Convict only if q_value is at or below it.")]
MostQueries = Annotated[
    int | None,
    typer.Option(
        "--queries",
        metavar="MAX",
        help="Ask at most so many answers for one reference; below five views nobody is convicted.",
    ),
]
Endpoints = Annotated[bool, typer.Option("--endpoints", help="Ask the hosts that the manifest names.")]
Secrets = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="NAME",
        help="An environment variable that headers of endpoints may refer to; may be repeated.",
    ),
]
Engine = Annotated[str, typer.Option("--engine", help="Where suspects are asked: local or ray.")]
Address = Annotated[
    str | None, typer.Option("--address", metavar="ADDR", help="The address of a cluster (--engine ray).")
]
