"""Ray's control store (GCS): the one process per cluster that knows its actors, and how long Ray lives on without it.

Predictions need it for nothing. Without it no process comes back and no actor is found by name; whoever asks Ray for
that waits in silence, so what needs it looks first.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from ringpull.ps.errors import Unavailable

AWAY: Final = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's name of the setting; read from the environment by each of its processes."""

AWAY_S: Final = 600
"""How long the processes of a private Ray, and with them ours, live on without it; Ray's own default is 60."""

TIMEOUT_S: Final = 1.0


def away_text() -> str:
    """Return how many seconds a private Ray lives on: as the environment says, or `AWAY_S`."""
    return os.environ.get(AWAY, str(AWAY_S))


def address() -> str:
    """Return HOST:PORT of the control store of the Ray that this process is connected to, however Ray was told it.

    HOST is an IP address, so that one cluster has one address.
    """
    host, port = _host_and_port()
    try:
        return f"{socket.gethostbyname(host)}:{port}"
    except OSError:
        return f"{host}:{port}"


def is_there() -> bool:
    """Return whether the control store of the Ray that this process is connected to takes connections."""
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
    """Check that it is there.

    Raises:
        Unavailable: It is not; says what that means.
    """
    if not is_there():
        raise Unavailable(
            "Ray's control store (GCS) is gone: predictions go on, but nothing can be changed or restarted"
        )
