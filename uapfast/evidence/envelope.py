"""An in-toto statement, signed: a DSSE envelope in a Sigstore bundle without a transparency log.

Whatever is not signed in the container is worked out again from what is, so that the bytes of a file that
holds are the only ones that hold.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uapfast.errors import EvidenceError
from uapfast.evidence.canonical import MOST_BYTES, decoded, dumps, encoded, loads
from uapfast.evidence.keys import PrivateKey, PublicKey, told_key
from uapfast.files import open_plain

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
SEALED = "application/timestamp-reply"


@dataclass(frozen=True)
class SignedStatement:
    """A statement whose signature holds by the key that it names.

    Attributes:
        where: how errors name it.
        statement: ``_type``, ``subject``, ``predicateType`` and ``predicate``.
        key: the signer's.
        signature: of the pre-authentication encoding; what a time stamp is of.
        stamp: an RFC 3161 response (DER), or None; not checked here.
        sha256: of the file's bytes.
    """

    where: str
    statement: dict[str, Any]
    key: PublicKey
    signature: bytes
    stamp: bytes | None
    sha256: str

    @property
    def predicate(self) -> dict[str, Any]:
        """What is stated."""
        found: dict[str, Any] = self.statement["predicate"]
        return found


def pae(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (v1), which is what is signed."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def statement(kind: str, subject: list[dict[str, Any]], predicate: dict[str, Any]) -> dict[str, Any]:
    """An in-toto Statement v1."""
    return {"_type": STATEMENT, "subject": subject, "predicateType": kind, "predicate": predicate}


def sign(made: dict[str, Any], key: PrivateKey) -> tuple[bytes, bytes]:
    """The payload of a statement, and its signature."""
    payload = dumps(made)
    return payload, key.sign(pae(PAYLOAD, payload))


def bundled(payload: bytes, signature: bytes, key: PrivateKey, stamp: bytes | None) -> bytes:
    """The file, its time stamp sealed: parts of a stamp are signed by nobody (names of algorithms, say)."""
    seal = None if stamp is None else key.sign(pae(SEALED, stamp))
    return bundle(payload, signature, key.public, stamp, seal)


def bundle(
    payload: bytes, signature: bytes, key: PublicKey, stamp: bytes | None, seal: bytes | None
) -> bytes:
    """The file: canonical JSON. The hint of the key has room for what the format has no place for."""
    material: dict[str, Any] = {"publicKey": {"hint": key.keyid}}
    if stamp is not None and seal is not None:
        material["publicKey"] = {"hint": f"{key.keyid}:{encoded(seal)}"}
        stamps = [{"signedTimestamp": encoded(stamp)}]
        material["timestampVerificationData"] = {"rfc3161Timestamps": stamps}
    envelope = {
        "payload": encoded(payload),
        "payloadType": PAYLOAD,
        "signatures": [{"keyid": key.keyid, "sig": encoded(signature)}],
    }
    return dumps({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope})


def read_signed(path: str | os.PathLike[str], what: str, kind: str) -> SignedStatement:
    """Read a file that :func:`bundle` made, and check its signature by the key that it names.

    Args:
        path: of the file.
        what: ``statement`` or ``commitment``, for errors.
        kind: the ``predicateType`` that it should have.

    Raises:
        EvidenceError: it cannot be read, is not canonical, or of another kind.
        SignatureError: its signature does not hold.
    """
    where = f"{what} {Path(path).name}"
    try:
        with open_plain(path) as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as exc:
        raise EvidenceError(where, "file", "one that can be read", exc.strerror or exc) from exc
    if len(data) > MOST_BYTES:
        raise EvidenceError(where, "file", f"of at most {MOST_BYTES} bytes", "more")
    return signed(data, where, kind)


def signed(data: bytes, where: str, kind: str) -> SignedStatement:
    """As :func:`read_signed`, for the bytes of a file."""
    found = loads(data, where)
    try:
        envelope, material = found["dsseEnvelope"], found["verificationMaterial"]
        payload = decoded(envelope["payload"], where, "payload")
        signature = decoded(envelope["signatures"][0]["sig"], where, "signature")
        stamps = material.get("timestampVerificationData")
        stamp = seal = None
        if stamps is not None:
            hint = material["publicKey"]["hint"].partition(":")[2]
            seal = decoded(hint, where, "seal of the time stamp")
            stamp = decoded(stamps["rfc3161Timestamps"][0]["signedTimestamp"], where, "time stamp")
    except (KeyError, IndexError, TypeError, AttributeError) as exc:
        rule = "a Sigstore bundle v0.3 with a DSSE envelope"
        raise EvidenceError(where, "file", rule, f"one without {exc}") from exc
    made = loads(payload, f"{where}, payload")
    if not isinstance(made, dict) or set(made) != {"_type", "subject", "predicateType", "predicate"}:
        raise EvidenceError(where, "payload", "an in-toto Statement v1", "another object")
    if made["_type"] != STATEMENT or not isinstance(made["predicate"], dict):
        raise EvidenceError(where, "_type", STATEMENT, repr(made["_type"])[:80])
    if made["predicateType"] != kind:
        rule = f"{kind} (of this uapfast)"
        raise EvidenceError(where, "predicateType", rule, repr(made["predicateType"])[:80])
    key = told_key(made["predicate"].get("signer"), where)
    if bundle(payload, signature, key, stamp, seal) != data:
        rule = "what the payload, its signature and its signer make of it, and nothing else"
        raise EvidenceError(where, "container", rule, "fields that nobody signed, or other values in them")
    key.verify(signature, pae(PAYLOAD, payload), where)
    if stamp is not None and seal is not None:
        key.verify(seal, pae(SEALED, stamp), where, "seal of the time stamp")
    return SignedStatement(where, made, key, signature, stamp, hashlib.sha256(data).hexdigest())


__all__ = ["PAYLOAD", "SignedStatement", "bundled", "pae", "read_signed", "sign", "signed", "statement"]
