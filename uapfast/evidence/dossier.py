"""One examination with its evidence: what is checked before anybody is asked, and what is written after."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uapfast.errors import EvidenceError, InputError, SignatureError, StorageError, UapfastError
from uapfast.evidence.commitment import (
    Commitment,
    check_committed,
    read_commitment,
    read_salt,
    salt_path,
    salted,
)
from uapfast.evidence.envelope import SignedStatement
from uapfast.evidence.keys import PrivateKey, load_private
from uapfast.evidence.statement import Basis, Citation, write_statement
from uapfast.evidence.timestamp import load_certificates
from uapfast.files import AnyPath, require_writable
from uapfast.reference import Reference
from uapfast.suspects.record_reader import Recording, read_record
from uapfast.suspects.record_writer import Recorder
from uapfast.suspects.subject import file_sha256
from uapfast.types import Verdict


@dataclass(frozen=True)
class DossierRequest:
    """What is to be written of an examination, and by what.

    Attributes:
        record: gets the record, or None.
        statement: gets the statement, or None.
        key: private key file that signs it.
        commitment: that it is made under, or None.
        salt: of the commitment; beside it if None.
        tsa: URL of a time-stamping authority, or None.
        tsa_root: certificates (PEM) of authorities that are trusted, or None.
        overwrite: a record and a statement that are there already are replaced.
    """

    record: AnyPath | None = None
    statement: AnyPath | None = None
    key: AnyPath | None = None
    commitment: AnyPath | None = None
    salt: AnyPath | None = None
    tsa: str | None = None
    tsa_root: AnyPath | None = None
    overwrite: bool = False

    @property
    def nothing(self) -> bool:
        """Whether nothing is wanted."""
        return not any((self.record, self.statement, self.commitment))


@dataclass
class Dossier:
    """Evidence of one examination. Made before it: whatever would fail afterwards fails now.

    Args:
        wanted: what is to be written.
        path: the reference's file.
        reference: itself.
        alpha: level of the verdict.

    Raises:
        EvidenceError: a commitment to something else, a key or a salt that cannot be used.
        InputError: a statement without a key, and the like.
        StorageError: a result's place that cannot be written to.
        MissingDependency: without the extra ``evidence``, for all but a record.
    """

    wanted: DossierRequest
    path: AnyPath
    reference: Reference
    alpha: float
    key: PrivateKey | None = field(init=False, default=None)
    commitment: Commitment | None = field(init=False, default=None)
    recording: Recording | None = field(init=False, default=None)
    signed: SignedStatement | None = field(init=False, default=None)
    roots: list[Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Check all that can be checked."""
        wanted = self.wanted
        self.roots = None if wanted.tsa_root is None else load_certificates(wanted.tsa_root)
        for name in ("key", "salt", "tsa"):
            needs = "commitment" if name == "salt" else "statement"
            if getattr(wanted, name) is not None and getattr(wanted, needs) is None:
                raise InputError("verify", f"--{name}", f"given with --{needs} only", getattr(wanted, name))
        _check_places(wanted, self.path)
        if wanted.statement is not None:
            if wanted.key is None:
                rule = "given with --statement: an Ed25519 private key (openssl genpkey -algorithm ed25519)"
                raise InputError("verify", "--key", rule, "none")
            self.key = load_private(wanted.key)
            require_writable(wanted.statement, "statement", new=not wanted.overwrite)
        if wanted.record is not None:
            require_writable(wanted.record, "record", new=not wanted.overwrite)
        if wanted.commitment is not None:
            self.commitment = read_commitment(wanted.commitment, self.roots)
            salt = read_salt(salt_path(wanted.commitment, wanted.salt))
            check_committed(self.commitment, salted(salt, self.path), self.reference, self.alpha)
            if self.key is not None and self.key.public != self.commitment.signed.key:
                rule = f"the one that signed the commitment, {self.commitment.signed.key.keyid}"
                raise SignatureError("verify", "key", rule, self.key.public.keyid)

    def require_apart(self, what: str, path: AnyPath) -> None:
        """Raise ``StorageError`` where another result would take the place of these, or of a source."""
        _check_places(self.wanted, self.path, {what: path})

    @contextlib.contextmanager
    def recorder(self, subject: dict[str, Any]) -> Iterator[Recorder | None]:
        """What takes down the answers; None where nobody wants to know.

        Args:
            subject: the suspect (:func:`uapfast.suspects.subject.subject_of`).
        """
        wanted = self.wanted
        if wanted.nothing:
            yield None
        elif wanted.record is not None:
            with Recorder(wanted.record, subject=subject) as record:
                yield record
            self.recording = self._read(wanted.record)
        else:  # what is said of it is worked out from one all the same
            with tempfile.TemporaryDirectory(prefix="uapfast-") as folder:
                with Recorder(Path(folder, "record"), subject=subject) as record:
                    yield record
                self.recording = self._read(Path(folder, "record"))

    def _read(self, path: AnyPath) -> Recording:
        return read_record(path, self.reference.most_asked)

    def finish(self, verdict: Verdict, kept: bool | None = None) -> Verdict:
        """Cite the commitment, and write the statement.

        Args:
            verdict: what came of it.
            kept: whether the record stays where it is; where one was wanted if None.

        Returns:
            The verdict, citing its commitment.

        Raises:
            TimeStampError: the authority gives no stamp; a record that was wanted is there, and
                ``verify --answers RECORD --statement ...`` states what it comes to.
        """
        if self.recording is None:
            return verdict
        check_all_judged(self.recording)
        citation = None if self.commitment is None else citation_of(self.commitment, self.recording)
        cited = verdict if citation is None else citation.cite(verdict)
        if self.wanted.statement is not None and self.key is not None:
            kept = self.wanted.record is not None if kept is None else kept
            basis = basis_of(self.recording, file_sha256(self.path), citation, kept)
            self.signed = write_statement(
                self.wanted.statement, cited, basis, self.key, self.wanted.tsa, self.roots
            )
        return cited


