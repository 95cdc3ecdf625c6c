"""The references of a screen, prepared: their queries resident, their pools cut into the stages of asking."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from uapfast._version import versions
from uapfast.config import TIMEOUT
from uapfast.errors import InputError
from uapfast.examination import Design, told
from uapfast.method.sequential import Looks
from uapfast.reference import Reference
from uapfast.screening.table.rows import About

RESIDENT = 2 << 30  # bytes of queries that are kept; beyond, they are made anew for every suspect


@dataclass(frozen=True, slots=True)
class Settings:
    """How a screen asks and decides.

    Attributes:
        alpha: level of a conviction on each side, in (0, 0.5).
        queries: most answers asked of a suspect for one reference, or None for all.
        early: let suspects go that the views left could hardly convict (:mod:`uapfast.method.sequential`).
        device: where networks run.
        workers: suspects asked at a time, or None for one a core.
        precision: of the networks, ``float32`` or ``bf16``.
        batch_size: queries a forward, at most; None for what images of their size allow.
        timeout: seconds that reading a suspect, or asking it, may take; may be infinite.
        anew: networks (:attr:`Entry.network`) that are built for every suspect.
        conduct: towards endpoints, as :func:`uapfast.suspects.http.open_http` takes it.
        record: folder that gets a record of every suspect and reference, or None.
    """

    alpha: float
    queries: int | None = None
    early: bool = True
    device: str = "cpu"
    workers: int | None = None
    precision: str = "float32"
    timeout: float = TIMEOUT
    anew: frozenset[str] = frozenset()
    conduct: tuple[tuple[str, Any], ...] = ()
    batch_size: int | None = None
    record: str | None = None


@dataclass
class PreparedReference:
    """One reference of a screen.

    Attributes:
        reference: itself.
        name: shown in the table.
        settings: of the screen.
        design: how suspects are asked: its budget, at most the reference's views, and its looks.
        kept: queries that stay in memory, by view.
    """

    reference: Reference
    name: str
    settings: Settings
    design: Design = field(init=False)
    kept: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Fix budget and looks; raises ``InputError`` where not even one view fits ``queries``."""
        plan, most = self.reference.plan, self.settings.queries
        each = plan.blocks * plan.per_view
        if most is not None and most < each:
            raise InputError("screen", "queries", f"at least {each}, one view of {self.name}", most)
        views = plan.views if most is None else min(plan.views, most // each)
        early = self.settings.early and self.reference.statistic.partial
        place = self.settings.device if self.reference.statistic.by_twins else "cpu"
        self.design = Design(self.reference, Looks.default(views) if early else Looks.single(views), place)

    @property
    def queries(self) -> int:
        """Answers of the whole budget."""
        return self.design.queries(self.design.views)

    def keep(self, device: str) -> None:
        """Make every query and leave it on ``device``."""
        for view in range(self.design.views):
            self.kept[view] = self.reference.plan.images(view).to(device)

    def images(self, view: int) -> Tensor:
        """Queries of one view, float32 ``[B*n,C,H,W]`` in 0..1; not to be written to."""
        kept = self.kept.get(view)
        return self.reference.plan.images(view) if kept is None else kept

    def told(self) -> str:
        """What a row says of its settings, a JSON object."""
        looks, own = self.design.looks, told(self.reference)
        del own["versions"]  # a column of its own
        own |= {"views": self.design.views, "looks": list(looks.views)}
        return json.dumps(own | {"device": self.settings.device, "precision": self.settings.precision})


@dataclass(frozen=True)
class Panel:
    """All references of a screen.

    Attributes:
        asked: in the order of the table.
        settings: of the screen.
        versions: of what results depend on, a JSON object.
    """

    asked: tuple[PreparedReference, ...]
    settings: Settings
    versions: str

    @classmethod
    def of(cls, references: Mapping[str, Reference], settings: Settings, place: str | None = None) -> Panel:
        """Prepare references (by name); queries become resident if they fit ``RESIDENT``.

        Args:
            references: by name.
            settings: of the screen.
            place: device on which queries are kept, if not that of the settings.

        Raises:
            InputError: none, the same twice, or a budget below one view.
        """
        if not references:
            raise InputError("screen", "references", "at least one", "none")
        seen: dict[str, str] = {}
        for name, reference in references.items():
            first = seen.setdefault(reference.sha256, name)
            if first != name:
                raise InputError("screen", "references", "different from each other", f"{first} = {name}")
        asked = tuple(PreparedReference(reference, name, settings) for name, reference in references.items())
        size = sum(a.queries * 4 * math.prod(a.reference.shape) for a in asked)
        if size <= RESIDENT:
            for one in asked:
                one.keep(place or settings.device)
        return cls(asked, settings, json.dumps(versions()))

    def keys(self) -> dict[str, str]:
        """Hash of what a row depends on besides reference and suspect, by the reference's SHA-256."""
        own = {"alpha": self.settings.alpha, "uapfast": json.loads(self.versions)["uapfast"]}
        if self.settings.precision != "float32":
            own["precision"] = self.settings.precision
        looks = {a.reference.sha256: a.design.looks.views for a in self.asked}
        return {sha256: _hash(own | {"looks": look}) for sha256, look in looks.items()}

    def about(self) -> dict[str, About]:
        """What the table needs to know of each reference, by SHA-256."""
        return {
            a.reference.sha256: About(
                a.name,
                len(a.reference.innocents),
                self.settings.alpha,
                a.reference.settings.get("victim_sha256"),
            )
            for a in self.asked
        }


def _hash(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def shape_of(asked: PreparedReference) -> Sequence[int]:
    """``[C,H,W]`` of a reference's queries."""
    return asked.reference.shape


__all__ = ["Panel", "PreparedReference", "Settings", "shape_of"]
