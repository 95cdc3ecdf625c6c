"""The audit: everything that a statement says, worked out again from files alone, by whoever doubts it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from uapfast._version import __version__
from uapfast.errors import (
    EvidenceError,
    InputError,
    RecordError,
    SignatureError,
    TimeStampError,
    UapfastError,
)
from uapfast.evidence import timestamp
from uapfast.evidence.commitment import Commitment, check_fits, read_commitment, read_salt, salt_path, salted
from uapfast.evidence.compare import differences
from uapfast.evidence.dossier import basis_of, check_looks, citation_of
from uapfast.evidence.envelope import Signed
from uapfast.evidence.keys import PublicKey
from uapfast.evidence.statement import measured, predicate, read_statement, subjects, with_their_last
from uapfast.reference import FORMAT, Reference, load
from uapfast.suspects.record_reader import Recording
from uapfast.suspects.subject import file_sha256
from uapfast.verbs.replay import Replayed, verify_record

State = Literal["ok", "note", "not checked", "FAILED"]
Path_ = str | os.PathLike[str]
T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """One line of an audit.

    Attributes:
        state: ``ok``; ``note``, which a reader has to know; ``not checked``, for want of a file; ``FAILED``.
        what: was looked at: a file, or what is said in it.
        said: what came of it.
        error: of a check that failed.
    """

    state: State
    what: str
    said: str
    error: UapfastError | None = None

    def __str__(self) -> str:
        return f"{self.state:<11}  {self.what}: {self.said}"


@dataclass
class Audit:
    """What an audit came to.

    Attributes:
        checks: in their order.
        decision: that the statement makes; None where it cannot be read.
    """

    checks: list[Check] = field(default_factory=list)
    decision: str | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing failed."""
        return bool(self.checks) and all(check.state != "FAILED" for check in self.checks)

    @property
    def failed(self) -> list[Check]:
        """What does not hold."""
        return [check for check in self.checks if check.state == "FAILED"]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        rows = [{"state": c.state, "what": c.what, "said": c.said} for c in self.checks]
        for row, check in zip(rows, self.checks, strict=True):
            if check.error is not None:
                row["error"] = type(check.error).__name__
        return {"holds": self.holds, "decision": self.decision, "checks": rows}

    def add(self, state: State, what: str, said: str) -> None:
        """One more line."""
        self.checks.append(Check(state, what, said))

    def step(self, what: str, work: Callable[[], tuple[T, str]]) -> T | None:
        """Do a check, and say what came of it; None where it failed."""
        try:
            found, said = work()
        except UapfastError as exc:
            self.checks.append(Check("FAILED", what, str(exc), exc))
            return None
        self.add("ok", what, said)
        return found


@dataclass(frozen=True)
class Files:
    """What an audit is made from.

    Attributes:
        statement: signed.
        reference: that it is about.
        record: of the answers.
        commitment: that it cites, if it does.
        salt: of the commitment; beside it if None.
        trust: the key that it should be signed by, if that is known otherwise.
        roots: certificates of time-stamping authorities that are trusted.
        now: the time; that at which the audit is made if None.
    """

    statement: Path_
    reference: Path_
    record: Path_
    commitment: Path_ | None = None
    salt: Path_ | None = None
    trust: PublicKey | None = None
    roots: Sequence[Any] | None = None
    now: datetime | None = None

    @property
    def time(self) -> datetime:
        """The time."""
        return self.now or datetime.now(UTC)


