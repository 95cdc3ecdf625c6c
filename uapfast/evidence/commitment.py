"""Commit before asking: a salted hash of the reference and the settings that decide, signed and stamped.

The salt keeps the hash from telling who has a reference whether it is this one; the owner reveals it when
the evidence is checked. ``cat SALT REF | sha256sum`` is the committed hash.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uapfast._version import versions
from uapfast.config import ALPHA, check
from uapfast.errors import EvidenceError, StorageError
from uapfast.evidence import timestamp
from uapfast.evidence.canonical import decimals, dumps
from uapfast.evidence.compare import DECIMAL
from uapfast.evidence.envelope import SignedStatement, bundled, read_signed, sign, statement
from uapfast.evidence.keys import PrivateKey
from uapfast.files import open_plain, write_bytes
from uapfast.method.sequential import Looks
from uapfast.reference import FORMAT, Reference, load

KIND = "urn:uapfast:commitment:v1"
SALT_BYTES = 32
CHUNK = 1 << 20
FIELDS = {"committedAt", "reference", "settings", "pool", "versions", "signer"}


@dataclass(frozen=True)
class Commitment:
    """A commitment whose signature holds.

    Attributes:
        signed: the file.
        value: the salted hash, hex.
        committed: when, as its signer says.
        stamp: when, as an authority says; None without a stamp.
    """

    signed: SignedStatement
    value: str
    committed: datetime
    stamp: timestamp.Stamp | None

    @property
    def time(self) -> datetime:
        """The authority's, or without a stamp the signer's."""
        return self.committed if self.stamp is None else self.stamp.time

    @property
    def alpha(self) -> float:
        """The level."""
        return float(self.settings["alpha"])

    @property
    def settings(self) -> dict[str, Any]:
        """That decide."""
        found: dict[str, Any] = self.signed.predicate["settings"]
        return found


def settings_of(reference: Reference, alpha: float) -> dict[str, Any]:
    """The settings that decide, as a commitment has them."""
    views = reference.plan.views
    costly = Looks.default(views) if reference.statistic.partial else Looks.single(views)
    return {
        "alpha": decimals(float(alpha)),
        "encoder": reference.encoder,
        "views": views,
        "queries": reference.plan.queries,
        "ray": decimals(list(reference.plan.scale)),
        "looks": {"atOnce": [views], "costly": list(costly.views)},
    }


def pool_of(reference: Reference) -> dict[str, Any]:
    """The pool, as a commitment has it: hashes of its models' records, and of its manifest."""
    models = [vars(record) for record in reference.records]
    return {
        "modelsSha256": hashlib.sha256(dumps(decimals(models))).hexdigest(),
        "manifestSha256": reference.settings.get("pool_manifest_sha256"),
        "twins": len(reference.candidates) - 1,
        "innocents": len(reference.innocents),
    }


def salted(salt: bytes, path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of the salt and after it the bytes of a file; raises ``EvidenceError``."""
    found = hashlib.sha256(salt)
    try:
        with open_plain(path) as stream:
            while part := stream.read(CHUNK):
                found.update(part)
    except OSError as exc:
        got = f"{exc.strerror or exc}: {path}"
        raise EvidenceError("commit", "reference", "a file that can be read", got) from exc
    return found.hexdigest()


def commit(
    reference: str | os.PathLike[str],
    key: PrivateKey,
    out: str | os.PathLike[str],
    *,
    salt: str | os.PathLike[str] | None = None,
    tsa: str | None = None,
    roots: Sequence[Any] | None = None,
    alpha: float = ALPHA,
) -> Commitment:
    """Commit to a reference before anybody is asked.

    Args:
        reference: its file.
        key: signs.
        out: gets the commitment: to be published, or handed to who will check. Must be new.
        salt: gets 32 random bytes, readable by the owner alone, to be kept until the evidence is checked;
            ``out`` with ``.salt`` if None. Must be new: without its salt a commitment is worth nothing.
        tsa: URL of a time-stamping authority (RFC 3161); without one the time is the owner's own word.
        roots: certificates of authorities that are trusted: the stamp is held against them at once.
        alpha: level at which suspects will be judged.

    Raises:
        InputError: ``alpha`` out of range.
        ReferenceFileError: the reference cannot be read.
        TimeStampError: the authority gives no stamp that holds; nothing is written.
        StorageError: a file that is there already, or cannot be written; nothing is written.
        MissingDependency: without the extra ``evidence``.
    """
    good = isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and 0 < alpha < 0.5
    check(good, "commit", "alpha", "a level in (0, 0.5)", repr(alpha))
    place = salt_path(out, salt)
    if os.path.realpath(place) == os.path.realpath(out):
        raise StorageError(f"commit: salt must be another file than the commitment, got {place}")
    for path, what in ((out, "commitment"), (place, "salt")):
        if os.path.lexists(path):
            raise StorageError(f"commit: {what} must be a new file, got one that is there: {path}")
    known, secret = load(reference), secrets.token_bytes(SALT_BYTES)
    value = salted(secret, reference)
    committed = {"alg": "sha256", "value": value, "salted": True, "format": FORMAT}
    predicate = {
        "committedAt": timestamp.said(datetime.now(UTC)),
        "reference": committed,
        "settings": settings_of(known, alpha),
        "pool": pool_of(known),
        "versions": versions(),
        "signer": key.public.told(),
    }
    subject = [{"name": "reference", "digest": {"saltedSha256": value}}]
    payload, signature = sign(statement(KIND, subject, predicate), key)
    stamp = None if tsa is None else timestamp.request_stamp(tsa, signature, roots)
    data = bundled(payload, signature, key, stamp)
    _write_salt(place, secret)
    try:
        write_bytes(out, data)
    except StorageError:
        place.unlink(missing_ok=True)
        raise
    return read_commitment(out, roots)


def salt_path(out: str | os.PathLike[str], salt: str | os.PathLike[str] | None) -> Path:
    """Where the salt of a commitment lies: where it is said, else beside it."""
    return Path(f"{os.fspath(out)}.salt") if salt is None else Path(salt)


def _write_salt(path: Path, secret: bytes) -> None:
    """A new file, readable by its owner alone from the first moment on, whole or not at all."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as exc:
        raise StorageError(f"commit: salt must be writable, got {exc.strerror or exc}: {path}") from exc
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secret)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise StorageError(f"commit: salt must be writable, got {exc.strerror or exc}: {path}") from exc


