"""Who does the work of a screen, by name. An engine is one file with a function ``run``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from uapfast.errors import InputError, MissingDependency, how_to_install
from uapfast.screening.asking.panel import Panel
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.rows import Row

# name -> (module with ``run``, package that it needs, extra that brings it)
ENGINES: dict[str, tuple[str, str, str]] = {
    "local": ("uapfast.screening.engine.local", "torch", ""),
    "ray": ("uapfast.screening.engine.ray", "ray", "ray"),
}


@dataclass(frozen=True, slots=True)
class JobResult:
    """What came of one suspect.

    Attributes:
        suspect: who.
        stamp: of its file when it was read.
        rows: one for each reference.
        reused: they rest on a network that others had before (:mod:`uapfast.suspects.networks.skeletons`).
        refuted: so may no row of this network: those that did are to be asked again.
    """

    suspect: Entry
    stamp: str
    rows: tuple[Row, ...]
    reused: bool = False
    refuted: bool = False


class Engine(Protocol):
    """The ``run`` of an engine's module."""

    def __call__(
        self,
        panel: Panel,
        suspects: Iterator[tuple[Entry, str]],
        known: Callable[[Entry, str], list[Row] | None],
        address: str | None,
    ) -> Generator[JobResult, None, None]:
        """Ask every suspect.

        Args:
            panel: references and settings.
            suspects: with the stamps of their files; taken from one thread, not far ahead.
            known: rows of a suspect with the same network and tensors (SHA-256) that was asked already.
                To be called where ``suspects`` is taken.
            address: of a cluster.

        Yields:
            One ``JobResult`` a suspect, in any order. Whatever is wrong with a suspect is in its rows.
        """
        ...


def engine(name: str) -> Engine:
    """The engine called ``name``.

    Raises:
        InputError: there is none.
        MissingDependency: it needs an extra that is not installed.
    """
    if name not in ENGINES:
        raise InputError("screen", "engine", "one of " + ", ".join(ENGINES), repr(name))
    module, package, extra = ENGINES[name]
    if find_spec(package) is None or find_spec(module) is None:
        raise MissingDependency(f"screen: engine {name} needs the extra {extra} ({how_to_install(extra)})")
    run: Engine = importlib.import_module(module).run
    return run


__all__ = ["ENGINES", "Engine", "JobResult", "engine"]
