"""Certificates for servers of tests: an authority that signs one for localhost, and a stranger."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

from tests.servers import ServerMissingError

_DAYS = ["-days", "2"]
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class Certificates:
    """`ca` signed `certificate`, whose key is `key`, for localhost and 127.0.0.1; `wrong_ca` did not."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = _authority(folder, "ca")
        self.wrong_ca = _authority(folder, "wrong-ca")
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        request, extensions = folder / "server.csr", folder / "extensions"
        extensions.write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        _openssl("req", "-new", *_KEY, "-subj", "/CN=server of a test",
                 "-keyout", str(self.key), "-out", str(request))  # fmt: skip
        _openssl("x509", "-req", "-in", str(request), "-CA", str(self.ca),
                 "-CAkey", str(self.ca.with_suffix(".key")), "-CAcreateserial", *_DAYS,
                 "-extfile", str(extensions), "-out", str(self.certificate))  # fmt: skip
        self.key.chmod(0o644)  # the folder is private; a server may run as another user

    def trust(self, ca: Path) -> ssl.SSLContext:
        """Return an SSL context that trusts only this authority."""
        return ssl.create_default_context(cafile=ca)


def _authority(folder: Path, name: str) -> Path:
    certificate = folder / f"{name}.pem"
    _openssl("req", "-x509", *_KEY, *_DAYS, "-subj", f"/CN={name} of a test",
             "-addext", "keyUsage=critical,keyCertSign,cRLSign",  # Python 3.13 asks for it
             "-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate))  # fmt: skip
    return certificate


def _openssl(*arguments: str) -> None:
    binary = shutil.which("openssl")
    if binary is None:
        raise ServerMissingError("openssl", "openssl", "openssl")
    subprocess.run([binary, *arguments], check=True, capture_output=True)
