"""Actors of a deployment on any Ray cluster, also from a process that is connected to another one, or to none.

A process can be connected to one Ray only, so another process looks:

    python -m ringpull.deploy.cluster.ray_actors HOST:PORT NAME     prints how many actors there are
"""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Final

LOOK_S: Final = 30.0
"""Longest wait for the process that looks."""

CONNECT_S: Final = 5.0


def count_actors(address: str, name: str) -> int | None:
    """Return how many actors of deployment `name` are on the Ray whose control store is at HOST:PORT.

    None: it cannot be told from here.

    Raises:
        ConnectionRefusedError: That host says that nothing listens there.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except ConnectionRefusedError:
        raise
    except (OSError, ValueError):
        return None
    command = [sys.executable, "-m", __name__, address, name]
    try:
        ran = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=LOOK_S, check=True
        )
        return int(ran.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def main(address: str, name: str) -> None:
    """Print how many actors of a deployment there are."""
    from ringpull.deploy.cluster.ray_session import RaySession

    with RaySession(address):
        from ringpull.deploy.cluster.members import actors_of

        print(len(actors_of(name)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
