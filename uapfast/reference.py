"""The reference: what ``generate`` writes for one victim and every later step reads.

One ``.safetensors`` file (by custom ``.uapref``): tensors, and one JSON object in the metadata with
settings and a SHA-256 of the content. It is secret until used: who has it can prepare for its queries.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import InputError
from uapfast.method import decision
from uapfast.method.consensus import Consensus
from uapfast.method.encoder import PaperScorer, make_network
from uapfast.method.fingerprint import QueryPlan, paper_features
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.method.pixels import floats, packed
from uapfast.method.scaling import Scaling
from uapfast.method.spread import standings
from uapfast.reference_file import FORMAT, Record, bad, digest, make_roster, read, write

NO_UAP = "none: every query is a clean point (generate --show-uap makes the victim's all the same)"
Scorer = LineageScorer | PaperScorer


@dataclass(frozen=True, eq=False)
class Reference:
    """Immutable and safe to share between threads. Equal if the content is (``sha256``); can be pickled.

    Attributes:
        plan: the queries.
        records: the pool's models, row by row of ``answers``; the victim first.
        answers: float32 ``[M,V,B,n,R]``: their probabilities (classes reduced as ``keep`` says).
        labels: int64 ``[M,V,B,n]``: their top class, as a column of R.
        keep: classes each query keeps, or None for all.
        classes: K of the victim.
        encoder: ``lineage`` or ``paper``.
        weights: encoder network (``paper``), or empty.
        settings: everything else that was set or measured; JSON types.
        probes: images ``[P,C,H,W]`` on which the pool's models agree, which are never scored, as bytes where
            ``plan.points`` would be; or None. :attr:`probe_images` gives floats.
        probe_labels: int64 ``[P]``: the class that most of them give.
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
    def preprocessing(self) -> dict[str, list[float]] | None:
        """``mean`` and ``std`` of the victim as ``generate`` was given it; None if it takes 0..1 images."""
        found: dict[str, list[float]] | None = self.settings.get("preprocessing")
        return found

    @property
    def consensus(self) -> Consensus:
        """The labels that the pool's models agree on (surrogates left out: candidates would count often)."""
        rows = self._rows("victim", "twin", "homologous")
        found: Consensus = self._cached(
            "consensus",
            lambda: Consensus.of(self.labels[rows, :, self.clean].numpy(), self.answers.shape[-1]),
        )
        return found

    @property
    def warnings(self) -> tuple[str, ...]:
        """What ``generate`` warned of; every verdict repeats it."""
        return tuple(self.settings.get("warnings", ()))

    @property
    def limits(self) -> tuple[str, ...]:
        """Why this reference may not convict, from the tests that ``generate`` made; empty if it may."""
        return tuple(self.settings.get("limits", ()))

    @property
    def sha256(self) -> str:
        """Of tensors and settings; the same for equal references wherever they are stored."""
        return str(self._cached("sha256", lambda: digest(self._tensors(), self._header())))

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

    def scorer(self, labels_only: bool = False) -> Scorer:
        """The scorer for answers with probabilities, or with labels only. Built once each."""
        scorer: Scorer = self._cached(f"scorer:{labels_only}", lambda: self._make_scorer(labels_only))
        return scorer

    def pool_features(self, labels_only: bool, views: int | None = None) -> NDArray[np.float32]:
        """Features of the pool's models ``[M,V,B,F]``; with labels only, innocents (lineage) seen by them."""
        shown, hard = self.answers[:, :views], np.zeros(len(self.answers), dtype=bool)
        if labels_only:
            hard[self.innocents if self.encoder == "lineage" else slice(None)] = True
            labels = torch.nn.functional.one_hot(self.labels[:, :views], shown.shape[-1])
            shown = torch.where(torch.from_numpy(hard)[(..., *[None] * 4)], labels, shown)
        return np.stack([self.suspect_features(one, bool(h)) for one, h in zip(shown, hard, strict=True)])

    def suspect_features(self, reduced: Tensor, labels_only: bool, first: int = 0) -> NDArray[np.float32]:
        """Features ``[k,B,F]`` of one suspect from its reduced probabilities ``[k,B,n,R]``.

        Args:
            reduced: answers to k views, one-hot with ``labels_only``.
            labels_only: the suspect answers with labels; there is no confidence to scale.
            first: number of the first of these views.
        """
        if self.encoder != "lineage":
            return np.asarray(paper_features(reduced))
        if labels_only:
            return self._scaling.label_features(reduced.numpy(), first)
        return self._scaling.features(reduced.numpy(), first)

    @property
    def _scaling(self) -> Scaling:
        rows = self._rows("victim", "twin")
        scaling: Scaling = self._cached("scaling", lambda: Scaling.of(self.answers[rows].numpy()))
        return scaling

    def _make_scorer(self, labels_only: bool) -> Scorer:
        pool = self.pool_features(labels_only)
        if self.encoder == "lineage":
            return LineageScorer(pool, self.roster())
        network = make_network(pool.shape[-1])
        network.load_state_dict(self.weights)
        return PaperScorer(network.eval().requires_grad_(False), pool[0], pool[self.innocents])

    # -- what it says --------------------------------------------------------------------------
    def calibration(self) -> dict[str, NDArray[np.float64]]:
        """Scores of the pool's own models, for plots and for the statement of power.

        Keys: ``innocent_z``, ``innocent_similarity``, ``innocent_statistic`` (what the suspect side
        compares), ``innocent_pairs`` (the same with every candidate in the victim's place, ``[n,C]``; without
        twins the same), ``surrogate_z``, ``surrogate_similarity``;
        each innocent is left out of its own whitening, each surrogate's kind out of the templates.
        """
        found: dict[str, NDArray[np.float64]] = self._cached("calibration", self._calibrate)
        return found

    def _calibrate(self) -> dict[str, NDArray[np.float64]]:
        scorer = self.scorer()
        if isinstance(scorer, LineageScorer):
            scores, statistic = scorer.innocent_scores()
            pairs = standings(scores) if self._by_twins else statistic
            similarity = scores[:, 0]
            surrogate_z, surrogate_similarity = scorer.surrogate_scores()
        else:
            pairs = statistic = similarity = scorer.assess(scorer.victim).innocents
            rows = self.pool_features(False)[self._rows("piracy")]
            surrogate_similarity = np.array([scorer.assess(row).similarity for row in rows])
            surrogate_z = np.array([decision.compare(s, statistic).z for s in surrogate_similarity])
        if self._by_twins:
            z = statistic
        else:
            z = np.array([decision.compare(s, statistic).z for s in statistic])
        return {
            "innocent_z": z,
            "innocent_similarity": similarity,
            "innocent_statistic": statistic,
            "innocent_pairs": pairs,
            "surrogate_z": surrogate_z,
            "surrogate_similarity": surrogate_similarity,
        }

    @property
    def _by_twins(self) -> bool:
        """Whether z counts standard deviations of the twins' scores (of the innocents' otherwise)."""
        return self.encoder == "lineage" and self.roster().has_twins

    def threshold_z(self, alpha: float) -> float:
        """The z from which a suspect is convicted, the pool's innocents unchanged; infinite if none is."""
        statistic = self.calibration()["innocent_statistic"]
        if not self._by_twins:
            return decision.upper_t(alpha, len(statistic) - 1)
        pairs = self.calibration()["innocent_pairs"]
        return decision.needed(alpha, len(self.candidates) - 1, statistic, pairs)

    def power(self, alpha: float) -> float | None:
        """Share of the pool's own surrogates above :meth:`threshold_z`; None without surrogates."""
        z = self.calibration()["surrogate_z"]
        return float((z > self.threshold_z(alpha)).mean()) if len(z) else None

    def summary(self) -> dict[str, Any]:
        """What ``uapfast info`` shows; JSON types."""
        count = {r: len(self._rows(r)) for r in ("twin", "piracy", "homologous")}
        return {
            "format": FORMAT,
            "sha256": self.sha256,
            "encoder": self.encoder,
            "classes": self.classes,
            "input": list(self.shape),
            "views": self.plan.views,
            "points_per_view": self.plan.per_view,
            "ray": list(self.plan.scale),
            "queries": self.plan.queries,
            "wire_safe": self.plan.wire_safe,
            "pool": count,
            "conviction": {
                f"{alpha:g}": {
                    "threshold_z": z if np.isfinite(z := self.threshold_z(alpha)) else None,
                    "pool_surrogates_above": self.power(alpha),
                }
                for alpha in (0.01, 0.001, 0.0001)
            },
            **self.settings,
            **({} if len(self.uaps) else {"uap": NO_UAP}),
        }

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
        """Write the reference, whole or not at all.

        Raises:
            StorageError: the folder is missing or unwritable, or the disk is full.
        """
        write(path, self._tensors(), self._header(), self.sha256)

    def _cached(self, key: str, make: Any) -> Any:
        with self._lock:
            if key not in self._cache:
                self._cache[key] = make()
            return self._cache[key]


def load(path: str | os.PathLike[str]) -> Reference:
    """Read a reference.

    Raises:
        ReferenceFileError: missing, damaged, truncated, or of another version.
    """
    tensors, header, sha256 = read(path)
    try:
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
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as exc:
        raise bad(path, "complete", f"one without {exc}") from exc
    if not fits:
        raise bad(path, f"consistent (answers {expected})", tuple(reference.answers.shape))
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
