"""A port of a gRPC server, with TLS or without. gRPC asks for the files in use at each new connection."""

from __future__ import annotations

import grpc

from ringpull.ps.tls import LiveTls
from ringpull.ps.tls_contexts import TlsText, anchors_of


def add_port(server: grpc.aio.Server, address: str, tls: LiveTls | None) -> int:
    """Have a server listen on an address; return the port.

    Args:
        tls: What it shows, and whether clients have to show a certificate; None: plain text.

    Raises:
        RuntimeError: The address cannot be used; gRPC does not say why.
    """
    if tls is None:
        return int(server.add_insecure_port(address))
    return int(server.add_secure_port(address, _credentials(tls)))


def _credentials(tls: LiveTls) -> grpc.ServerCredentials:
    given = tls.text

    def newer() -> grpc.ServerCertificateConfiguration | None:
        """Return the files if they are others than before; called in threads of gRPC, one at a time."""
        nonlocal given
        text = tls.text
        if text is given:
            return None
        given = text
        return _configuration(text)

    return grpc.dynamic_ssl_server_credentials(_configuration(given), newer, require_client_authentication=tls.mutual)


def _configuration(text: TlsText) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(text.key, text.cert)], b"\n".join(anchors_of(text)) if text.ca else None
    )
