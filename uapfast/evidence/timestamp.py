"""Time stamps (RFC 3161): asked of an authority, and held against what they are of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from uapfast.errors import EvidenceError, MissingDependency, TimeStampError, how_to_install
from uapfast.evidence.canonical import required_module
from uapfast.files import open_plain
from uapfast.suspects.record_writer import said

QUERY, REPLY = "application/timestamp-query", "application/timestamp-reply"
MOST_BYTES = 1 << 20  # of a response
SECONDS = 30.0  # that an authority may take
SKEW = timedelta(seconds=60)  # by which clocks may differ
GRANTED = 0


@dataclass(frozen=True)
class Stamp:
    """A stamp that holds.

    Attributes:
        time: of the authority, UTC.
        authority: subject of its certificate.
        trusted: whether its signature leads to a certificate that was given; else it was not checked.
    """

    time: datetime
    authority: str
    trusted: bool


def told_time(text: Any, where: str, what: str) -> datetime:
    """A time that :func:`said` wrote; raises ``EvidenceError`` for anything else."""
    try:
        found = datetime.fromisoformat(text)
        good = said(found) == text
    except (ValueError, TypeError, OverflowError):
        good = False
    if not good:
        raise EvidenceError(where, what, "a time such as 2026-11-30T03:40:00.000Z", repr(text)[:60])
    return found


def request_stamp(url: str, message: bytes, roots: Sequence[Any] | None = None) -> bytes:
    """The authority's stamp of a message, as DER, once it holds.

    Args:
        url: of the authority.
        message: what is stamped.
        roots: as :func:`check_stamp`.

    Raises:
        TimeStampError: the authority does not answer, or with a stamp that does not hold; or this machine's
            clock is ahead of it.
        MissingDependency: without the extra ``evidence``.
    """
    client, asked = required_module("rfc3161_client"), datetime.now(UTC)
    if not url.startswith(("http://", "https://")):
        raise TimeStampError("time stamp", "--tsa", "http(s)://... of an RFC 3161 authority", repr(url)[:80])
    request = client.TimestampRequestBuilder().data(message).hash_algorithm(client.HashAlgorithm.SHA256)
    request = request.cert_request(cert_request=True).build()
    data = _posted(url, request.as_bytes())
    response = _decoded(data, "time stamp")
    if response.status != GRANTED:
        got = f"status {response.status} {' '.join(response.status_string)}".strip()
        raise TimeStampError("time stamp", "answer", "a stamp that is granted", got)
    if response.tst_info.nonce != request.nonce:
        raise TimeStampError("time stamp", "nonce", "that of the request", "another: an old answer")
    found = check_stamp(data, message, "time stamp", roots)
    if asked > found.time + SKEW:  # what was signed before it would be later than its own stamp
        rule = f"at most {SKEW.seconds} s ahead of the authority's, {said(found.time)}"
        raise TimeStampError("time stamp", "this machine's clock", rule, said(asked))
    return data


def _posted(url: str, body: bytes) -> bytes:
    try:
        import httpx2
    except ImportError as exc:
        raise MissingDependency(f"evidence: httpx2 is needed ({how_to_install('evidence')})") from exc
    shown = url.partition("?")[0].rpartition("@")[2]
    try:
        with (
            httpx2.Client(timeout=SECONDS, trust_env=False) as client,
            client.stream("POST", url, content=body, headers={"Content-Type": QUERY}) as response,
        ):
            data = b""
            for part in response.iter_bytes():
                data += part
                if len(data) > MOST_BYTES:
                    raise TimeStampError("time stamp", "answer", f"of at most {MOST_BYTES} bytes", "more")
            status = response.status_code
    except httpx2.HTTPError as exc:
        got = f"{type(exc).__name__} ({shown})"
        raise TimeStampError("time stamp", "authority", "one that answers", got) from exc
    if status != 200:
        raise TimeStampError("time stamp", "authority", "one that answers with 200", f"{status} ({shown})")
    return data


def _decoded(data: bytes, where: str) -> Any:
    try:
        response = required_module("rfc3161_client").decode_timestamp_response(data)
        again = response.as_bytes()
    except ValueError as exc:
        raise TimeStampError(where, "time stamp", "an RFC 3161 response in DER", str(exc)[:120]) from exc
    if again != data:
        raise TimeStampError(where, "time stamp", "in DER, byte for byte", "another form of it")
    return response


def load_certificates(path: str | os.PathLike[str]) -> list[Any]:
    """The certificates in a PEM file, of authorities that are trusted; raises ``TimeStampError``."""
    x509 = required_module("cryptography.x509")
    try:
        with open_plain(path) as stream:
            found: list[Any] = x509.load_pem_x509_certificates(stream.read(MOST_BYTES))
    except (OSError, ValueError) as exc:
        got = f"{getattr(exc, 'strerror', None) or exc}: {path}"
        raise TimeStampError("time stamp", "--tsa-root", "certificates in PEM", got) from exc
    return found


def check_stamp(
    data: bytes,
    message: bytes,
    where: str,
    roots: Sequence[Any] | None = None,
    now: datetime | None = None,
) -> Stamp:
    """Hold a stamp against what it is of.

    Args:
        data: the response, DER.
        message: what it should be of.
        where: how errors name it.
        roots: certificates that are trusted; None leaves its signature unchecked.
        now: the time.

    Raises:
        TimeStampError: of something else, by nobody trusted, by a certificate that was not valid then or may
            not stamp, or of the future.
    """
    try:
        return _checked(data, message, where, roots, now or datetime.now(UTC))
    except ValueError as exc:  # parts of it are parsed as they are asked for
        if isinstance(exc, TimeStampError):
            raise
        raise TimeStampError(where, "time stamp", "an RFC 3161 response in DER", str(exc)[:120]) from exc


def _checked(data: bytes, message: bytes, where: str, roots: Sequence[Any] | None, now: datetime) -> Stamp:
    client = required_module("rfc3161_client")
    response = _decoded(data, where)
    leaf = _leaf(response, where)
    time = response.tst_info.gen_time.astimezone(UTC)
    if response.tst_info.message_imprint.message != hashlib.sha256(message).digest():
        raise TimeStampError(where, "time stamp", "of this signature", "one of something else")
    if time > now + SKEW:
        raise TimeStampError(where, "time stamp", "in the past", f"{said(time)}, which is in the future")
    first, last = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not first <= time <= last:
        rule = f"within the life of the authority's certificate, {said(first)} to {said(last)}"
        raise TimeStampError(where, "time stamp", rule, f"{said(time)}: the certificate had expired")
    if roots is not None:
        try:
            client.VerifierBuilder(roots=list(roots)).build().verify_message(response, message)
        except (client.VerificationError, ValueError) as exc:
            rule = "whole, and by an authority that is trusted (--tsa-root)"
            raise TimeStampError(where, "time stamp", rule, str(exc)[:160]) from exc
    return Stamp(time, leaf.subject.rfc4514_string(), roots is not None)


def _leaf(response: Any, where: str) -> Any:
    """The certificate of the authority that signed, which the response has to bring."""
    x509 = required_module("cryptography.x509")
    signers = [(s.issuer, s.serial_number) for s in response.signed_data.signer_infos]
    known = [x509.load_der_x509_certificate(c) for c in response.signed_data.certificates]
    for one in known:
        if signers == [(one.issuer, one.serial_number)]:
            return one
    rule = "one that brings the certificate of the authority that signed"
    raise TimeStampError(where, "time stamp", rule, f"{len(known)} certificates, none of them its")


__all__ = ["SKEW", "Stamp", "check_stamp", "load_certificates", "request_stamp", "said", "told_time"]
