"""The application that the commands register with, and what they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uapfast.cli import options as o

if TYPE_CHECKING:
    from uapfast.models.model import Model

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Tell stolen copies of a classifier from honest ones by its universal adversarial perturbations.",
)


def _version(show: bool) -> None:
    if show:
        from uapfast import __version__

        print(f"uapfast {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it.")
    ] = False,
) -> None:
    pass


def load(arch: str, weights: Path, device: str, mean: str | None, std: str | None, **kw: Any) -> Model:
    """The model of the options; raises as :func:`uapfast.models.checkpoint.load_model`."""
    from uapfast.models.checkpoint import load_model

    return load_model(
        arch,
        weights,
        mean=o.numbers(mean, "--mean"),
        std=o.numbers(std, "--std"),
        device=o.device(device),
        **kw,
    )
