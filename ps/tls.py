"""TLS: the files that a deployment names, the contexts of both ends made of them, and how they are read again.

Files are paths on each node, and a process reads its own node's. They are looked at before each new connection, and
whenever a process says how it is: new ones serve the connections that come from then on, and those that cannot be used
(a key that does not fit yet, half a file) leave what was used before, with a warning.

Two kinds of ends are made of the same files. What clients see (gRPC, HTTP, metrics) shows the certificate, and with a
CA demands one of that CA from them. Between the processes of a deployment both ends always show the certificate and
demand one: of the CA, or without a CA this very certificate. Names are not looked at there: members are told of by
their addresses, which change, and `Hello` says who each one is; whoever has the deployment's key is one of it.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import Group, Option
from ringpull.ps.tls_contexts import Ends, TlsText, load, read

LAST_PART: Final = 0.1
"""Part of a certificate's life in which its end is warned of."""

RETRY_S: Final = 5.0
"""Time after which files that could not be used are tried again as they are: what was to come may have begun since."""

_LOG: Final = logging.getLogger(__name__)


def _path(_: str, given: str) -> str:
    # Not resolved: a link is how a certificate is exchanged, as by Kubernetes, and has to be followed each time.
    return os.path.abspath(given) if given else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Files of a deployment's certificate, in PEM; all empty: no TLS."""

    cert: Annotated[
        str,
        Option(
            "Certificate, in PEM, with those that lead to its CA: everything speaks TLS. A path on each node.",
            Group.SECURITY,
            "tls-cert",
            "FILE",
            parse=_path,
        ),
    ] = ""
    """Certificate, followed by its intermediate ones; empty: no TLS."""
    key: Annotated[str, Option("Its key, in PEM, not encrypted.", Group.SECURITY, "tls-key", "FILE", parse=_path)] = ""
    """Private key of the certificate."""
    ca: Annotated[
        str,
        Option(
            "CA of the certificates that clients, and the deployment's own processes, have to show (mutual TLS).",
            Group.SECURITY,
            "tls-ca",
            "FILE",
            parse=_path,
        ),
    ] = ""
    """Certificates of the CA whose certificates are demanded; empty: clients need none."""

    def __post_init__(self) -> None:
        if self.cert and not self.key:
            raise InvalidInput("--tls-cert needs --tls-key, the file of its private key")
        if self.key and not self.cert:
            raise InvalidInput("--tls-key needs --tls-cert, the file of its certificate")
        if self.ca and not self.cert:
            raise InvalidInput("--tls-ca needs --tls-cert and --tls-key: without them nothing speaks TLS")

    def __bool__(self) -> bool:
        """Whether there is to be TLS."""
        return bool(self.cert)


NO_TLS: Final = TlsFiles()


def warnings_of(tls: LiveTls | None) -> tuple[str, ...]:
    """Return what an operator should know of the TLS of a process, if it has one."""
    return () if tls is None else tls.warnings()


def check_tls(files: TlsFiles) -> None:
    """Refuse files that cannot be used; nothing is kept of them.

    Raises:
        InvalidInput: Names the option.
    """
    if files:
        load(files)


class LiveTls:
    """TLS of one process: the certificate in use, which follows the files. May be used from any thread."""

    def __init__(self, files: TlsFiles, *, now: Callable[[], float] = time.time) -> None:
        """Read the files.

        Args:
            now: Seconds since 1970, by which certificates expire.

        Raises:
            InvalidInput: They cannot be used; names the option.
        """
        self._files = files
        self._now = now
        self._lock = threading.Lock()
        self._loaded = load(files)
        self._tried: TlsText | InvalidInput = self._loaded.text
        """What was read last, or why it could not be."""
        self._trouble = ""
        self._retry_s = 0.0

    @classmethod
    def of(cls, files: TlsFiles) -> LiveTls | None:
        """Return the TLS of these files; None where there is to be none.

        Raises:
            InvalidInput: They cannot be used; names the option.
        """
        return cls(files) if files else None

    def __repr__(self) -> str:
        return f"<LiveTls {self._files.cert}{' ' + self._trouble if self._trouble else ''}>"

    @property
    def public(self) -> ssl.SSLContext:
        """Context of a server that clients see, for one new connection."""
        self.refresh()
        return self._loaded.public

    @property
    def members(self) -> Ends:
        """Contexts between processes of the deployment, for one new connection."""
        self.refresh()
        return self._loaded.members

    @property
    def text(self) -> TlsText:
        """What the files in use say."""
        self.refresh()
        return self._loaded.text

    @property
    def mutual(self) -> bool:
        """Whether clients have to show a certificate."""
        return bool(self._files.ca)

    def warnings(self) -> tuple[str, ...]:
        """Return what an operator should know: files that cannot be used, a certificate that ends soon."""
        self.refresh()
        loaded, now_s, found = self._loaded, self._now(), []
        if self._trouble:
            found.append(f"the files of before are in use for TLS: {self._trouble}")
        if now_s >= loaded.until_s:
            found.append(f"--tls-cert {self._files.cert} has expired: new connections fail")
        elif now_s >= loaded.until_s - LAST_PART * (loaded.until_s - loaded.since_s):
            day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(loaded.until_s))
            found.append(f"--tls-cert {self._files.cert} expires on {day} UTC")
        return tuple(found)

    def refresh(self) -> bool:
        """Look at the files, and go by them if they are new and can be used; return whether they were."""
        with self._lock:
            # By what they say, not by their times, which tell nothing of two changes in one tick. It takes 50 us, once
            # a connection.
            read_now: TlsText | InvalidInput
            try:
                read_now = read(self._files)
            except InvalidInput as exc:
                read_now = exc.with_traceback(None)
            same = str(read_now) == str(self._tried) if isinstance(read_now, InvalidInput) else read_now == self._tried
            if same and not (self._trouble and time.monotonic() >= self._retry_s):
                return False
            self._tried = read_now
            try:
                if isinstance(read_now, InvalidInput):
                    raise read_now
                return self._go_by_new_files(read_now)
            except InvalidInput as exc:
                self._retry_s = time.monotonic() + RETRY_S
                if str(exc) != self._trouble:
                    _LOG.warning("the files of before are in use for TLS: %s", exc)
                self._trouble = str(exc)
                return False

    def _go_by_new_files(self, text: TlsText) -> bool:
        changed = text != self._loaded.text
        if changed:  # else they are as they were before something was wrong with them
            self._loaded = load(self._files)
            self._tried = self._loaded.text
            until_s = int(self._loaded.until_s)
            _LOG.info("TLS goes by new files", extra={"certificate": self._files.cert, "until": until_s})
        self._trouble = ""
        return changed