def _check_places(
    wanted: DossierRequest, reference: AnyPath, more: Mapping[str, AnyPath] | None = None
) -> None:
    """Raise ``StorageError`` where a result would take the place of another, or of what it is made from."""
    results = {"statement": wanted.statement, "record": wanted.record, **(more or {})}
    sources = {"reference": reference, "commitment": wanted.commitment, "key": wanted.key}
    if wanted.commitment is not None:
        sources["salt"] = salt_path(wanted.commitment, wanted.salt)
    taken = {os.path.realpath(path): what for what, path in sources.items() if path is not None}
    for what, path in results.items():
        if path is None:
            continue
        other = taken.setdefault(os.path.realpath(path), what)
        if other != what:
            raise StorageError(f"write: {path} must be of the {what} alone, got the place of the {other}")
    if wanted.statement is not None and os.path.isfile(wanted.statement):
        try:
            read_commitment(wanted.statement)
        except UapfastError:
            return
        # a commitment begins as a statement does, and nobody can make it again
        raise StorageError(
            f"write: {wanted.statement} must be new, or an earlier statement, got a commitment"
        )


def check_all_judged(recording: Recording) -> None:
    """Raise ``EvidenceError`` where a suspect that was asked is judged by a part of its answers.

    A part of answers that others recorded may have fewer views, and nobody is told when they were given. Of a
    suspect that was asked, all is judged: whoever picks its answers afterwards picks the verdict.
    """
    if recording.first["answered"] is not None and not by_others(recording):
        raise EvidenceError(recording.where, "answers", "all of them, of a suspect that was asked", "a part")


def check_looks(commitment: Commitment, recording: Recording) -> None:
    """Raise ``EvidenceError`` unless it was looked as committed, at all answers.

    Args:
        commitment: whose settings are known to be those of the reference (:func:`check_committed`).
        recording: of the examination.
    """
    check_all_judged(recording)
    looks, known = recording.first["looks"], commitment.settings["looks"]
    if recording.first["answered"] is None and looks not in (known["atOnce"], known["costly"]):
        rule = f"as committed, after {known['atOnce']} or {known['costly']} views"
        raise EvidenceError(recording.where, "looks", rule, looks)


def citation_of(commitment: Commitment, recording: Recording) -> Citation:
    """How an examination cites a commitment; answers from others were given nobody knows when.

    Raises:
        EvidenceError: it was looked after other numbers of views than was committed to.
    """
    check_looks(commitment, recording)
    began = None if by_others(recording) else recording.first["started"]
    return Citation.of(commitment, began, recording.cached)


def by_others(recording: Recording) -> bool:
    """Whether its answers came in a file: others gave them, nobody is told when."""
    return bool(recording.suspect["settings"].get("kind") == "recorded")


def basis_of(
    recording: Recording, reference_file: str, citation: Citation | None, kept: bool = True
) -> Basis:
    """What a statement rests on, from the record alone.

    Args:
        recording: of the examination.
        reference_file: SHA-256 of the reference's file.
        citation: of the commitment.
        kept: whether anybody else can have the record.
    """
    others = by_others(recording)
    record = {"sha256": recording.sha256, "answers": len(recording.lines), "cached": recording.cached}
    subject = recording.suspect["subject"] or {"name": recording.suspect["name"], "digest": {}}
    return Basis(
        subject=subject,
        reference_file=reference_file,
        started=None if others else recording.first["started"],
        ended=None if others else recording.end["ended"],
        record=record if kept else None,
        citation=citation,
    )


__all__ = [
    "Dossier",
    "DossierRequest",
    "basis_of",
    "by_others",
    "check_all_judged",
    "check_looks",
    "citation_of",
]
