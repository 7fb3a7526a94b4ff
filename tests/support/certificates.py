"""Certificates for servers on loopback, good and bad."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = datetime.timedelta(days=1)


@dataclass
class Authority:
    """An authority of this test only; `pem` is what a client has to trust."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _build("Test authority", key, "Test authority", key, [], 0, authority=True)
        return cls(key, certificate, folder)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, *names: str, starts: float = -1, own: bool = False) -> ssl.SSLContext:
        """For a server in this process: what `file` makes, loaded."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file(*names, starts=starts, own=own))
        return context

    def file(self, *names: str, starts: float = -1, own: bool = False) -> Path:
        """A PEM file with a key and a certificate for these names and addresses, of two days, from `starts` days from
        now on.

        `own`: signed by itself instead of by the authority.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        issuer, signer = (names[0], key) if own else ("Test authority", self.key)
        made = _build(names[0], key, issuer, signer, list(names), starts)
        file = self.folder / f"{len(list(self.folder.iterdir()))}.pem"
        file.write_bytes(
            made.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return file


def _build(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    names: list[str],
    starts: float,
    *,
    authority: bool = False,
) -> x509.Certificate:
    begin = datetime.datetime.now(datetime.UTC) + starts * DAY
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + 2 * DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _general(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
