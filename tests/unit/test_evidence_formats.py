"""Canonical JSON, keys, envelopes and time stamps: the formats, held against other implementations."""

from __future__ import annotations

import hashlib
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.tsa import Authority
from uapfast.errors import EvidenceError, MissingDependency, SignatureError, TimeStampError
from uapfast.evidence import canonical, timestamp
from uapfast.evidence.compare import differences, same_value
from uapfast.evidence.envelope import PAYLOAD, bundled, pae, sign, signed, statement
from uapfast.evidence.keys import load_private, load_public

pytestmark = [pytest.mark.needs("cryptography", "rfc8785", "rfc3161-client", "openssl")]
KIND = "urn:uapfast:test:v1"


def openssl(*arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("key", "other"):
        openssl("genpkey", "-algorithm", "ed25519", "-out", str(folder / f"{name}.pem"))
        openssl("pkey", "-in", str(folder / f"{name}.pem"), "-pubout", "-out", str(folder / f"{name}.pub"))
    openssl("genpkey", "-algorithm", "RSA", "-out", str(folder / "rsa.pem"))
    encrypted = ("-aes256", "-pass", "pass:x", "-out", str(folder / "locked.pem"))
    openssl("genpkey", "-algorithm", "ed25519", *encrypted)
    return folder


def test_keys_are_those_of_openssl(keys, tmp_path):
    key, public = load_private(keys / "key.pem"), load_public(keys / "key.pub")
    assert key.public == public
    der = openssl("pkey", "-pubin", "-in", str(keys / "key.pub"), "-outform", "DER")
    assert public.keyid == hashlib.sha256(der).hexdigest()
    (tmp_path / "message").write_bytes(b"message")
    (tmp_path / "signature").write_bytes(key.sign(b"message"))
    checked = openssl(
        "pkeyutl", "-verify", "-pubin", "-inkey", str(keys / "key.pub"), "-rawin",
        "-in", str(tmp_path / "message"), "-sigfile", str(tmp_path / "signature"),
    )  # fmt: skip
    assert b"Success" in checked
    assert str(key) == repr(key) and "object" not in repr(key) and len(repr(key)) < 40


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("rsa.pem", "Ed25519"),
        ("locked.pem", "without a password"),
        ("key.pub", "private key"),
        ("none.pem", "No such file"),
    ],
)
def test_a_key_that_cannot_sign_is_refused(keys, file, said):
    with pytest.raises(SignatureError, match=said):
        load_private(keys / file)


def test_a_public_key_is_no_private_one(keys):
    for file in ("key.pem", "rsa.pem"):
        with pytest.raises(SignatureError, match="public key must be an Ed25519 one"):
            load_public(keys / file)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8")),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), below, max_size=4)
    ),
    max_leaves=12,
)


@given(PLAIN)
@settings(deadline=None)
def test_what_is_canonical_is_read_and_nothing_else(value):
    data = canonical.dumps(value)
    assert canonical.loads(data, "x") == value
    for other in (data + b"\n", b" " + data, json.dumps(value, indent=1).encode() if value else b"{ }"):
        if other != data:
            with pytest.raises(EvidenceError, match="canonical JSON"):
                canonical.loads(other, "x")


def test_floats_doubles_and_slack_are_refused():
    for bad in (b"1.5", b"[1e3]", b"NaN", b'{"a":1,"a":2}', b'{"b":1,"a":2}', b'"\\u0041"', b"\xff", b""):
        with pytest.raises(EvidenceError):
            canonical.loads(bad, "x")
    for bad in ("AA=", "AB==", "A A=", "AA==\n", "AAA", None):
        with pytest.raises(EvidenceError, match="base64"):
            canonical.decoded(bad, "x", "payload")
    assert canonical.decoded("AA==", "x", "payload") == b"\0"


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimals_read_back_as_they_were(value):
    assert float(canonical.decimals(value)) == value


@pytest.mark.needs("securesystemslib")
@settings(deadline=None)
@given(kind=st.text(st.characters(codec="utf-8"), max_size=30), payload=st.binary(max_size=200))
def test_the_encoding_that_is_signed_is_that_of_securesystemslib(kind, payload):
    from securesystemslib.dsse import Envelope

    assert Envelope(payload, kind, {}).pae() == pae(kind, payload)