def audit(files: Files) -> Audit:
    """Check a statement against the files that it is about.

    Returns:
        what was checked, line by line. Whatever does not fit is a line of it, with a typed error: nothing is
        raised but ``MissingDependency``.
    """
    out = Audit()
    stated = out.step("statement", lambda: _statement(files))
    if stated is None:
        return out
    out.decision = str(stated.predicate["decision"])
    _key(out, stated, files)
    stamp = _stamp(out, stated, files)
    reference = out.step("reference", lambda: _reference(files, stated))
    record = out.step("record", lambda: _record_file(files, stated))
    read = _commitment(out, stated, files)
    if reference is None or record is None:
        out.add("not checked", "verdict", "reference and record have to hold first")
        return out
    # of one that does not fit, nothing that it says is known to be of this reference
    commitment = None if read is None else out.step("salt", lambda: _fits(files, stated, read, reference))
    replayed = out.step("verdict", lambda: _replayed(files, reference))
    if replayed is not None:
        out.step("suspect", lambda: _suspect(stated, replayed))
        out.step("times", lambda: _times(stated, replayed.recording, commitment, stamp))
        if commitment is None or out.step("looks", lambda: _looks(commitment, replayed)):
            _content(out, stated, replayed, commitment)
    _versions(out, stated)
    return out


def _statement(files: Files) -> tuple[Signed, str]:
    found = read_statement(files.statement)
    at = timestamp.told_time(found.predicate["evaluatedAt"], found.where, "evaluatedAt")
    if at > files.time + timestamp.SKEW:
        raise EvidenceError(found.where, "evaluatedAt", "of the past", found.predicate["evaluatedAt"])
    return found, f"canonical, signed by key {found.key.keyid}"


def _key(out: Audit, stated: Signed, files: Files) -> None:
    """Whether it is the key that is expected."""
    trust = files.trust
    if trust is None:
        out.add(
            "not checked", "key", "whose it is: compare its id with the accuser's, or give --trust PUBKEY"
        )
        return

    def same() -> tuple[bool, str]:
        if stated.key != trust:
            raise SignatureError(stated.where, "key", f"{trust.keyid}, which is trusted", stated.key.keyid)
        return True, "the one that is trusted"

    out.step("key", same)


def _stamp(out: Audit, stated: Signed, files: Files) -> timestamp.Stamp | None:
    data = stated.stamp
    if data is None:
        out.add("note", "time of the statement", "no time stamp: it is the signer's own word")
        return None

    def stamped() -> tuple[timestamp.Stamp, str]:
        found = timestamp.check(data, stated.signature, stated.where, _roots(files, stated), files.time)
        return found, f"stamped {timestamp.said(found.time)} by {found.authority}"

    return out.step("time stamp of the statement", stamped)


def _roots(files: Files, stated: Signed) -> Sequence[Any]:
    if files.roots is None:
        rule = "held against an authority that is trusted (--tsa-root CERTIFICATE.pem)"
        raise TimeStampError(stated.where, "time stamp", rule, "no certificate")
    return files.roots


def _reference(files: Files, stated: Signed) -> tuple[Reference, str]:
    about, where = stated.predicate["reference"], f"reference {Path(files.reference).name}"
    try:
        digest = file_sha256(files.reference)
        if digest != about.get("fileSha256"):
            if about.get("format") != FORMAT:
                rule = f"of format {FORMAT}, which uapfast {__version__} reads"
                rule += f" (the statement was made by {_maker(stated)}; audit it with that)"
                raise EvidenceError(where, "reference", rule, f"format {about.get('format')}")
            raise EvidenceError(where, "file", f"the one stated, SHA-256 {about.get('fileSha256')}", digest)
        found = load(files.reference)
    except InputError as exc:
        if isinstance(exc, EvidenceError) or about.get("format") == FORMAT:
            raise
        rule = f"{exc.rule} (the statement was made by {_maker(stated)}; audit it with that)"
        raise type(exc)(exc.where, exc.argument, rule, exc.got) from exc
    if found.sha256 != about.get("sha256"):
        raise EvidenceError(where, "content", f"the one stated, SHA-256 {about.get('sha256')}", found.sha256)
    return found, f"the one stated, content SHA-256 {found.sha256}"


def _maker(stated: Signed) -> str:
    return f"uapfast {stated.predicate['versions'].get('uapfast')}"


