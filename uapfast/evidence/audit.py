"""The audit: everything that a statement says, worked out again from files alone, by whoever doubts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uapfast._version import __version__
from uapfast.errors import EvidenceError, InputError, RecordError, SignatureError
from uapfast.evidence import timestamp
from uapfast.evidence.audited import Audit, Check
from uapfast.evidence.commitment import (
    Commitment,
    check_committed,
    read_commitment,
    read_salt,
    salt_path,
    salted,
)
from uapfast.evidence.content import (
    check_content,
    check_level,
    check_rates,
    check_raw,
    check_times,
    chosen,
    maker,
    remarked,
)
from uapfast.evidence.dossier import basis_of, check_all_judged, check_looks
from uapfast.evidence.envelope import SignedStatement
from uapfast.evidence.keys import PublicKey
from uapfast.evidence.statement import read_statement, subjects
from uapfast.files import AnyPath, open_plain
from uapfast.reference import FORMAT, Reference, load
from uapfast.suspects.subject import file_sha256
from uapfast.verbs.replay import Replayed, verify_record

CR_LF, HEAD = b"\r\n", 1 << 20


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
        any_key: whoever signed it is good enough: without ``trust`` nothing says who that was.
        any_tsa: whoever stamped is good enough: without ``roots`` anybody may have.
        now: the time; that at which the audit is made if None.
    """

    statement: AnyPath
    reference: AnyPath
    record: AnyPath
    commitment: AnyPath | None = None
    salt: AnyPath | None = None
    trust: PublicKey | None = None
    roots: Sequence[Any] | None = None
    any_key: bool = False
    any_tsa: bool = False
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
    check_level(out, stated, read)
    check_rates(out, stated)
    if reference is None or record is None:
        out.add("not checked", "verdict", "reference and record have to hold first")
        return out
    # of one that does not fit, nothing that it says is known to be of this reference
    commitment = None if read is None else out.step("salt", lambda: _fits(files, stated, read, reference))
    replayed = out.step("verdict", lambda: _replayed(files, reference, float(stated.predicate["level"])))
    if replayed is not None:
        check_raw(out, replayed.recording)
        remarked(out, replayed.recording)
        out.step("suspect", lambda: _suspect(stated, replayed))
        out.step("times", lambda: check_times(stated, replayed.recording, commitment, stamp))
        if out.step("looks", lambda: _looks(commitment, replayed, reference)):
            chosen(out, replayed.recording, reference, commitment)
            check_content(out, stated, replayed, commitment)
    return out


def _statement(files: Files) -> tuple[SignedStatement, str]:
    found = read_statement(files.statement)
    at = timestamp.told_time(found.predicate["evaluatedAt"], found.where, "evaluatedAt")
    if at > files.time + timestamp.SKEW:
        raise EvidenceError(found.where, "evaluatedAt", "in the past", found.predicate["evaluatedAt"])
    return found, f"canonical, signed by key {found.key.keyid}"


def _key(out: Audit, stated: SignedStatement, files: Files) -> None:
    """Whether it is the key that is expected."""
    trust = files.trust
    if trust is None:
        said = (
            f"{stated.key.keyid} is the statement's own, which anybody can make: it does not say who signed"
        )
        rest = "(--any-key)" if files.any_key else "(--trust PUBKEY; --any-key to do without)"
        out.add("note" if files.any_key else "not checked", "key", f"{said} {rest}")
        return

    def same() -> tuple[bool, str]:
        if stated.key != trust:
            raise SignatureError(stated.where, "key", f"{trust.keyid}, which is trusted", stated.key.keyid)
        return True, "the one that is trusted"

    out.step("key", same)


def _stamp(out: Audit, stated: SignedStatement, files: Files) -> timestamp.Stamp | None:
    data, what = stated.stamp, "time stamp of the statement"
    if data is None:
        out.add("note", "time of the statement", "no time stamp: it is the signer's own word")
        return None

    def stamped() -> tuple[timestamp.Stamp, str]:
        found = timestamp.check_stamp(data, stated.signature, stated.where, files.roots, files.time)
        return found, f"stamped {timestamp.said(found.time)} by {found.authority}"

    found = out.step(what, stamped)
    _authority(out, "the statement", found, files)
    return found


def _authority(out: Audit, of: str, stamp: timestamp.Stamp | None, files: Files) -> None:
    """A stamp whose authority nobody vouches for is the signer's own word."""
    if stamp is None or stamp.trusted:
        return
    said = f"{stamp.authority} is what its own certificate says, which anybody can make"
    rest = "(--any-tsa)" if files.any_tsa else "(--tsa-root CERTIFICATE.pem; --any-tsa to do without)"
    out.add("note" if files.any_tsa else "not checked", f"authority that stamped {of}", f"{said} {rest}")