@pytest.mark.needs("securesystemslib")
def test_securesystemslib_verifies_an_envelope(keys):
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    key = load_private(keys / "key.pem")
    data = bundled(*sign(made(key), key), key, None)
    envelope = Envelope.from_dict(json.loads(data)["dsseEnvelope"])
    raw = key.public.der[-32:].hex()
    theirs = SSlibKey(key.public.keyid, "ed25519", "ed25519", {"public": raw})
    assert envelope.verify([theirs], 1) == {key.public.keyid: theirs}
    assert envelope.payload_type == PAYLOAD


def made(key, **more):
    return statement(KIND, [{"name": "x", "digest": {"sha256": "00"}}], {"signer": key.public.told(), **more})


def test_a_signed_statement_is_read_again(keys):
    key = load_private(keys / "key.pem")
    found = signed(bundled(*sign(made(key, a=1), key), key, None), "x", KIND)
    assert found.predicate["a"] == 1 and found.key == key.public and found.stamp is None
    with pytest.raises(EvidenceError, match="predicateType must be urn:other"):
        signed(bundled(*sign(made(key), key), key, None), "x", "urn:other")


def test_what_nobody_signed_is_refused(keys):
    key, other = load_private(keys / "key.pem"), load_private(keys / "other.pem")
    whole = bundled(*sign(made(key), key), key, None)

    def with_changed(change) -> bytes:
        found = json.loads(whole)
        change(found)
        return canonical.dumps(found)

    changes = [
        lambda b: b.update(more=1),
        lambda b: b["verificationMaterial"].update(tlogEntries=[]),
        lambda b: b["verificationMaterial"]["publicKey"].update(hint=other.public.keyid),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="00"),
        lambda b: b["dsseEnvelope"]["signatures"].append(dict(b["dsseEnvelope"]["signatures"][0])),
        lambda b: b["dsseEnvelope"].update(payloadType="text/plain"),
        lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle.v0.2+json"),
        lambda b: b.pop("dsseEnvelope"),
        lambda b: b["dsseEnvelope"].update(signatures=[]),
    ]
    for change in changes:
        with pytest.raises(EvidenceError, match="x: "):
            signed(with_changed(change), "x", KIND)
    forged = bundled(sign(made(key), key)[0], other.sign(b"x"), key, None)
    with pytest.raises(SignatureError, match="signature must be that of its content"):
        signed(forged, "x", KIND)
    renamed = made(key)
    renamed["predicate"]["signer"] = {**key.public.told(), "keyid": other.public.keyid}
    with pytest.raises(SignatureError, match="signer must be an Ed25519 key with id"):
        signed(bundled(*sign(renamed, key), key, None), "x", KIND)


# -- time stamps -----------------------------------------------------------------------------------
MESSAGE = b"what is stamped" * 4


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa") / "good")


@pytest.mark.needs("httpx2")
def test_a_stamp_is_asked_for_and_holds(authority, tmp_path):
    roots = timestamp.load_certificates(authority.root)
    with authority.served() as url:
        data = timestamp.request_stamp(url, MESSAGE, roots)
    found = timestamp.check_stamp(data, MESSAGE, "x", roots)
    assert abs(found.time - datetime.now(UTC)) < timedelta(seconds=60)
    assert found.authority == "CN=stamps of the test" and found.trusted
    (tmp_path / "reply").write_bytes(data)
    (tmp_path / "data").write_bytes(MESSAGE)
    checked = openssl(
        "ts", "-verify", "-in", str(tmp_path / "reply"), "-data", str(tmp_path / "data"),
        "-CAfile", str(authority.root),
    )  # fmt: skip
    assert b"OK" in checked


def query() -> bytes:
    import rfc3161_client as client

    request = client.TimestampRequestBuilder().data(MESSAGE).hash_algorithm(client.HashAlgorithm.SHA256)
    return request.cert_request(cert_request=True).build().as_bytes()


def test_a_stamp_that_does_not_hold_says_why(authority, tmp_path):
    roots, data = timestamp.load_certificates(authority.root), authority.reply(query())
    with pytest.raises(TimeStampError, match="one of something else"):
        timestamp.check_stamp(data, b"other", "x", roots)
    with pytest.raises(TimeStampError, match="which is in the future"):
        timestamp.check_stamp(data, MESSAGE, "x", roots, datetime.now(UTC) - timedelta(days=1))
    long_ago = Authority(tmp_path / "old", first=datetime.now(UTC) - timedelta(days=90), days=30)
    with pytest.raises(TimeStampError, match="had expired"):
        timestamp.check_stamp(
            long_ago.reply(query()), MESSAGE, "x", timestamp.load_certificates(long_ago.root)
        )
    with pytest.raises(TimeStampError, match="trusted"):
        timestamp.check_stamp(data, MESSAGE, "x", timestamp.load_certificates(long_ago.root))
    for_servers = Authority(tmp_path / "servers", stamps=False)
    with pytest.raises((TimeStampError, subprocess.CalledProcessError)):  # openssl may refuse to stamp at all
        timestamp.check_stamp(
            for_servers.reply(query()), MESSAGE, "x", timestamp.load_certificates(for_servers.root)
        )
    for bad in (b"", b"\x30\x03\x02\x01\x00", data[:-1], data + b"\0", b"<html>"):
        with pytest.raises(TimeStampError, match="time stamp"):
            timestamp.check_stamp(bad, MESSAGE, "x", roots)