def _record_file(files: Files, stated: Signed) -> tuple[str, str]:
    about, where = stated.predicate["record"], f"record {Path(files.record).name}"
    if not isinstance(about, dict):
        raise RecordError(where, "record", "none: the statement was made without one", "one")
    try:
        digest = file_sha256(files.record)
    except InputError as exc:
        raise RecordError(where, exc.argument, exc.rule, exc.got) from exc
    if digest != about.get("sha256"):
        raise RecordError(where, "file", f"the one stated, SHA-256 {about.get('sha256')}", digest)
    return digest, f"the one stated, SHA-256 {digest}"


def _commitment(out: Audit, stated: Signed, files: Files) -> Commitment | None:
    cited, given = stated.predicate["commitment"], files.commitment
    if cited is None and given is None:
        out.add(
            "note", "commitment", "none: nothing shows that the test was fixed before its outcome was known"
        )
        return None
    if given is None:
        said = f"the statement cites {cited.get('sha256')}: give it (--commitment FILE, and its salt)"
        out.add("not checked", "commitment", said)
        return None

    def read() -> tuple[Commitment, str]:
        where = f"commitment {Path(given).name}"
        if cited is None:
            raise EvidenceError(where, "commitment", "none, since the statement cites none", "one")
        found = read_commitment(given, files.roots, files.time)
        if found.signed.stamp is not None:
            _roots(files, found.signed)
        if found.signed.sha256 != cited.get("sha256"):
            rule = f"the one cited, SHA-256 {cited.get('sha256')}"
            raise EvidenceError(where, "file", rule, found.signed.sha256)
        if found.signed.key != stated.key:
            rule = f"signed by the key of the statement, {stated.key.keyid}"
            raise SignatureError(where, "key", rule, found.signed.key.keyid)
        stamp = found.stamp
        when = (
            f"stamped {timestamp.said(stamp.time)} by {stamp.authority}" if stamp else "without a time stamp"
        )
        return found, f"the one cited, {when}"

    return out.step("commitment", read)


def _fits(
    files: Files, stated: Signed, commitment: Commitment, reference: Reference
) -> tuple[Commitment, str]:
    assert files.commitment is not None
    place = salt_path(files.commitment, files.salt)
    found = salted(read_salt(place), files.reference)
    if found != commitment.value:  # the reference itself is the one that is stated
        rule = f"one that makes the committed hash of the reference, {commitment.value}"
        raise EvidenceError(f"salt {place.name}", "salt", rule, found)
    check_fits(commitment, found, reference, float(stated.predicate["level"]))
    return commitment, "with it the reference, the pool and the settings are those that were committed to"


def _replayed(files: Files, reference: Reference) -> tuple[Replayed, str]:
    found = verify_record(reference, files.record)
    count = len(found.recording.lines)
    return found, f"{found.verdict.decision}, decided anew from {count} recorded answers"


def _looks(commitment: Commitment, replayed: Replayed) -> tuple[bool, str]:
    check_looks(commitment, replayed.recording)
    return True, f"after {replayed.recording.first['looks']} views, as committed"


def _suspect(stated: Signed, replayed: Replayed) -> tuple[bool, str]:
    basis = basis_of(replayed.recording, "", None)
    wanted = subjects(basis, replayed.verdict)
    if stated.statement["subject"] != wanted:
        rule = f"the one of the record, {_shown(wanted)}"
        raise EvidenceError(stated.where, "subject", rule, _shown(stated.statement["subject"]))
    return True, f"the one of the record: {_shown(wanted)}"


def _shown(subject: list[dict[str, Any]]) -> str:
    one = subject[0]
    digest: dict[str, Any] = one["digest"] if isinstance(one["digest"], dict) else {}
    return " ".join([str(one["name"])[:80], *(f"{k} {str(v)[:64]}" for k, v in digest.items())])


