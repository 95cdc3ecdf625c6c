"""The statement: what was found of one suspect and all that it rests on, signed (in-toto Statement v1)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from uapfast._version import versions
from uapfast.config import ALPHA
from uapfast.errors import EvidenceError
from uapfast.evidence import timestamp
from uapfast.evidence.canonical import decimals
from uapfast.evidence.commitment import Commitment
from uapfast.evidence.compare import DECIMAL
from uapfast.evidence.envelope import SignedStatement, bundled, read_signed, sign, statement
from uapfast.evidence.keys import PrivateKey, PublicKey
from uapfast.examination.error_rates import rates_for
from uapfast.files import write_bytes
from uapfast.reference import FORMAT
from uapfast.types import Verdict

KIND = "urn:uapfast:verdict:v1"
DOCS = "docs/verdicts.md"
FIELDS = {
    "evaluatedAt", "examination", "decision", "level", "pValues", "relation", "reasons", "queries", "verdict",
    "reference", "record", "commitment", "measured", "versions", "signer",
}  # fmt: skip
SIDES = {
    "candidate": "victim and twins are exchangeable",
    "suspect": "an innocent suspect and the pool's innocents are exchangeable",
    "joint": "both: victim and twins, and an innocent suspect and the pool's innocents, are exchangeable",
}
BELOW = {
    "candidate": "below the floor: scores are normal and vary at most twice as much as innocents' do",
    "suspect": "below the floor: scores are normal and vary at most twice as much as innocents' do",
    "joint": "below the floor: chances fall at least as the fourth power beyond all pairs",
}

BEGAN = {
    "before": "the examination began before the reference was committed to ({time}): the commitment says "
    "nothing of whether the test was chosen after its outcome",
    "unknown": "when its answers were given, before the commitment ({time}) or after, is not known",
}  # the last reason of a verdict that cites a commitment made later, or perhaps later
LEVEL = "the level {level} is the one that was committed to; the default is {default}"
MARKS = {
    "{time}": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "{level}": DECIMAL.pattern,
    "{default}": DECIMAL.pattern,
}


def _pattern(text: str) -> str:
    found = re.escape(text)
    for mark, pattern in MARKS.items():
        found = found.replace(re.escape(mark), pattern)
    return found


CITED = re.compile("|".join(map(_pattern, (*BEGAN.values(), LEVEL))))
MOST_CITED = 2  # reasons that a commitment adds


@dataclass(frozen=True)
class Citation:
    """The commitment that a verdict was made under.

    Attributes:
        commitment: read, and held against the reference.
        began: whether the examination began ``after`` or ``before`` it, or ``unknown``.
    """

    commitment: Commitment
    began: str

    @classmethod
    def of(cls, commitment: Commitment, started: str | None, cached: int = 0) -> Citation:
        """For an examination.

        Args:
            commitment: its time is the authority's where it is stamped.
            started: when the examination began; None where nobody knows.
            cached: answers that were known before it began.
        """
        began = "unknown"
        if started is not None:
            time = timestamp.told_time(started, "record", "started")
            began = "before" if time < commitment.time else "unknown" if cached else "after"
        return cls(commitment, began)

    def told(self) -> dict[str, Any]:
        """As a predicate and a verdict's settings have it."""
        stamp = self.commitment.stamp
        return {
            "sha256": self.commitment.signed.sha256,
            "value": self.commitment.value,
            "committedAt": timestamp.said(self.commitment.committed),
            "level": self.commitment.settings["alpha"],
            "stampedAt": None if stamp is None else timestamp.said(stamp.time),
            "began": self.began,
        }

    def cite(self, verdict: Verdict) -> Verdict:
        """The verdict, citing it.

        One that was begun before it, or nobody knows when, says so; and so does another level than the
        default.
        """
        settings, reasons = verdict.settings | {"commitment": self.told()}, verdict.reasons
        if self.commitment.alpha != ALPHA:
            level = f"{self.commitment.alpha:g}"
            reasons = (*reasons, LEVEL.format(level=level, default=f"{ALPHA:g}"))
        if self.began != "after":
            reasons = (*reasons, BEGAN[self.began].format(time=timestamp.said(self.commitment.time)))
        return replace(verdict, settings=settings, reasons=reasons)


@dataclass(frozen=True)
class Basis:
    """What a statement rests on, besides the verdict.

    Attributes:
        subject: the suspect, ``name`` and ``digest``.
        reference_file: SHA-256 of the reference's file.
        started: when the examination began, or None.
        ended: when it ended, or None.
        record: ``sha256`` and ``answers`` of the record, or None.
        citation: of the commitment, or None.
    """

    subject: dict[str, Any]
    reference_file: str
    started: str | None
    ended: str | None
    record: dict[str, Any] | None
    citation: Citation | None