def _reference(files: Files, stated: SignedStatement) -> tuple[Reference, str]:
    about, where = stated.predicate["reference"], f"reference {Path(files.reference).name}"
    try:
        digest = file_sha256(files.reference)
        if digest != about.get("fileSha256"):
            if about.get("format") != FORMAT:
                rule = f"of format {FORMAT}, which uapfast {__version__} reads"
                rule += f" (the statement was made by {maker(stated)}; audit it with that)"
                raise EvidenceError(where, "reference", rule, f"format {about.get('format')}")
            raise EvidenceError(where, "file", f"the one stated, SHA-256 {about.get('fileSha256')}", digest)
        found = load(files.reference)
    except InputError as exc:
        if isinstance(exc, EvidenceError) or about.get("format") == FORMAT:
            raise
        rule = f"{exc.rule} (the statement was made by {maker(stated)}; audit it with that)"
        raise type(exc)(exc.where, exc.argument, rule, exc.got) from exc
    if found.sha256 != about.get("sha256"):
        raise EvidenceError(where, "content", f"the one stated, SHA-256 {about.get('sha256')}", found.sha256)
    return found, f"the one stated, content SHA-256 {found.sha256}"


def _record_file(files: Files, stated: SignedStatement) -> tuple[str, str]:
    about, where = stated.predicate["record"], f"record {Path(files.record).name}"
    if not isinstance(about, dict):
        raise RecordError(where, "record", "none: the statement was made without one", "one")
    try:
        digest = file_sha256(files.record)
    except InputError as exc:
        raise RecordError(where, exc.argument, exc.rule, exc.got) from exc
    if digest != about.get("sha256"):
        with open_plain(files.record) as stream:
            ends = (
                " (lines end in CR LF: a checkout or an editor did that)"
                if CR_LF in stream.readline(HEAD)
                else ""
            )
        raise RecordError(where, "file", f"the one stated, SHA-256 {about.get('sha256')}", f"{digest}{ends}")
    return digest, f"the one stated, SHA-256 {digest}"


def _commitment(out: Audit, stated: SignedStatement, files: Files) -> Commitment | None:
    cited, given = stated.predicate["commitment"], files.commitment
    if cited is None and given is None:
        said = "none: nothing shows that the test was fixed before its outcome was known"
        out.add("note", "commitment", said)
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

    found = out.step("commitment", read)
    if found is not None and found.stamp is None:
        out.add("note", "time of the commitment", "no time stamp: it is the signer's own word")
    _authority(out, "the commitment", None if found is None else found.stamp, files)
    return found


def _fits(
    files: Files, stated: SignedStatement, commitment: Commitment, reference: Reference
) -> tuple[Commitment, str]:
    assert files.commitment is not None
    place = salt_path(files.commitment, files.salt)
    found = salted(read_salt(place), files.reference)
    if found != commitment.value:  # the reference itself is the one that is stated
        rule = f"one that makes the committed hash of the reference, {commitment.value}"
        raise EvidenceError(f"salt {place.name}", "salt", rule, found)
    check_committed(commitment, found, reference, float(stated.predicate["level"]))
    return commitment, "with it the reference, the pool and the settings are those that were committed to"


def _replayed(files: Files, reference: Reference, level: float) -> tuple[Replayed, str]:
    found = verify_record(reference, files.record, alpha=level)
    count = len(found.recording.lines)
    return found, f"{found.verdict.decision}, decided anew from {count} recorded answers"


def _looks(commitment: Commitment | None, replayed: Replayed, reference: Reference) -> tuple[bool, str]:
    recording, views = replayed.recording, reference.plan.views
    said = f"after {recording.first['looks']} of {views} views"
    if commitment is None:
        check_all_judged(recording)
        return True, said
    check_looks(commitment, recording)
    return True, f"{said}, as committed" if recording.first["answered"] is None else said


def _suspect(stated: SignedStatement, replayed: Replayed) -> tuple[bool, str]:
    basis = basis_of(replayed.recording, "", None)
    wanted = subjects(basis, replayed.verdict)
    if stated.statement["subject"] != wanted:
        rule = f"the one of the record, {_shown(wanted)}"
        raise EvidenceError(stated.where, "subject", rule, _shown(stated.statement["subject"]))
    return True, f"the one of the record: {_shown(wanted)}"


def _shown(subject: list[dict[str, Any]]) -> str:
    one = subject[0]
    digest: dict[str, Any] = one["digest"] if isinstance(one["digest"], dict) else {}
    # in quotes: a name that goes on like a hash is no hash
    return " ".join(
        [repr(str(one["name"])[:80]), *(f"{str(k)[:40]!r} {str(v)[:64]!r}" for k, v in digest.items())]
    )


__all__ = ["Audit", "Check", "Files", "audit"]