@pytest.mark.needs("httpx2")
def test_an_authority_that_does_not_answer_is_named(authority):
    for spoil, said in ((503, "503"), (b"<html>", "RFC 3161"), (b"0" * (2 << 20), "bytes")):
        with authority.served(spoil) as url, pytest.raises(TimeStampError, match=said):
            timestamp.request_stamp(url, MESSAGE)
    old = authority.reply(query())  # another nonce
    with authority.served(old) as url, pytest.raises(TimeStampError, match="nonce"):
        timestamp.request_stamp(url, MESSAGE)
    with pytest.raises(TimeStampError, match="authority must be one that answers"):
        timestamp.request_stamp(url, MESSAGE)  # it is gone
    with pytest.raises(TimeStampError, match="--tsa"):
        timestamp.request_stamp("file:///etc/passwd", MESSAGE)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_bit_of_a_stamp_breaks_its_seal(keys, authority, place, bit):
    """Some of its bytes are signed by no authority: the seal is what covers them."""
    key = load_private(keys / "key.pem")
    payload, signature = sign(made(key), key)
    stamp = _replied(authority)
    whole = bundled(payload, signature, key, stamp)
    assert signed(whole, "x", KIND).stamp == stamp
    changed = bytearray(stamp)
    changed[int(place * len(changed))] ^= 1 << bit
    seal = json.loads(whole)["verificationMaterial"]["publicKey"]["hint"]
    found = json.loads(bundled(payload, signature, key, bytes(changed)))
    found["verificationMaterial"]["publicKey"]["hint"] = seal
    with pytest.raises(SignatureError, match="seal of the time stamp"):
        signed(canonical.dumps(found), "x", KIND)


_REPLIES: list[bytes] = []


def _replied(authority: Authority) -> bytes:
    if not _REPLIES:
        _REPLIES.append(authority.reply(query()))
    return _REPLIES[0]


# -- comparing -------------------------------------------------------------------------------------
def test_numbers_may_differ_by_a_millionth_and_words_not_at_all():
    said = "reasons[0]"
    assert same_value("0.5", "0.5000005", "z") and not same_value("0.5", "0.50001", "z")
    assert same_value("p 0.000654 <= 0.001: closer", "p 0.000655 <= 0.001: closer", said)
    assert not same_value("p 0.000654: closer", "p 0.000654: farther", said)
    assert not same_value("p 1: x", "p 2: x", said)
    assert not same_value(1, "1", "z") and not same_value(True, 1, "z") and same_value(None, None, "z")
    assert differences({"a": [1, {"b": "2"}]}, {"a": [1, {"b": "2"}]}) == ([], [])
    found, only = differences({"a": [1, 2], "b": 1}, {"a": [1, 3], "c": 1})
    assert found == ["a[1]: stated 2, found 3"] and only == ["b", "c"]
    assert differences({"a": 1}, {"a": 2}, {"a"}) == ([], [])


def test_without_the_extra_it_says_which(monkeypatch):
    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr(canonical, "import_module", missing)
    with pytest.raises(MissingDependency, match=r"rfc8785 is needed \(pip install .*'rfc8785>=0.1.4'"):
        canonical.dumps({})


def test_the_rates_that_statements_cite_are_those_of_the_shipped_table():
    from uapfast.evidence.statement import measured_error_rates
    from uapfast.examination.error_rates import error_rates, rates_for

    found = measured_error_rates({"alpha": "0.001", "settings": {"twins": 8}, "output": "logits"})["rates"]
    assert found and found == rates_for(1e-3, 8)
    assert {r["source_sha256"] for r in found} <= set(error_rates()["tables"].values())
    assert canonical.dumps(found)  # no floats
    assert measured_error_rates({"alpha": "x"})["rates"] == measured_error_rates({})["rates"] == []
