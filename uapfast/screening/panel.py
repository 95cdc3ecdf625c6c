"""The references of a screen, prepared: their queries resident, their pools cut into the stages of asking."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from uapfast._version import versions
from uapfast.config import TIMEOUT
from uapfast.errors import InputError
from uapfast.method.decision import decide
from uapfast.method.lineage import LineageScorer
from uapfast.method.sequential import Background, Looks, Stop, Stopper
from uapfast.method.standing import assessment
from uapfast.method.whitening import Array
from uapfast.reference import Reference
from uapfast.screening.rows import About

RESIDENT = 2 << 30  # bytes of queries that are kept; beyond, they are made anew for every suspect


@dataclass(frozen=True, slots=True)
class Settings:
    """How a screen asks and decides.

    Attributes:
        alpha: level of a conviction on each side, in (0, 0.5).
        queries: most answers asked of a suspect for one reference, or None for all.
        early: stop as soon as the answers settle it (:mod:`uapfast.method.sequential`).
        device: where networks run.
        workers: suspects asked at a time, or None for one a core.
        precision: of the networks, ``float32`` or ``bf16``.
        timeout: seconds that reading a suspect, or asking it, may take; may be infinite.
        anew: networks (:attr:`Suspect.network`) that are built for every suspect.
    """

    alpha: float
    queries: int | None = None
    early: bool = True
    device: str = "cpu"
    workers: int | None = None
    precision: str = "float32"
    timeout: float = TIMEOUT
    anew: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Mode:
    """A pool in one access mode (probabilities or labels)."""

    scorer: LineageScorer
    background: Background | None


@dataclass
class Asked:
    """One reference of a screen.

    Attributes:
        reference: itself.
        name: shown in the table.
        settings: of the screen.
        views: budget, at most those of the reference.
        looks: numbers of views after which is looked; the last is ``views``.
    """

    reference: Reference
    name: str
    settings: Settings
    views: int = field(init=False)
    looks: Looks = field(init=False)
    _modes: dict[bool, Mode] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _kept: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Fix budget and looks; raises ``InputError`` where not even one view fits ``queries``."""
        plan, most = self.reference.plan, self.settings.queries
        each = plan.blocks * plan.per_view
        if most is not None and most < each:
            raise InputError("screen", "queries", f"at least {each}, one view of {self.name}", most)
        self.views = plan.views if most is None else min(plan.views, most // each)
        lineage = self.reference.encoder == "lineage"
        early = self.settings.early and lineage
        self.looks = Looks.default(self.views) if early else Looks((self.views,), (1.0,))

    @property
    def queries(self) -> int:
        """Answers of the whole budget."""
        return self.asked(self.views)

    def asked(self, views: int) -> int:
        """Answers of the first ``views`` views."""
        return views * self.reference.plan.blocks * self.reference.plan.per_view

    def stage(self, number: int) -> range:
        """Views that are asked between look ``number - 1`` and look ``number``."""
        return range(self.looks.views[number - 1] if number else 0, self.looks.views[number])

    def keep(self, device: str) -> None:
        """Make every query and leave it on ``device``."""
        for view in range(self.views):
            self._kept[view] = self.reference.plan.images(view).to(device)

    def images(self, view: int) -> Tensor:
        """Queries of one view, float32 ``[B*n,C,H,W]`` in 0..1; not to be written to."""
        kept = self._kept.get(view)
        return self.reference.plan.images(view) if kept is None else kept

    def mode(self, labels_only: bool) -> Mode:
        """The pool in one access mode; made once each."""
        with self._lock:
            if labels_only not in self._modes:
                self._modes[labels_only] = self._make_mode(labels_only)
            return self._modes[labels_only]

    def _make_mode(self, labels_only: bool) -> Mode:
        pool = self.reference.pool_features(labels_only, self.views)
        scorer = LineageScorer(pool, self.reference.roster())
        early = len(self.looks.views) > 1
        return Mode(scorer, Background.of(scorer) if early else None)

    def settle(self, own: Array, rest: Array, mode: Mode) -> Stop:
        """The decision on the whole budget, without early stopping."""
        found = assessment(own, rest, twins=mode.scorer.roster.has_twins)
        return Stop(decide(found, self.settings.alpha), self.views, found.similarity)

    def stopper(self, mode: Mode) -> Stopper | None:
        """One suspect's looks; None without early stopping."""
        background = mode.background
        return None if background is None else Stopper(self.looks, background, self.settings.alpha)

    def told(self) -> str:
        """What a row says of its settings, a JSON object."""
        reference = self.reference
        return json.dumps(
            {
                "encoder": reference.encoder,
                "ray": list(reference.plan.scale),
                "twins": len(reference.candidates) - 1,
                "innocents": len(reference.innocents),
                "views": self.views,
                "looks": list(self.looks.views),
                "spend": list(self.looks.spend),
                "device": self.settings.device,
                "precision": self.settings.precision,
            }
        )


@dataclass(frozen=True)
class Panel:
    """All references of a screen.

    Attributes:
        asked: in the order of the table.
        settings: of the screen.
        versions: of what results depend on, a JSON object.
    """

    asked: tuple[Asked, ...]
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
        asked = tuple(Asked(reference, name, settings) for name, reference in references.items())
        size = sum(a.queries * 4 * a.reference.points[0].numel() for a in asked)
        if size <= RESIDENT:
            for one in asked:
                one.keep(place or settings.device)
        return cls(asked, settings, json.dumps(versions()))

    @property
    def stages(self) -> int:
        """The most looks of any reference."""
        return max(len(a.looks.views) for a in self.asked)

    def keys(self) -> dict[str, str]:
        """Hash of what a row depends on besides reference and suspect, by the reference's SHA-256."""
        own = {"alpha": self.settings.alpha, "uapfast": json.loads(self.versions)["uapfast"]}
        if self.settings.precision != "float32":
            own["precision"] = self.settings.precision
        looks = {a.reference.sha256: [a.looks.views, a.looks.spend] for a in self.asked}
        return {sha256: _hash(own | {"looks": look}) for sha256, look in looks.items()}

    def about(self) -> dict[str, About]:
        """What the table needs to know of each reference, by SHA-256."""
        return {a.reference.sha256: About(a.name, len(a.reference.innocents)) for a in self.asked}


def _hash(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def shape_of(asked: Asked) -> Sequence[int]:
    """``[C,H,W]`` of a reference's queries."""
    return tuple(asked.reference.points.shape[1:])


__all__ = ["Asked", "Mode", "Panel", "Settings", "shape_of"]