def _times(
    stated: Signed, recording: Recording, commitment: Commitment | None, stamp: timestamp.Stamp | None
) -> tuple[bool, str]:
    where, first, end = stated.where, recording.first, recording.end
    line = [] if commitment is None else [("the commitment", commitment.time)]
    line += [
        ("the examination's begin", timestamp.told_time(first["started"], recording.where, "started")),
        ("the examination's end", timestamp.told_time(end["ended"], recording.where, "ended")),
        ("the statement", timestamp.told_time(stated.predicate["evaluatedAt"], where, "evaluatedAt")),
    ]
    line += [] if stamp is None else [("its time stamp", stamp.time)]
    before = commitment is not None and stated.predicate["commitment"].get("began") == "before"
    for (earlier, a), (later, b) in zip(line, line[1:], strict=False):
        slack = timestamp.SKEW if later == "its time stamp" else timedelta(0)  # two clocks
        if a > b + slack and not (before and earlier == "the commitment"):
            raise EvidenceError(where, later, f"not before {earlier}, {timestamp.said(a)}", timestamp.said(b))
    return True, "in order: " + ", ".join(f"{name} {timestamp.said(at)}" for name, at in line)


def _content(out: Audit, stated: Signed, replayed: Replayed, commitment: Commitment | None) -> None:
    """Everything that is stated, against what comes of the record."""
    cited = stated.predicate["commitment"]
    citation = None if commitment is None else citation_of(commitment, replayed.recording)
    reference_file = stated.predicate["reference"]["fileSha256"]  # which the file was found to have
    basis = basis_of(replayed.recording, reference_file, citation)
    verdict = replayed.verdict if citation is None else citation.cite(replayed.verdict)
    made = predicate(verdict, basis, stated.predicate["evaluatedAt"], stated.key)
    skipped = {"measured", "versions", "verdict.settings.versions"}
    if commitment is None and cited is not None:  # said to be not checked already
        skipped |= {"commitment", "verdict.settings.commitment"}
        made = with_their_last(made, stated.predicate)
    theirs, ours = stated.predicate["versions"].get("uapfast"), __version__
    found, unknown = differences(stated.predicate, made, skipped)
    if theirs != ours:
        for path in unknown:
            out.add("not checked", path, f"only one of uapfast {theirs} and {ours} knows it")
    else:
        found += [f"{path}: stated by one side only" for path in unknown]

    def same() -> tuple[bool, str]:
        if found:
            rule = "what the record comes to"
            by = "" if theirs == ours else f" (stated by uapfast {theirs}, decided anew by {ours})"
            raise EvidenceError(stated.where, found[0].partition(":")[0], rule, "; ".join(found[:4]) + by)
        return True, "decision, numbers (to 1e-6) and reasons are what the record comes to"

    out.step("what is stated", same)
    if cited is not None and cited.get("began") != "after":
        said = {"before": "before the commitment"}.get(str(cited.get("began")), "nobody knows when")
        out.add("note", "examination", f"it was begun {said}: the commitment proves nothing of it")


def _versions(out: Audit, stated: Signed) -> None:
    theirs = stated.predicate["versions"].get("uapfast")
    if stated.predicate["measured"] == measured(stated.predicate["verdict"]):
        out.add("ok", "measured error rates", "those that this version's documents state")
    elif theirs == __version__:
        rule = f"those that the documents of uapfast {__version__} state, which made the statement"
        error = EvidenceError(stated.where, "measured", rule, "others")
        out.checks.append(Check("FAILED", "measured error rates", str(error), error))
    else:
        said = f"as {_maker(stated)} stated them; this is uapfast {__version__}"
        out.add("not checked", "measured error rates", said)
    if theirs != __version__:
        said = f"stated by uapfast {theirs}, audited by {__version__}, which reads the same formats"
        out.add("note", "version", said)


__all__ = ["Audit", "Check", "Files", "audit"]
