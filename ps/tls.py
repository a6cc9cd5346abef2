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

import os
from dataclasses import dataclass
from typing import Annotated

from ringpull.ps.errors import InvalidInput
from ringpull.ps.settings import Group, Option


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
