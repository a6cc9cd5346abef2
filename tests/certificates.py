"""Certificates for tests, made once per session: a CA, what it has signed, and what a stranger has.

Of `cryptography`, which comes with moto. Keys are of P-256, which are made in no time.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ringpull.ps.tls import TlsFiles

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    cert: Path
    key: Path

    def files(self, ca: Path | None = None) -> TlsFiles:
        """Return them as a deployment's."""
        return TlsFiles(cert=str(self.cert), key=str(self.key), ca=str(ca or ""))


class Authority:
    """A CA in a folder; it signs for localhost, 127.0.0.1 and ::1. Of its own, or an intermediate one of another's."""

    def __init__(self, folder: Path, name: str = "ca", of: Authority | None = None) -> None:
        self.folder = folder
        self.cert = folder / f"{name}.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of a test")])
        above = of or self
        self._signed = _build(self._name, above._name, self._key, above._key, -1, 30, authority=True)
        self.cert.write_bytes(_pem(self._signed))

    def sign(
        self,
        name: str,
        *,
        purposes: tuple[x509.ObjectIdentifier, ...] = (SERVER, CLIENT),
        since: float = -1,
        until: float = 20,
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1"),
        password: bytes = b"",
    ) -> Pair:
        """Return a new certificate and its key, in `NAME.pem` and `NAME.key`.

        Args:
            since: Days from now on which it begins to be valid; `until`: on which it ends.
            hosts: Names and addresses that it is for.
            password: Encrypts the key; empty: it is not.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signed = _build(subject, self._name, key, self._key, since, until, purposes=purposes, hosts=hosts)
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        pair.cert.write_bytes(_pem(signed))
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pair.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return pair


class Certificates:
    """All that tests need, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.ca = self.authority.cert
        self.server = self.authority.sign("server")
        """Certificate of a deployment: for both purposes, as its processes show it to each other."""
        self.renewed = self.authority.sign("renewed")
        """What `server` is exchanged for."""
        self.client = self.authority.sign("client", purposes=(CLIENT,), hosts=())
        self.only_server = self.authority.sign("only_server", purposes=(SERVER,))
        self.expired = self.authority.sign("expired", since=-10, until=-1)
        self.encrypted = self.authority.sign("encrypted", password=b"secret")
        self.intermediate_ca = Authority(folder, "intermediate_ca", self.authority)
        self.below = self.intermediate_ca.sign("below")
        """Certificate by a CA that is signed itself."""
        self.stranger_ca = Authority(folder, "stranger_ca")
        self.stranger = self.stranger_ca.sign("stranger")
        """Certificate by a CA that nobody knows."""

    @property
    def tls(self) -> TlsFiles:
        """Files of a deployment whose clients need no certificate."""
        return self.server.files()

    @property
    def mutual(self) -> TlsFiles:
        """Files of a deployment that demands certificates."""
        return self.server.files(self.ca)


def _build(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    since: float,
    until: float,
    *,
    authority: bool = False,
    purposes: tuple[x509.ObjectIdentifier, ...] = (),
    hosts: tuple[str, ...] = (),
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + since * DAY)
        .not_valid_after(now + until * DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if authority:
        builder = builder.add_extension(_signing(), critical=True)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name_of(each) for each in hosts]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _signing() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _name_of(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
