"""Contexts of both ends, made of the files of a deployment, which are looked through first.

`load` refuses whatever a first connection would else trip over, by the option's name: it lets the two ends meet in
memory. Nobody is asked for a password.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from ringpull.ps.errors import InvalidInput

if TYPE_CHECKING:
    from ringpull.ps.tls import TlsFiles

ONE: Final = re.compile(
    rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----.*?-----END (?:TRUSTED )?CERTIFICATE-----", re.DOTALL
)
PRIVATE_KEY: Final = b"PRIVATE KEY-----"
ENCRYPTED: Final = (b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")

READS: Final = 3
"""Number of times that files are read which change meanwhile."""

EXPIRED, NOT_YET, WRONG_PURPOSE = 10, 9, 26
"""Codes of OpenSSL (X509_V_ERR_*) for why a certificate is not taken."""


@dataclass(frozen=True, slots=True)
class TlsText:
    """What the files say."""

    cert: bytes
    key: bytes
    ca: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class Ends:
    """Contexts of the two ends of a connection between processes of a deployment."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@dataclass(frozen=True, slots=True, eq=False)
class LoadedTls:
    """Certificate that is in use, and what is made of it."""

    text: TlsText
    public: ssl.SSLContext
    """Context of a server that clients see, of HTTP; gRPC makes its own of `text`."""
    members: Ends
    since_s: float
    until_s: float
    """Times from which, and to which, the certificate is valid."""


def load(files: TlsFiles) -> LoadedTls:
    """Read the files, and make the contexts.

    Raises:
        InvalidInput: A file cannot be used; names its option.
    """
    for _ in range(READS):
        text = read(files)
        loaded = _load(files, text)
        if read(files) == text:  # contexts are made of files, not of what was read
            return loaded
    raise InvalidInput(f"--tls-cert {files.cert} changes while it is read")


def read(files: TlsFiles) -> TlsText:
    """Return what the files say.

    Raises:
        InvalidInput: One cannot be read, or is not in PEM; names its option.
    """
    cert = _read("cert", files.cert)
    key = _read("key", files.key)
    ca = _read("ca", files.ca) if files.ca else b""
    if PRIVATE_KEY not in key:
        raise InvalidInput(f"--tls-key {files.key} has no private key in PEM")
    if any(each in key for each in ENCRYPTED):
        raise _encrypted(files)
    if ONE.search(cert) is None:
        raise InvalidInput(f"--tls-cert {files.cert} has no certificate in PEM")
    if files.ca and ONE.search(ca) is None:
        raise InvalidInput(f"--tls-ca {files.ca} has no certificate in PEM")
    return TlsText(cert, key, ca)


def anchors_of(text: TlsText) -> list[bytes]:
    """Return the certificates that vouch for a process of a deployment: of the CA, else the deployment's own.

    Of the deployment's own file only the first: whoever has one of the same CA is no process of it.
    """
    found: list[bytes] = ONE.findall(text.ca or text.cert)
    return found if text.ca else found[:1]


def _read(option: str, path: str) -> bytes:
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise InvalidInput(f"--tls-{option} {path} is not a file; it is read again and again")
        return Path(path).read_bytes()
    except OSError as exc:
        raise InvalidInput(f"--tls-{option} {path} cannot be read: {exc.strerror or exc}") from exc


def _encrypted(files: TlsFiles) -> InvalidInput:
    return InvalidInput(f"--tls-key {files.key} is encrypted; nobody is there to type its password: decrypt it")


def _load(files: TlsFiles, text: TlsText) -> LoadedTls:
    public = _context(files, ssl.PROTOCOL_TLS_SERVER)
    public.minimum_version = ssl.TLSVersion.TLSv1_2
    public.options |= ssl.OP_NO_RENEGOTIATION
    if text.ca:
        _trust(public, "ca", files.ca, anchors_of(text))
        public.verify_mode = ssl.CERT_REQUIRED
        public.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC has it: a CA may be one that another has signed
    members = _ends(files, anchors_of(text), text)
    valid = _meet(files, text, members)
    _meet(files, text, Ends(public, members.client))
    return LoadedTls(text, public, members, *valid)


