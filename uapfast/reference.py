"""The reference: what ``generate`` writes for one victim and every later step reads.

It is one ``.safetensors`` file (usually named ``.uapref``): tensors, and one JSON object in the metadata with
settings and a SHA-256 of the content. Keep it secret until it is used: whoever has it can prepare a model for
its queries.
"""

from __future__ import annotations

import io
import os
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import InputError, ReferenceFileError
from uapfast.files import write_bytes
from uapfast.images import floats, packed
from uapfast.method.consensus import SHOWING, Consensus, Majority
from uapfast.method.fingerprint import QueryPlan
from uapfast.method.lineage import Roster
from uapfast.method.statistic import STATISTICS, PoolAnswers, Statistic
from uapfast.pool.twins import selection_doubt
from uapfast.reference_check import inconsistency
from uapfast.reference_file import (
    FORMAT,
    Record,
    bad_reference,
    content_sha256,
    make_roster,
    parse_reference,
    read_reference_file,
    reference_bytes,
)


@dataclass(frozen=True, eq=False)
class Reference:
    """A victim's queries, and how the models of its pool answer them.

    Immutable and safe to share between threads. Equal if ``sha256`` is equal; can be pickled.

    Attributes:
        plan: the queries.
        records: the pool's models, row by row of ``answers``; the victim first.
        answers: float32 ``[M,V,B,n,R]``: probabilities of the pool's models (classes reduced as ``keep``
            says).
        labels: int64 ``[M,V,B,n]``: top class of the pool's models, as a column of R.
        keep: classes each query keeps, or None for all.
        classes: K of the victim.
        encoder: ``lineage`` or ``paper``.
        weights: encoder network (``paper``), or empty.
        settings: all other settings and measurements; JSON types.
        probes: images ``[P,C,H,W]`` on which the pool's models agree; they are never scored. Kept as bytes if
            ``plan.points`` would be; or None. :attr:`probe_images` gives floats.
        probe_labels: int64 ``[P]``: the class that most of the pool's models give.
    """

    plan: QueryPlan
    records: tuple[Record, ...]
    answers: Tensor
    labels: Tensor
    keep: Tensor | None
    classes: int
    encoder: str
    weights: dict[str, Tensor]
    settings: dict[str, Any]
    probes: Tensor | None = None
    probe_labels: Tensor | None = None
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.RLock, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Keep as bytes what bytes hold."""
        if self.probes is not None:
            object.__setattr__(self, "probes", packed(self.probes))

    def __eq__(self, other: object) -> bool:
        return self.sha256 == other.sha256 if isinstance(other, Reference) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the lock, and what can be made again."""
        return {k: v for k, v in vars(self).items() if k not in ("_cache", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _cache={}, _lock=threading.RLock())

    # -- what it holds -------------------------------------------------------------------------
    @property
    def points(self) -> Tensor:
        """Query points, float32 ``[Q,C,H,W]`` in 0..1: all, which may be gigabytes; see ``plan.x``."""
        return floats(self.plan.points)

    @property
    def probe_images(self) -> Tensor | None:
        """The probes, float32 ``[P,C,H,W]`` in 0..1, or None."""
        return None if self.probes is None else floats(self.probes)

    @property
    def shape(self) -> tuple[int, ...]:
        """``[C,H,W]`` of its queries."""
        return tuple(self.plan.points.shape[1:])

    @property
    def uaps(self) -> Tensor:
        """UAPs, float32 ``[P,C,H,W]``; the victim's first. None (P = 0) where none is asked or shown."""
        return self.plan.uaps

    @property
    def candidates(self) -> list[str]:
        """Names of the victim and its twins."""
        return [r.name for r in self.records if r.relation in ("victim", "twin")]

    @property
    def clean(self) -> int:
        """The block of clean answers, by which agreement is measured; the first where none is clean."""
        return self.plan.scale.index(0.0) if 0.0 in self.plan.scale else 0

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """The victim's ``mean``, ``std`` and ``channel_order``, as it came; None if it takes 0..1 images."""
        found: dict[str, Any] | None = self.settings.get("preprocessing")
        return found

    @property
    def consensus(self) -> Consensus:
        """The labels that the pool's models agree on (surrogates left out: candidates would count often)."""
        found: Consensus = self._cached("consensus", self._make_consensus)
        return found

    def _make_consensus(self) -> Consensus:
        rows = self._rows("victim", "twin", "homologous")
        kept = None if self.keep is None else self.keep[:, self.clean].numpy()
        return Consensus.of(self.labels[rows, :, self.clean].numpy(), self.answers.shape[-1], kept)

    @property
    def others(self) -> tuple[Majority, ...]:
        """What twins and homologous models say of the first clean queries, for each number in ``SHOWING``."""
        found: tuple[Majority, ...] = self._cached("others", self._make_others)
        return found

    def _make_others(self) -> tuple[Majority, ...]:
        labels = self.labels[self._rows("twin", "homologous"), :, self.clean].flatten(1).numpy()
        kept = None if self.keep is None else self.keep[:, self.clean].flatten(0, 1).numpy()
        classes = self.answers.shape[-1]
        return tuple(
            Majority.of(labels[:, :count], classes, None if kept is None else kept[:count])
            for count in SHOWING
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of ``generate``; every verdict repeats them."""
        return tuple(self.settings.get("warnings", ()))

    @property
    def limits(self) -> tuple[str, ...]:
        """Why this reference must not convict, from the tests of ``generate``; empty if it may convict."""
        return tuple(self.settings.get("limits", ()))

    @property
    def inexact(self) -> str | None:
        """Why the rank among the innocents is not exact: what they influenced; None if it is exact."""
        found = self.settings.get("suspect_side")
        if found is None:
            return "the innocents helped to choose the query points, as older versions had it"
        why: str | None = found["why"]
        return why

    @property
    def caveats(self) -> list[str]:
        """What every verdict says about assumptions that this reference does not fully meet."""
        chosen = selection_doubt(self.settings.get("twins", {})) if len(self.candidates) > 2 else None
        rank = self.inexact and f"p_suspect_exact is no exact rank here: {self.inexact}"
        return [said for said in (rank, chosen) if said]

    @property
    def sha256(self) -> str:
        """SHA-256 of tensors and settings; equal references have the same, wherever they are stored."""
        return str(self._cached("sha256", lambda: content_sha256(self._tensors(), self._header())))

    def model_answers(self, name: str) -> NDArray[np.float32]:
        """A pool model's probabilities, ``[B,Q,R]``, view after view along Q."""
        row = [r.name for r in self.records].index(name)
        answers = self.answers[row].transpose(0, 1).flatten(1, 2)
        out: NDArray[np.float32] = answers.numpy()
        return out

    def _rows(self, *relations: str) -> list[int]:
        return [i for i, r in enumerate(self.records) if r.relation in relations]

    @property
    def innocents(self) -> list[int]:
        """Rows of the models that the suspect side compares with; none trained an encoder or is a variant."""
        rows = self._rows("homologous")
        return [i for i in rows if self.records[i].counted and not self.records[i].trains_encoder]

    def roster(self) -> Roster:
        """Rows by role, as the lineage scorer needs them."""
        return make_roster(self.records)

    @property
    def most_asked(self) -> int:
        """Images that a suspect may be asked: all queries, and the probes."""
        return self.plan.queries + (0 if self.probes is None else len(self.probes))

    @property
    def statistic(self) -> Statistic:
        """How its encoder scores answers; built once."""
        found: Statistic = self._cached("statistic", self._make_statistic)
        return found

    def _make_statistic(self) -> Statistic:
        log = self.settings.get("log") or {}
        hidden = 0 if self.keep is None else self.classes - self.keep.shape[-1]
        pool = PoolAnswers(
            self.answers,
            self.labels,
            self.roster(),
            self.innocents,
            self._rows("piracy"),
            self.weights,
            hidden,
            int(log.get("views", 0)),
        )
        return STATISTICS[self.encoder](pool)

    # -- file ------------------------------------------------------------------------------------
    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            "points": self.plan.points,
            "uaps": self.plan.uaps,
            "assign": self.plan.assign,
            "answers": self.answers,
            "labels": self.labels,
        }
        for name in ("keep", "probes", "probe_labels"):
            if getattr(self, name) is not None:
                tensors[name] = getattr(self, name)
        tensors |= {f"encoder.{k}": v for k, v in self.weights.items()}
        return {k: v.contiguous() for k, v in sorted(tensors.items())}

    def _header(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "encoder": self.encoder,
            "classes": self.classes,
            "views": self.plan.views,
            "scale": list(self.plan.scale),
            "wire_safe": self.plan.wire_safe,
            "records": [vars(r) for r in self.records],
            "settings": self.settings,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the reference to a file, completely or not at all.

        Raises:
            StorageError: the folder is missing or unwritable, or the disk is full.
        """
        write_bytes(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of its file."""
        return reference_bytes(self._tensors(), self._header(), self.sha256)

    def _cached(self, key: str, make: Any) -> Any:
        with self._lock:
            if key not in self._cache:
                self._cache[key] = make()
            return self._cache[key]


def load(path: str | os.PathLike[str]) -> Reference:
    """Read a reference from a file.

    Raises:
        ReferenceFileError: the file is missing, damaged, truncated, or of another version.

    Example:
        >>> reference = uapfast.load("victim.uapref")
        >>> reference.limits  # what keeps it from convicting
        ()
    """
    return _made(*read_reference_file(path), path)


def from_bytes(content: bytes, name: str = "bytes") -> Reference:
    """The reference whose file has this content; raises as :func:`load`, with ``name`` for the path."""
    return _made(*parse_reference(io.BytesIO(content), len(content), name), name)


def _made(tensors: dict[str, Tensor], header: dict[str, Any], sha256: str, path: object) -> Reference:
    try:
        wrong = inconsistency(header, tensors)
        if wrong is not None:
            raise bad_reference(path, "complete", f"one with {wrong}")
        views = int(header["views"])
        plan = QueryPlan(
            tensors["points"],
            tensors["uaps"],
            tensors["assign"],
            tuple(header["scale"]),
            views,
            header["wire_safe"],
        )
        weights = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
        records = tuple(Record(**r) for r in header["records"])
        reference = Reference(
            plan,
            records,
            tensors["answers"],
            tensors["labels"],
            tensors.get("keep"),
            int(header["classes"]),
            str(header["encoder"]),
            weights,
            header["settings"],
            tensors.get("probes"),
            tensors.get("probe_labels"),
            {"sha256": sha256},
        )
        expected = (len(records), views, plan.blocks, plan.per_view)
        fits = tuple(reference.answers.shape[:4]) == expected == tuple(reference.labels.shape)
    except ReferenceFileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, IndexError) as exc:
        raise bad_reference(path, "complete", f"one without {str(exc)[:200]}") from exc
    if not fits:
        raise bad_reference(path, f"consistent (answers {expected})", tuple(reference.answers.shape))
    return reference


def as_reference(given: object, where: str) -> Reference:
    """A reference, or the one in a file.

    Args:
        given: a reference or a path.
        where: who asks, for the error.

    Raises:
        InputError: neither.
        ReferenceFileError: see :func:`load`.
    """
    if isinstance(given, Reference):
        return given
    if isinstance(given, str | os.PathLike):
        return load(given)
    raise InputError(where, "reference", "a Reference or its file", type(given).__name__)


__all__ = ["FORMAT", "Record", "Reference", "as_reference", "load", "make_roster"]
