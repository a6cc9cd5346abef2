"""Ray's control store (GCS): the one process per cluster that knows its actors, and how long Ray survives without it.

Predictions do not need it. Without it no process is restarted and no actor is found by name. Ray's own calls then block
without an error, so code that needs the control store checks for it first.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from ringpull.ps.errors import InvalidInput, Unavailable

RECONNECT_VARIABLE: Final = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Environment variable of Ray's setting, read by each of its processes."""

RECONNECT_S: Final = 600
"""Time that the processes of a private Ray, and ours with them, survive without it; Ray's own default is 60."""

MAX_RECONNECT_S: Final = 1_000_000

TIMEOUT_S: Final = 1.0


def reconnect_text() -> str:
    """Return the seconds that a private Ray survives without it: from the environment, or `RECONNECT_S`.

    Raises:
        InvalidInput: The environment has no such number.
    """
    text = os.environ.get(RECONNECT_VARIABLE) or str(RECONNECT_S)
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:10]) <= MAX_RECONNECT_S):
        raise InvalidInput(
            f"{RECONNECT_VARIABLE} is {text!r}; it must be a number of seconds from 1 to {MAX_RECONNECT_S}"
        )
    return text


def address() -> str:
    """Return HOST:PORT of the control store of the Ray that this process is connected to.

    HOST is an IP address, so that a cluster always has the same address, however it was given.
    """
    host, port = _host_and_port()
    try:
        return f"{socket.gethostbyname(host)}:{port}"
    except OSError:
        return f"{host}:{port}"


def is_there() -> bool:
    """Return whether the control store of the Ray that this process is connected to accepts connections."""
    try:
        socket.create_connection(_host_and_port(), TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _host_and_port() -> tuple[str, int]:
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host, int(port)


def check() -> None:
    """Check that the control store is there.

    Raises:
        Unavailable: It is gone; the message says what that means.
    """
    if not is_there():
        raise Unavailable(
            "Ray's control store (GCS) is gone: predictions go on, but nothing can be changed or restarted"
        )