def measured_error_rates(
    verdict: Mapping[str, Any], table: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """How often honest models were accused where that was measured, for a pool like the verdict's.

    Args:
        verdict: as a predicate has it; of one that has another form nothing is known.
        table: of :func:`uapfast.examination.error_rates.table_of`; this version's if None.

    Returns:
        Rows of :func:`uapfast.examination.error_rates.rates_for`, with the hashes of their tables.
    """
    try:
        level, twins = float(verdict["alpha"]), int(verdict["settings"]["twins"])
        rates = rates_for(level, twins, labels=verdict["output"] == "labels", table=table)
    except (KeyError, TypeError, ValueError, OverflowError):
        rates = []
    return {"source": DOCS, "rates": rates}


def p_values(verdict: dict[str, Any]) -> dict[str, Any]:
    """The p-values of a verdict (decimals as strings), each with its floor and what it assumes."""
    out = {"value": verdict["p_value"], "isBound": verdict["p_is_bound"]}
    for side, assumption in SIDES.items():
        found = {"p": f"p_{side}", "exact": f"p_{side}_exact", "floor": f"p_{side}_floor"}
        out[side] = {name: verdict[field] for name, field in found.items()}
        out[side] |= {"assumption": assumption, "extrapolation": BELOW[side]}
    return out


def predicate(verdict: Verdict, basis: Basis, at: str, key: PublicKey) -> dict[str, Any]:
    """What is stated of a verdict, from what it rests on alone.

    Args:
        verdict: citing its commitment, if there is one.
        basis: what it rests on.
        at: when it is stated.
        key: the signer's.
    """
    plain = decimals(verdict.to_dict())
    return {
        "evaluatedAt": at,
        "examination": {"startedAt": basis.started, "endedAt": basis.ended},
        "decision": plain["decision"],
        "level": plain["alpha"],
        "pValues": p_values(plain),
        "relation": plain.get("relation"),
        "reasons": plain["reasons"],
        "queries": {"asked": plain["queries_used"], "views": plain["views_used"]},
        "verdict": plain,
        "reference": {
            "sha256": plain["reference_sha256"],
            "fileSha256": basis.reference_file,
            "format": FORMAT,
        },
        "record": basis.record,
        "commitment": None if basis.citation is None else basis.citation.told(),
        "measured": measured_error_rates(plain),
        "versions": versions(),
        "signer": key.told(),
    }


def with_their_last(made: dict[str, Any], stated: dict[str, Any]) -> dict[str, Any]:
    """The same with the reasons that a commitment adds, where they are stated: no others may be."""

    def longer(ours: list[Any], theirs: Any) -> list[Any]:
        more = theirs[len(ours) :] if isinstance(theirs, list) else []
        good = len(more) <= MOST_CITED and all(isinstance(m, str) and CITED.fullmatch(m) for m in more)
        return [*ours, *more] if good else ours

    verdict = made["verdict"] | {
        "reasons": longer(made["verdict"]["reasons"], stated["verdict"].get("reasons"))
    }
    return made | {"reasons": longer(made["reasons"], stated["reasons"]), "verdict": verdict}


def subjects(basis: Basis, verdict: Verdict) -> list[dict[str, Any]]:
    """The suspect; one that shows nothing but answers by a hash of these."""
    digest = basis.subject["digest"]
    if not digest and verdict.suspect_sha256 is not None:
        digest = {"answersSha256": verdict.suspect_sha256}
    return [decimals({"name": basis.subject["name"], "digest": digest})]


def write_statement(
    out: str | os.PathLike[str],
    verdict: Verdict,
    basis: Basis,
    key: PrivateKey,
    tsa: str | None = None,
    roots: Sequence[Any] | None = None,
) -> SignedStatement:
    """State a verdict, signed, whole or not at all.

    Args:
        out: gets the statement.
        verdict: citing its commitment, if there is one.
        basis: what it rests on.
        key: signs.
        tsa: URL of a time-stamping authority.
        roots: certificates of authorities that are trusted.

    Raises:
        TimeStampError: the authority gives no stamp that holds.
        StorageError: it cannot be written.
    """
    at = timestamp.said(datetime.now(UTC))
    made = statement(KIND, subjects(basis, verdict), predicate(verdict, basis, at, key.public))
    payload, signature = sign(made, key)
    stamp = None if tsa is None else timestamp.request_stamp(tsa, signature, roots)
    write_bytes(out, bundled(payload, signature, key, stamp))
    return read_statement(out)


def read_statement(path: str | os.PathLike[str]) -> SignedStatement:
    """Read a statement; its signature is checked by the key that it names.

    Raises:
        EvidenceError: it cannot be read, is not canonical, of another kind, or lacks what such have.
        SignatureError: its signature does not hold.
    """
    found = read_signed(path, "statement", KIND)
    subject = found.statement["subject"]
    good = isinstance(subject, list) and len(subject) == 1 and isinstance(subject[0], dict)
    good = good and set(subject[0]) == {"name", "digest"} and set(found.predicate) == FIELDS
    parts = ("examination", "pValues", "queries", "verdict", "reference", "measured", "versions")
    good = good and all(isinstance(found.predicate[name], dict) for name in parts)
    good = good and all(isinstance(found.predicate[name], dict | None) for name in ("record", "commitment"))
    texts = ("decision", "level", "evaluatedAt")
    good = good and all(isinstance(found.predicate[name], str) for name in texts)
    good = good and isinstance(found.predicate["versions"].get("uapfast"), str)
    if not good or DECIMAL.fullmatch(found.predicate["level"]) is None:
        raise EvidenceError(found.where, "predicate", f"one with {', '.join(sorted(FIELDS))}", "another")
    return found


__all__ = [
    "KIND",
    "Basis",
    "Citation",
    "measured_error_rates",
    "p_values",
    "predicate",
    "read_statement",
    "subjects",
    "with_their_last",
    "write_statement",
]
