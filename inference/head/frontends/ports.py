"""Claiming a TCP port before anything is built on it, so that a port in use is one clear error.

A stranger's listener must be an error even where it and we would set SO_REUSEPORT: the kernel would split the
connections between both silently. So a port is claimed without that option.
"""

from __future__ import annotations

import socket

from ringpull.ps.errors import StartupError


def claim(what: str, host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a listening socket on `host:port`; port 0 takes a free one. The caller owns and closes it.

    Args:
        shared: Beside our own heads, which share it too. Whoever starts them has claimed the port unshared before.

    Raises:
        StartupError: The port is in use, not permitted, or the host is not an address of this machine; `what` ("grpc",
            "http") says in the message whose port it is.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise StartupError(f"{what} address {host}:{port} cannot be used: {exc.strerror or exc}") from exc
    try:
        # Only takes over the closing connections of a predecessor; a live listener still refuses (socket(7)).
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
        # Two sockets with SO_REUSEADDR may both be bound while neither listens: listening is the claim.
        bound.listen(128)
    except OSError as exc:
        bound.close()
        raise StartupError(f"{what} port {port} on {host} cannot be used: {exc.strerror or exc}") from exc
    return bound
