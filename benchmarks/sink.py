"""`python -m benchmarks.sink FOLDER`: an S3 that takes everything and keeps nothing, on loopback; prints its address first.

It speaks TLS, as S3 does: without it a sender would hash and sign every byte instead. FOLDER gets its certificate, `ca.pem`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
import sys
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_AT_ONCE = 1024 * 1024
_STARTED = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
_COMPLETED = b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"


class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing is said."""

    def _take(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self._drop(size + 2)
            while self.rfile.readline().strip():
                pass  # trailers
        else:
            self._drop(int(self.headers.get("Content-Length", 0)))

    def _drop(self, left: int) -> None:
        while left:
            left -= len(self.rfile.read(min(left, _AT_ONCE)))

    def _answer(self, body: bytes = b"", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("ETag", f'"{hashlib.md5(self.path.encode()).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self._take()
        self._answer()

    def do_POST(self) -> None:
        self._take()
        self._answer(_STARTED if self.path.endswith("?uploads") else _COMPLETED)

    def do_GET(self) -> None:
        self._answer(status=404)

    do_HEAD = do_GET


def certificate(folder: Path) -> Path:
    """A new one for this address, with its key, in `ca.pem`."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "ca.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(Path(sys.argv[1])))
    # Each connection shakes hands in its own thread, when it first reads.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(f"https://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
