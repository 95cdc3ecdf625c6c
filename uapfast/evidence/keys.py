"""Ed25519 keys in files as ``openssl genpkey -algorithm ed25519`` and ``openssl pkey -pubout`` write them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from uapfast.errors import SignatureError
from uapfast.evidence.canonical import decoded, encoded, required_module
from uapfast.files import open_plain

SERIALIZATION = "cryptography.hazmat.primitives.serialization"
ED25519 = "cryptography.hazmat.primitives.asymmetric.ed25519"
MOST_BYTES = 1 << 16  # of a key file


@dataclass(frozen=True)
class PublicKey:
    """A public key.

    Attributes:
        der: its SubjectPublicKeyInfo.
    """

    der: bytes

    @property
    def keyid(self) -> str:
        """Hex SHA-256 of ``der``."""
        return hashlib.sha256(self.der).hexdigest()

    def told(self) -> dict[str, str]:
        """As predicates have it."""
        return {"algorithm": "ed25519", "keyid": self.keyid, "publicKey": encoded(self.der)}

    def verify(self, signature: bytes, message: bytes, where: str, what: str = "signature") -> None:
        """Raise ``SignatureError`` unless the signature of the message is this key's."""
        errors = required_module("cryptography.exceptions")
        try:
            _public(self.der, where).verify(signature, message)
        except errors.InvalidSignature as exc:
            rule = f"that of its content by key {self.keyid[:16]}"
            raise SignatureError(where, what, rule, "another") from exc


@dataclass(frozen=True, repr=False)
class PrivateKey:
    """A private key; never shown.

    Attributes:
        public: what others check signatures by.
    """

    _key: Any
    public: PublicKey

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.keyid[:16]})"

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of its signature; the same for the same message."""
        found: bytes = self._key.sign(message)
        return found


def load_private(path: str | os.PathLike[str]) -> PrivateKey:
    """The private key in a PEM file.

    Raises:
        SignatureError: no such file, no Ed25519 private key, or one behind a password.
        MissingDependency: without the extra ``evidence``.
    """
    serialization, data = required_module(SERIALIZATION), _read(path)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError as exc:
        raise SignatureError("key", "private key", "one without a password", path) from exc
    except Exception as exc:  # the library's own errors for what is no key, or of no kind that it knows
        raise _bad(path, "private", f"none that can be read ({type(exc).__name__})") from exc
    if not isinstance(key, required_module(ED25519).Ed25519PrivateKey):
        raise _bad(path, "private", type(key).__name__)
    return PrivateKey(key, _of(key.public_key()))


def load_public(path: str | os.PathLike[str]) -> PublicKey:
    """The public key in a PEM file; raises as :func:`load_private`."""
    serialization, data = required_module(SERIALIZATION), _read(path)
    try:
        key = serialization.load_pem_public_key(data)
    except Exception as exc:
        raise _bad(path, "public", f"none that can be read ({type(exc).__name__})") from exc
    if not isinstance(key, required_module(ED25519).Ed25519PublicKey):
        raise _bad(path, "public", type(key).__name__)
    return _of(key)


def told_key(signer: Any, where: str) -> PublicKey:
    """The public key that a predicate names as its signer's; raises ``SignatureError`` where it is none."""
    der = decoded(signer.get("publicKey") if isinstance(signer, dict) else None, where, "signer")
    _public(der, where)
    key = PublicKey(der)
    if signer != key.told():
        raise SignatureError(where, "signer", f"an Ed25519 key with id {key.keyid}", "another")
    return key


def _of(key: Any) -> PublicKey:
    serialization = required_module(SERIALIZATION)
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return PublicKey(key.public_bytes(encoding, form))


def _public(der: bytes, where: str) -> Any:
    try:
        key = required_module(SERIALIZATION).load_der_public_key(der)
        good = isinstance(key, required_module(ED25519).Ed25519PublicKey) and _of(key).der == der
    except Exception as exc:
        raise SignatureError(where, "signer", "an Ed25519 public key", type(exc).__name__) from exc
    if not good:
        raise SignatureError(where, "signer", "an Ed25519 public key", type(key).__name__)
    return key


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open_plain(path) as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as exc:
        raise SignatureError("key", "file", "one that can be read", f"{exc.strerror or exc}: {path}") from exc
    if len(data) > MOST_BYTES:
        raise SignatureError("key", "file", f"of at most {MOST_BYTES} bytes", path)
    return data


def _bad(path: object, kind: str, got: str) -> SignatureError:
    made = "openssl genpkey -algorithm ed25519" if kind == "private" else "openssl pkey -in KEY.pem -pubout"
    return SignatureError("key", f"{kind} key", f"an Ed25519 one in PEM ({made})", f"{got}: {path}")


__all__ = ["PrivateKey", "PublicKey", "load_private", "load_public", "told_key"]
