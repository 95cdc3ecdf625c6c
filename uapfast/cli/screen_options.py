"""The options of ``uapfast screen`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uapfast.cli.options import SPEC

TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        help="Time limit for reading one suspect, and for querying it; or inf.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", help="Number of suspects to query at a time; by default one per core."
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
        help="A CSV list of suspects: path, and optionally kind,arch,name,mean,std,channel_order,"
        "output,key,class_order.",
    ),
]
ScreenFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="Query every model below this folder: hub folders, ONNX files, weights."
    ),
]
ArchsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arch",
        metavar="SPEC",
        help=f"Architecture of weights files: {SPEC}. If repeated, the one that fits is used.",
    ),
]
ArchDirOption = Annotated[
    Path | None,
    typer.Option(
        "--arch-dir",
        metavar="DIR",
        help="Folder of your Python files; their factories count as further --arch. They are executed.",
    ),
]
ProfileOption = Annotated[bool, typer.Option("--profile", help="Show the time spent, by stage.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Continue a stopped run from its store.")
]
FdrOption = Annotated[
    float, typer.Option("--fdr", help="False discovery rate: convict only if q_value is at or below it.")
]
MostQueriesOption = Annotated[
    int | None,
    typer.Option(
        "--queries",
        metavar="MAX",
        help="Answers per suspect and reference, at most; fewer than five views convict nobody.",
    ),
]
EndpointsOption = Annotated[
    bool, typer.Option("--endpoints", help="Allow queries to the hosts that the manifest names.")
]
SecretsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="NAME",
        help="An environment variable that headers of endpoints may use; may be repeated.",
    ),
]
EngineOption = Annotated[str, typer.Option("--engine", help="Where suspects are queried: local or ray.")]
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="ADDR", help="The address of a cluster (--engine ray).")
]