def _ends(files: TlsFiles, anchors: list[bytes], text: TlsText) -> Ends:
    both = Ends(_context(files, ssl.PROTOCOL_TLS_SERVER), _context(files, ssl.PROTOCOL_TLS_CLIENT))
    both.server.num_tickets = 0  # nobody resumes a session
    for each in (both.server, both.client):
        # Both ends are of one build, and 1.3 is a round trip shorter.
        each.minimum_version = ssl.TLSVersion.TLSv1_3
        each.check_hostname = False
        each.verify_mode = ssl.CERT_REQUIRED
        # A certificate of the list is enough, also one that is no root: the deployment's own.
        each.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        _trust(each, "ca" if text.ca else "cert", files.ca or files.cert, anchors)
    return both


def _context(files: TlsFiles, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)

    def ask() -> NoReturn:
        raise _encrypted(files)

    try:
        context.load_cert_chain(files.cert, files.key, ask)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH" or exc.reason == "KEY_TYPE_MISMATCH":
            raise InvalidInput(f"--tls-key {files.key} is not the key of --tls-cert {files.cert}") from exc
        _trust(ssl.SSLContext(protocol), "cert", files.cert, ONE.findall(_read("cert", files.cert)))
        what = f"--tls-key {files.key}, or its certificate --tls-cert {files.cert},"
        raise InvalidInput(f"{what} cannot be used: {_reason(exc)}") from exc
    except OSError as exc:
        raise InvalidInput(f"--tls-cert or --tls-key cannot be read: {exc.strerror or exc}") from exc
    return context


def _trust(context: ssl.SSLContext, option: str, path: str, certificates: list[bytes]) -> None:
    try:
        context.load_verify_locations(cadata=b"\n".join(certificates).decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as exc:
        reason = _reason(exc) if isinstance(exc, ssl.SSLError) else str(exc)
        raise InvalidInput(f"--tls-{option} {path} cannot be read as certificates in PEM: {reason}") from exc


def _reason(error: ssl.SSLError) -> str:
    return error.reason.replace("_", " ").lower() if error.reason else "it is damaged"


# -- both ends meet ----------------------------------------------------------------------------------------------------


def _meet(files: TlsFiles, text: TlsText, ends: Ends) -> tuple[float, float]:
    """Return when the certificate begins and ends to be valid, after both ends have taken each other's.

    Raises:
        InvalidInput: They do not; says why.
    """
    try:
        return _shake_hands(ends)
    except ssl.SSLCertVerificationError as exc:
        raise InvalidInput(_why(files, text, exc)) from exc
    except ssl.SSLError as exc:
        raise InvalidInput(f"--tls-cert {files.cert} cannot be used: {_reason(exc)}") from exc


def _why(files: TlsFiles, text: TlsText, error: ssl.SSLCertVerificationError) -> str:
    own, code = f"--tls-cert {files.cert}", error.verify_code
    if code == WRONG_PURPOSE:
        return (
            f"{own} is not for both ends: shards and heads show it to each other, as servers and as clients; its"
            " extended key usage must name serverAuth and clientAuth, or be left out"
        )
    if text.ca:
        try:  # by itself, so that it is said whose trouble it is
            _shake_hands(_ends(files, ONE.findall(text.cert)[:1], text))
        except ssl.SSLCertVerificationError as exc:
            code = exc.verify_code
        else:
            what = f"--tls-ca {files.ca}"
            if code in (EXPIRED, NOT_YET):
                return f"{what} cannot be used: {error.verify_message}"
            return (
                f"{own} is not signed by {what} ({error.verify_message}): processes of the deployment would refuse each"
                " other; add its CA, or the certificate itself, to the file"
            )
    if code == EXPIRED:
        return f"{own} has expired"
    if code == NOT_YET:
        return f"{own} is not valid yet: see the clock of this machine"
    return f"{own} cannot be used: {error.verify_message}"


def _shake_hands(ends: Ends) -> tuple[float, float]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = ends.server.wrap_bio(to_server, to_client, server_side=True)
    client = ends.client.wrap_bio(to_client, to_server)
    open_ends = [client, server]
    while open_ends:
        for each in tuple(open_ends):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                continue
            open_ends.remove(each)
    shown = client.getpeercert()
    assert shown  # both ends demand one
    return ssl.cert_time_to_seconds(str(shown["notBefore"])), ssl.cert_time_to_seconds(str(shown["notAfter"]))