def read_salt(path: str | os.PathLike[str]) -> bytes:
    """The salt of a commitment; raises ``EvidenceError`` for a file that holds none."""
    where = f"salt {Path(path).name}"
    try:
        with open_plain(path) as stream:
            found = stream.read(SALT_BYTES + 1)
    except OSError as exc:
        rule = "one that can be read (--salt FILE; it lies beside the commitment unless told)"
        raise EvidenceError(where, "file", rule, f"{exc.strerror or exc}: {path}") from exc
    if len(found) != SALT_BYTES:
        got = f"{len(found)}" if len(found) < SALT_BYTES else "more"
        raise EvidenceError(where, "file", f"of {SALT_BYTES} bytes", got)
    return found


def read_commitment(
    path: str | os.PathLike[str], roots: Sequence[Any] | None = None, now: datetime | None = None
) -> Commitment:
    """Read a commitment; its signature and its stamp are checked.

    Args:
        path: of the file.
        roots: certificates of authorities that are trusted (:func:`uapfast.evidence.timestamp.check_stamp`).
        now: the time.

    Raises:
        EvidenceError: it cannot be read, is not canonical, or of another kind; SignatureError and
            TimeStampError as their names say.
    """
    signed = read_signed(path, "commitment", KIND)
    predicate, where = signed.predicate, signed.where
    committed = predicate.get("reference")
    good = set(predicate) == FIELDS and isinstance(committed, dict)
    good = good and isinstance(predicate["settings"], dict) and isinstance(predicate["pool"], dict)
    level = predicate["settings"].get("alpha") if good else None
    good = good and isinstance(level, str) and DECIMAL.fullmatch(level) is not None
    value = committed.get("value") if isinstance(committed, dict) else None
    wanted = [{"name": "reference", "digest": {"saltedSha256": value}}]
    if not good or not isinstance(value, str) or signed.statement["subject"] != wanted:
        raise EvidenceError(where, "predicate", f"one with {', '.join(sorted(FIELDS))}", "another")
    time = timestamp.told_time(predicate["committedAt"], where, "committedAt")
    current = now or datetime.now(UTC)
    if time > current + timestamp.SKEW:
        raise EvidenceError(where, "committedAt", "in the past", predicate["committedAt"])
    stamp = None
    if signed.stamp is not None:
        stamp = timestamp.check_stamp(signed.stamp, signed.signature, where, roots, current)
        if time > stamp.time + timestamp.SKEW:
            rule = f"not after its time stamp, {timestamp.said(stamp.time)}"
            raise EvidenceError(where, "committedAt", rule, predicate["committedAt"])
    return Commitment(signed, value, time, stamp)


def check_committed(commitment: Commitment, found: str, reference: Reference, alpha: float) -> None:
    """Hold a reference and a level against what was committed to.

    Args:
        commitment: read.
        found: the reference's file with the commitment's salt (:func:`salted`).
        reference: itself.
        alpha: level of the verdict.

    Raises:
        EvidenceError: another reference (or another salt), pool, or other settings; they are named.
    """
    where = commitment.signed.where
    if found != commitment.value:
        rule = f"that which was committed to, with this salt: {commitment.value}"
        raise EvidenceError(where, "reference", rule, found)
    stated = commitment.settings | {"pool": commitment.signed.predicate["pool"]}
    actual = settings_of(reference, alpha) | {"pool": pool_of(reference)}
    for name in sorted({*stated, *actual}):
        if dumps(stated.get(name)) != dumps(actual.get(name)):  # true is not 1
            raise EvidenceError(where, name, f"as committed, {stated.get(name)}", actual.get(name))


__all__ = [
    "KIND",
    "Commitment",
    "check_committed",
    "commit",
    "pool_of",
    "read_commitment",
    "read_salt",
    "salt_path",
    "salted",
    "settings_of",
]
