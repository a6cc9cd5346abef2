"""Claiming a TCP port before anything is built on it, so that a port in use is one clear error.

A stranger's listener must be an error even where it and we would set SO_REUSEPORT: the kernel would split the
connections between both silently. So a port is claimed without that option.
"""

from __future__ import annotations

import socket
from typing import Final

from ringpull.inference.loopback import is_loopback
from ringpull.ps.errors import StartupError

EVERY_INTERFACE: Final = ("0.0.0.0", "::")
"""Addresses that can be listened on, but not connected to."""

_SOMEWHERE_ELSE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses that are nobody's (RFC 5737, RFC 3849); nothing is sent there."""


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


def joined(host: str, port: int) -> str:
    """Return HOST:PORT, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def told(host: str, own: str = "") -> str:
    """Return a host to connect to for one that is listened on: for every interface, that which leads elsewhere.

    Args:
        own: Another host that this process listens on: that will do if other machines reach it.
    """
    if host not in EVERY_INTERFACE:
        return host
    if own and own not in EVERY_INTERFACE and not is_loopback(own):
        return own
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_SOMEWHERE_ELSE[family], 9))  # of UDP: the kernel looks where it would go, and waits
            return str(probe.getsockname()[0])
    except OSError:  # There is no way out of this machine.
        return "::1" if family is socket.AF_INET6 else "127.0.0.1"
