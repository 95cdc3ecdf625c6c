"""The table: one row for each (reference, suspect). One schema, versioned; docs/screening.md shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from uapfast.types import Decision, Relation, Verdict

SCHEMA_VERSION = 4
MESSAGE_LIMIT = 500
DECLARED, VICTIM = "declared", "victim"  # whence a copy is known


class Column(NamedTuple):
    """One column: its Arrow type by name, whether it may be null, and what it says."""

    name: str
    type: str
    null: bool
    says: str


class About(NamedTuple):
    """What the table needs to know of a reference.

    Attributes:
        name: shown.
        innocents: of its pool.
        alpha: level of a conviction.
        victim: SHA-256 of the victim's tensors, if it is known.
    """

    name: str
    innocents: int
    alpha: float
    victim: str | None = None


COLUMNS = (
    Column("reference", "string", False, "name of the reference: its file's stem, or what the caller said"),
    Column("reference_sha256", "string", False, "SHA-256 of the reference's content"),
    Column("name", "string", False, "name of the suspect: the manifest's, or its path below the folder"),
    Column("path", "string", False, "path of the suspect; bytes that are not UTF-8 are escaped"),
    Column("kind", "string", False, "weights, folder, onnx or endpoint"),
    Column("arch", "string", False, "architecture SPEC; empty where none is known"),
    Column(
        "sha256",
        "string",
        True,
        "SHA-256 of the tensors (names, dtypes, shapes, bytes), or of an ONNX file; null if unreadable or "
        "not read",
    ),
    Column(
        "decision",
        "string",
        False,
        "piracy (needs q <= fdr), independent, inconclusive, invalid or unavailable",
    ),
    Column(
        "relation",
        "string",
        True,
        "how a convicted suspect was made: modification, extraction or unclear; null with every other "
        "decision",
    ),
    Column("p_value", "float64", True, "largest of p_candidate, p_suspect and p_joint, on the views used"),
    Column("p_is_bound", "bool", True, "p_value is the smallest that the pool allows: p is at most that"),
    Column("p_candidate", "float64", True, "candidate side: the victim among its twins; null without twins"),
    Column(
        "p_candidate_floor", "float64", True, "smallest p_candidate that needs no assumption about scores"
    ),
    Column("p_candidate_exact", "float64", True, "rank p-value of the candidate side"),
    Column("p_suspect", "float64", True, "suspect side: the suspect among the pool's innocents"),
    Column("p_suspect_floor", "float64", True, "smallest p_suspect that needs no assumption about scores"),
    Column("p_suspect_exact", "float64", True, "rank p-value of the suspect side"),
    Column("p_joint", "float64", True, "both at once: among all pairs of an innocent and a candidate"),
    Column("p_joint_floor", "float64", True, "smallest p_joint that needs no assumption about scores"),
    Column("p_joint_exact", "float64", True, "rank p-value of both at once"),
    Column("p_view", "float64", True, "the paper's view-level t-test; no false-accusation rate"),
    Column(
        "q_value",
        "float64",
        True,
        "orders the list: Benjamini-Hochberg over all suspects of the reference with a p_value; those above "
        "alpha lower no other",
    ),
    Column(
        "p_holm",
        "float64",
        True,
        "to name one party: p_value corrected for the whole list, and for earlier tries of the store, by "
        "Holm, times the number of references",
    ),
    Column(
        "known_copy",
        "string",
        True,
        "declared (by the list) or victim (the same tensors): no suspect, changes nobody's q_value or p_holm",
    ),
    Column("similarity", "float64", True, "mean cosine with the victim over the views used, -1..1"),
    Column(
        "z",
        "float64",
        True,
        "score with the victim minus the twins' (innocents') mean, divided by a moderated spread",
    ),
    Column("z_pool", "float64", True, "the suspect side's statistic in standard deviations of the pool's"),
    Column("z_population", "float64", True, "z_pool by the robust centre and width of this population"),
    Column("p_population", "float64", True, "normal upper tail of z_population (empirical null)"),
    Column(
        "population_differs", "bool", True, "the population disagrees with the pool; null below 300 suspects"
    ),
    Column("agreement", "float64", True, "share of queries answered like most of the pool's models, 0..1"),
    Column("agreement_least", "float64", True, "the smallest such share among the pool's own models"),
    Column("rank", "int64", True, "place of the victim among the candidates"),
    Column("views_used", "int64", False, "number of views that were scored"),
    Column("queries_used", "int64", False, "answers asked of the suspect for this reference"),
    Column("queries_full", "int64", False, "answers that the whole budget would have taken"),
    Column("output", "string", True, "kind of its answers: logits, probabilities or labels"),
    Column("same_as", "string", True, "name of the suspect with the same tensors that was queried instead"),
    Column("seconds_read", "float64", False, "reading and hashing the file"),
    Column("seconds_load", "float64", False, "checking the weights and copying them into the network"),
    Column("seconds_forward", "float64", False, "answering, for all references together"),
    Column("seconds_score", "float64", False, "scores and decision, this reference"),
    Column("error_class", "string", True, "name of the error, if decision is invalid or unavailable"),
    Column("error_message", "string", True, "what was wrong, one line"),
    Column("reasons", "list<string>", False, "plain sentences, most important first"),
    Column("alpha", "float64", False, "significance level of each side"),
    Column("settings", "string", False, "all other settings; a JSON object"),
    Column("versions", "string", False, "versions of what the result depends on; a JSON object"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; the fields are those of ``COLUMNS``, which says what each is.

    Rows that come while a screen runs have no ``q_value``, ``p_holm`` and ``*population*`` yet: these need
    all rows, and so does the final ``decision`` (:mod:`uapfast.screening.table.population`).
    """

    reference: str
    reference_sha256: str
    name: str
    path: str
    arch: str
    sha256: str | None
    decision: Decision
    alpha: float
    settings: str
    versions: str
    queries_full: int
    kind: str = "weights"
    relation: Relation | None = None
    p_value: float | None = None
    p_is_bound: bool | None = None
    p_candidate: float | None = None
    p_candidate_floor: float | None = None
    p_candidate_exact: float | None = None
    p_suspect: float | None = None
    p_suspect_floor: float | None = None
    p_suspect_exact: float | None = None
    p_joint: float | None = None
    p_joint_floor: float | None = None
    p_joint_exact: float | None = None
    p_view: float | None = None
    q_value: float | None = None
    p_holm: float | None = None
    known_copy: str | None = None
    similarity: float | None = None
    z: float | None = None
    z_pool: float | None = None
    z_population: float | None = None
    p_population: float | None = None
    population_differs: bool | None = None
    agreement: float | None = None
    agreement_least: float | None = None
    rank: int | None = None
    views_used: int = 0
    queries_used: int = 0
    output: str | None = None
    same_as: str | None = None
    seconds_read: float = 0.0
    seconds_load: float = 0.0
    seconds_forward: float = 0.0
    seconds_score: float = 0.0
    error_class: str | None = None
    error_message: str | None = None
    reasons: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types, in the order of ``COLUMNS``."""
        out = {c.name: getattr(self, c.name) for c in COLUMNS}
        out["reasons"] = list(self.reasons)
        return out

    def to_json(self) -> str:
        """One JSON object, never NaN or Infinity."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Row:
        """The row that :meth:`to_json` wrote."""
        found = json.loads(text)
        return cls(**found | {"reasons": tuple(found["reasons"])})

    def moved_to(self, name: str, path: str, notes: tuple[str, ...] = (), **seconds: float) -> Row:
        """The same result for another file with the same tensors, which was not asked again.

        Args:
            name: of that suspect.
            path: of its file.
            notes: what is to be said of how that file was read; among the reasons.
            seconds: spent on it.
        """
        reasons = tuple(dict.fromkeys((*self.reasons, *notes)))
        rest = {"seconds_load": 0.0, "seconds_forward": 0.0, "seconds_score": 0.0} | seconds
        return replace(self, name=name, path=path, reasons=reasons, same_as=self.same_as or self.name, **rest)  # type: ignore[arg-type]


SECONDS = tuple(f.name for f in fields(Row) if f.name.startswith("seconds_"))
assert {f.name for f in fields(Row)} == {c.name for c in COLUMNS}

VERDICT_FIELDS = tuple(
    f.name for f in fields(Verdict) if f.name in {c.name for c in COLUMNS} and f.name not in ("settings",)
)
"""What a row and a :class:`Verdict` have in common."""


def error_line(error: BaseException) -> str:
    """An error's message as one printable line of at most ``MESSAGE_LIMIT`` characters."""
    text = " ".join(str(error)[: 8 * MESSAGE_LIMIT].split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 4] + " ..."


__all__ = [
    "COLUMNS",
    "DECLARED",
    "SCHEMA_VERSION",
    "SECONDS",
    "VERDICT_FIELDS",
    "VICTIM",
    "About",
    "Column",
    "Row",
    "error_line",
]
