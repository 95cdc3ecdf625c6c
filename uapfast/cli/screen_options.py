"""The options of ``uapfast screen`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uapfast.cli.options import SPEC

TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", help="How long reading one suspect, or asking it, may take; or inf."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", help="How many suspects to ask at a time; by default one for each core."
    ),
]
ReferencesArgument = Annotated[
    list[Path], typer.Argument(metavar="REF...", help="Reference files, written by `uapfast generate`.")
]
TableOption = Annotated[
    Path, typer.Option("--out", metavar="TABLE.parquet", help="The table is written here.")
]
ScreenManifestOption = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="A list of suspects, CSV: path, and if wanted kind,arch,name,mean,std,output,key,class_order.",
    ),
]
ScreenFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="Ask every model below this folder: hub folders, ONNX files, weights."
    ),
]
ArchsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arch",
        metavar="SPEC",
        help=f"Architecture of weights files: {SPEC}. Given several times, the one that fits is taken.",
    ),
]
ArchDirOption = Annotated[
    Path | None,
    typer.Option(
        "--arch-dir",
        metavar="DIR",
        help="Your Python files; their factories count as further --arch. They are run.",
    ),
]
ProfileOption = Annotated[bool, typer.Option("--profile", help="Say where the time went, by stage.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Go on where a stopped run left its store.")
]
FdrOption = Annotated[float, typer.Option("--fdr", help="Convict only if q_value is at or below it.")]
MostQueriesOption = Annotated[
    int | None,
    typer.Option(
        "--queries",
        metavar="MAX",
        help="Ask at most so many answers for one reference; below five views nobody is convicted.",
    ),
]
EndpointsOption = Annotated[bool, typer.Option("--endpoints", help="Ask the hosts that the manifest names.")]
SecretsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="NAME",
        help="An environment variable that headers of endpoints may refer to; may be repeated.",
    ),
]
EngineOption = Annotated[str, typer.Option("--engine", help="Where suspects are asked: local or ray.")]
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="ADDR", help="The address of a cluster (--engine ray).")
]
