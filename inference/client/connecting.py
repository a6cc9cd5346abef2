"""Connections that do not come about: what gRPC's words for it mean, and what to do. No I/O."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.targets import host_of, proxy_of

NOT_CONNECTED: Final = "failed to connect"
"""Beginning of gRPC's details where no connection came about."""

NO_GRPC: Final = "Received http2 header with status"
"""Beginning of gRPC's details where what answered was no gRPC server."""

CLOSED: Final = ("Socket closed", "Connection reset", "recvmsg", "Broken pipe", "GOAWAY")
"""gRPC's words where the other end hung up before it had said anything of HTTP/2."""


def advice(target: str, details: str, credentials: Credentials, environment: Mapping[str, str] | None = None) -> str:
    """Return what else to say of a connection that did not come about; empty where gRPC's words say all.

    Args:
        details: gRPC's own words.
        environment: Where gRPC finds its proxy; None: this process's.
    """
    said = [each for each in (_of_tls(target, details, credentials), through_proxy(target, environment)) if each]
    return "; ".join(said)


def through_proxy(target: str, environment: Mapping[str, str] | None = None) -> str:
    """Return which proxy stands between a client and a target; empty: none."""
    known = os.environ if environment is None else environment
    variable = proxy_of(target, known)
    if not variable:
        return ""
    address = known[variable].rpartition("://")[2].rpartition("@")[2].rstrip("/")
    return f"the way there is the proxy {address} of {variable}: name {host_of(target)} in no_proxy to go without it"


def _of_tls(target: str, details: str, credentials: Credentials) -> str:
    host = host_of(target)
    if "CERTIFICATE_VERIFY_FAILED" in details:
        if "expired" in details or "not yet valid" in details:
            return "its certificate has expired, or is not valid yet: have it renewed, and look at both clocks"
        trusted = credentials.ca_file or "what gRPC trusts by itself"
        return f"its certificate is of no authority in {trusted}: give the CA that signed it as tls_ca (--tls-ca)"
    if "Hostname Verification" in details:
        return f"its certificate is not for {host}: ask it by a name that is in there, or have one made for {host}"
    if "WRONG_VERSION_NUMBER" in details:
        return (
            "it speaks no TLS: leave out tls_ca and tls_cert (and RINGPULL_TLS_CA, RINGPULL_TLS_CERT), unless the port"
            " is another one"
        )
    if details.startswith(NO_GRPC):
        return "what answered there is no gRPC server: look at the port, and at what stands before it"
    if "http1.x server" in details or "HTTP/1" in details:
        return "that is a port of HTTP: give that of gRPC, which the ready line of `ringpull serve` has as grpc="
    if "Tls handshake failed" in details:
        return "TLS could not be agreed on: look at tls_ca, tls_cert and tls_key"
    if not any(each in details for each in CLOSED):
        return ""
    if not credentials.tls:
        return "it hung up at once: perhaps it speaks TLS, and needs tls_ca (--tls-ca, RINGPULL_TLS_CA)"
    if not credentials.cert:
        return "it hung up: perhaps it demands a certificate, which tls_cert and tls_key give (--tls-cert, --tls-key)"
    return f"it hung up: perhaps it does not take the certificate {credentials.cert_file}, which has to be of its CA"
