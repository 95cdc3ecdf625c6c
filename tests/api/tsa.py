"""A time-stamping authority made by ``openssl ts``, on loopback; its keys are made for the test."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONFIG = """
[tsa]
default_tsa = me
[me]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
"""


def missing() -> str | None:
    """Why there is none."""
    return None if shutil.which("openssl") else "no openssl command"


class Authority:
    """Root, and a certificate that may stamp (its extended use is critical, and stamps alone).

    Args:
        folder: new; gets keys and certificates.
        first: from when on the certificate is valid.
        days: for how long.
        stamps: whether its extended use is that of stamps.
    """

    def __init__(
        self, folder: Path, *, first: datetime | None = None, days: int = 30, stamps: bool = True
    ) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import rsa
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

        folder.mkdir()
        self.folder, self.root = folder, folder / "root.pem"
        first = first or datetime.now(UTC) - timedelta(days=1)

        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        def made(
            subject: str, key: rsa.RSAPrivateKey, issuer_key: rsa.RSAPrivateKey, ca: bool
        ) -> x509.Certificate:
            use = ExtendedKeyUsageOID.TIME_STAMPING if stamps else ExtendedKeyUsageOID.SERVER_AUTH
            builder = (
                x509.CertificateBuilder()
                .subject_name(name(subject))
                .issuer_name(name("root of the test"))
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(first)
                .not_valid_after(first + timedelta(days=days))
                .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
                    critical=False,
                )
                .add_extension(
                    x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True
                )
            )
            if not ca:
                builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=True)
            return builder.sign(issuer_key, hashes.SHA256())

        pem = serialization.Encoding.PEM
        root_key, key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        self.root.write_bytes(made("root of the test", root_key, root_key, True).public_bytes(pem))
        (folder / "tsa.pem").write_bytes(made("stamps of the test", key, root_key, False).public_bytes(pem))
        plain = serialization.NoEncryption()
        form = serialization.PrivateFormat.PKCS8
        (folder / "tsa.key").write_bytes(key.private_bytes(pem, form, plain))
        (folder / "serial").write_text("01\n")
        (folder / "tsa.cnf").write_text(CONFIG.format(folder=folder))
        self.lock = threading.Lock()

    def reply(self, query: bytes) -> bytes:
        """A response, DER."""
        with self.lock:
            (self.folder / "query").write_bytes(query)
            command = ["openssl", "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query"]
            command += ["-signer", "tsa.pem", "-inkey", "tsa.key", "-out", "reply"]
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
            return (self.folder / "reply").read_bytes()

    @contextmanager
    def served(self, spoil: object = None) -> Iterator[str]:
        """Its URL; ``spoil`` may be a status, or bytes that it answers with."""
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["content-length"]))
                assert self.headers["content-type"] == "application/timestamp-query"
                body = spoil if isinstance(spoil, bytes) else authority.reply(query)
                self.send_response(spoil if isinstance(spoil, int) else 200)
                self.send_header("content-type", "application/timestamp-reply")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/stamp"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
