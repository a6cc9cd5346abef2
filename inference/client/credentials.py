"""Credentials of a client: the certificates it trusts and shows, and the token that says who it is. No gRPC here.

    Credentials.given(tls_ca="ca.pem", token="...")      # what is not given comes from the environment
    Credentials.given(tls_ca="")                         # nothing: not even from the environment

Files are read, and looked at, when they are given: what is wrong with them shows at once, by the argument's name, and
not as a connection that does not come about.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ringpull.inference.client.targets import stays_here
from ringpull.ps.errors import InvalidInput

logger = logging.getLogger(__name__)

FILES: Final = {"tls_ca": "RINGPULL_TLS_CA", "tls_cert": "RINGPULL_TLS_CERT", "tls_key": "RINGPULL_TLS_KEY"}
"""Argument -> variable of the environment that is its default."""

TOKEN: Final = "RINGPULL_TOKEN"
"""Variable of the environment with the token of clients that are given none."""

MAX_TOKEN_CHARS: Final = 4_096
"""Characters of a token: it travels as a header, of which servers take 8 to 16 KiB."""

_warned: set[str] = set()
_warned_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client trusts, and shows of itself. Files as they were when they were read."""

    ca: bytes = field(default=b"", repr=False)
    """Certificates of the authorities that a server's may be of, PEM; empty: those that gRPC brings."""
    cert: bytes = field(default=b"", repr=False)
    """Own certificate and those between it and its authority, PEM; empty: none is shown."""
    key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    """Files that they were read from."""
    channel: Any = field(default=None, repr=False)
    """`grpc.ChannelCredentials` that are used instead of files."""

    @property
    def tls(self) -> bool:
        """Whether connections are to be TLS."""
        return bool(self.ca or self.cert or self.channel is not None)

    @property
    def authorization(self) -> str:
        """Value of the header of that name, in gRPC and HTTP alike; empty: there is none."""
        return f"Bearer {self.token}" if self.token else ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """Metadata of a gRPC call; None: there is none."""
        return (("authorization", self.authorization),) if self.token else None

    @classmethod
    def given(
        cls,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        token: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        options: str = "",
    ) -> Credentials:
        """Return what was given, and from the environment what was not; an empty text is nothing, whatever is there.

        Args:
            environment: Where defaults come from; None: this process's.
            options: What the names of options of a command line begin with, such as `--`, where messages are to name
                those; empty: arguments.

        Raises:
            InvalidInput: A file cannot be read or used, a certificate and its key do not belong together, or the token
                is none; the message names the argument, or the variable.
        """
        known = os.environ if environment is None else environment
        paths, names = {}, {}
        for argument, path in {"tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key}.items():
            names[argument] = f"{options}{argument.replace('_', '-')}" if options else argument
            if path is None:
                names[argument] = FILES[argument] if known.get(FILES[argument]) else names[argument]
                path = known.get(FILES[argument], "")
            paths[argument] = _path(names[argument], path)
        named = TOKEN if token is None else f"{options}token"
        shown = check_token(named, known.get(TOKEN, "") if token is None else token)
        ca, cert, key = (_read(names[argument], paths[argument]) for argument in FILES)
        _check_pair(names, paths)
        if paths["tls_ca"]:
            _check_ca(names["tls_ca"], paths["tls_ca"])
        return cls(ca, cert, key, shown, paths["tls_ca"], paths["tls_cert"], paths["tls_key"])

    @classmethod
    def of(
        cls,
        credentials: object,
        tls_ca: str | os.PathLike[str] | None,
        tls_cert: str | os.PathLike[str] | None,
        tls_key: str | os.PathLike[str] | None,
        token: str | None,
    ) -> Credentials:
        """Return what the arguments of a client come to.

        Args:
            credentials: Credentials made before, or `grpc.ChannelCredentials`, in place of files; None: neither.

        Raises:
            InvalidInput: What `given` says; or two arguments say the same thing.
        """
        if credentials is None:
            return cls.given(tls_ca, tls_cert, tls_key, token)
        files = {"tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key}
        both = [name for name, path in files.items() if path]
        if isinstance(credentials, cls):
            both += ["token"] if token is not None else []
            made = credentials
        else:
            made = replace(cls.given("", "", "", token), channel=credentials)
        if both:
            raise InvalidInput(f"credentials and {both[0]} both say what is shown; give one of them")
        return made

    def ssl_context(self) -> ssl.SSLContext:
        """Return the same trust for HTTP."""
        context = ssl.create_default_context(cafile=self.ca_file or None)
        if self.ca_file:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: it may be one that another has signed
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def warn_of_plain_text(self, target: str) -> None:
        """Say, once for each target, that a token goes where anybody on the way can read it."""
        if not self.token or self.tls or stays_here(target):
            return
        with _warned_lock:
            told = target in _warned
            _warned.add(target)
        if not told:
            logger.warning(
                "the token goes to %s in plain text: whoever is on the way can read and use it; give tls_ca"
                " (--tls-ca, %s), once its certificate is served",
                target,
                FILES["tls_ca"],
            )


def check_token(name: str, token: str) -> str:
    """Return a token that can be sent.

    Raises:
        InvalidInput: It cannot; the message names the argument, and never has the token.
    """
    if not isinstance(token, str):
        raise InvalidInput(f"{name} is a {type(token).__name__}; it must be a text")
    if not all("!" <= char <= "~" for char in token):
        raise InvalidInput(
            f"{name} must be visible ASCII without spaces; this one has a space, a line's end or other characters"
        )
    if len(token) > MAX_TOKEN_CHARS:
        raise InvalidInput(f"{name} has {len(token):,} characters; at most {MAX_TOKEN_CHARS:,} can be sent")
    return token


def _path(name: str, path: object) -> str:
    if isinstance(path, str | os.PathLike):
        text = os.fspath(path)
        if isinstance(text, str) and "\0" not in text:
            return text
    raise InvalidInput(f"{name} is {path!r}; it must be the path of a PEM file")


def _read(name: str, path: str) -> bytes:
    if not path:
        return b""
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise InvalidInput(f"{name}: {path} cannot be read: {exc.strerror or exc}") from exc
    if b"-----BEGIN " not in data:
        raise InvalidInput(f"{name}: {path} is no PEM file: it has no line -----BEGIN ...-----")
    return data


def _check_pair(names: Mapping[str, str], paths: Mapping[str, str]) -> None:
    cert, key = paths["tls_cert"], paths["tls_key"]
    if bool(cert) != bool(key):
        there, missing = ("tls_cert", "tls_key") if cert else ("tls_key", "tls_cert")
        raise InvalidInput(f"{names[there]} is given without {names[missing]}: a certificate needs its key")
    if not cert:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except _NeedsPassword as exc:
        raise InvalidInput(f"{names['tls_key']}: {key} is encrypted; give a key without a password") from exc
    except (ssl.SSLError, OSError, ValueError) as exc:
        if getattr(exc, "reason", "") == "KEY_VALUES_MISMATCH":
            why = f"the key is not that of the certificate {cert}"
            raise InvalidInput(f"{names['tls_key']}: {key}: {why} ({names['tls_cert']})") from exc
        raise InvalidInput(
            f"{names['tls_cert']} {cert} and {names['tls_key']} {key} are no certificate and its key: {_why(exc)}"
        ) from exc


def _check_ca(name: str, path: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError, ValueError) as exc:
        raise InvalidInput(f"{name}: {path} holds no certificate that can be read: {_why(exc)}") from exc
    if not context.cert_store_stats()["x509"]:
        raise InvalidInput(f"{name}: {path} holds no certificate")


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if isinstance(reason, str) else str(error)


class _NeedsPassword(Exception):
    """Raised where OpenSSL would ask at the terminal."""


def _no_password() -> str:
    raise _NeedsPassword
