"""The application that the commands register with, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import typer.core

from uapfast.cli import options as o
from uapfast.errors import InputError

if TYPE_CHECKING:
    from uapfast.models.model import Model

F = TypeVar("F", bound=Callable[..., Any])


class Command(typer.core.TyperCommand):
    """A command that takes every option once, unless it collects several."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base class, which silently keeps the last of several."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param in order:
            if param.param_type_name == "option" and not param.multiple and order.count(param) > 1:
                raise InputError(
                    str(ctx.info_name), param.opts[0], "given once", f"it {order.count(param)} times"
                )
        return super().parse_args(ctx, args)


# The order of use: what an owner does first, then what is done with a suspect, then the rest.
SECTIONS = {
    "Try it": ("demo",),
    "Make a reference of your model": ("plan", "designate", "pool", "generate", "info"),
    "Question suspects": ("inspect", "verify", "screen", "queries", "report"),
    "Evidence for the other side": ("commit", "audit"),
    "Research": ("encode", "subspace"),
}


class Group(typer.core.TyperGroup):
    """The commands in sections, each with the whole first sentence of its help."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of use."""
        order = [name for names in SECTIONS.values() for name in names]
        return sorted(super().list_commands(ctx), key=order.index)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """As the base class, which cuts sentences off, and knows no sections."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(limit=200)) for name in names]
                )


class App(typer.Typer):
    """An application whose commands are :class:`Command`."""

    def command(self, name: str | None = None, **given: Any) -> Callable[[F], F]:
        """As the base class."""
        return super().command(name, **{"cls": Command} | given)


app = App(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    cls=Group,
    help="Test whether an image classifier was made from yours, by its answers alone (manual: docs/).",
)


def _version(show: bool) -> None:
    if show:
        from uapfast import __version__

        print(f"uapfast {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def about_images(mean: str | None, std: str | None, channel_order: o.ChannelOrder | None) -> dict[str, Any]:
    """How a suspect takes images, as the functions behind the commands have it."""
    order = None if channel_order is None else channel_order.value
    return {"mean": o.numbers(mean, "--mean"), "std": o.numbers(std, "--std"), "channel_order": order}


def load_given(
    arch: str,
    weights: Path,
    device: str,
    mean: str | None,
    std: str | None,
    channel_order: o.ChannelOrder | None = None,
    **kw: Any,
) -> Model:
    """The model of the options; raises as :func:`uapfast.models.checkpoint.load_model`."""
    from uapfast.models.checkpoint import load_model

    images = about_images(mean, std, channel_order)
    return load_model(arch, weights, **images, device=o.device(device), **kw)
