"""Ports of loopback for what a test lets listen later, or has nobody listen on."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

FIRST: Final = 20_000
LAST: Final = 29_999
TRIES: Final = 1000


def free_port() -> int:
    """Return a port that nobody has, that the kernel deals to nobody who asks for any, and no test to another.

    One of those that it deals, let go of, may be another test's a moment later: there are hundreds of servers and
    connections a minute.
    """
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    ports = undealt(int(low), int(high))
    for port in random.SystemRandom().sample(ports, min(TRIES, len(ports))):
        with suppress(OSError):  # somebody has it
            socket.create_server(("127.0.0.1", port)).close()
            _hold(port)
            return port
    raise RuntimeError(f"no port is free of {len(ports)} that the kernel does not deal ({low} to {high})")


def undealt(low: int, high: int) -> Sequence[int]:
    """Return the ports of ours that the kernel does not deal, which deals those from `low` to `high`."""
    below, above = range(FIRST, min(low, LAST + 1)), range(max(high + 1, FIRST), 1 << 16)
    return below or above


def _hold(port: int) -> None:
    """Keep other processes from being dealt this port while this one lives; raise OSError where one has been.

    By a name that is in no folder, and that the kernel forgets with the process.
    """
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0ringpull-port-{port}")
    except OSError:
        name.close()
        raise
    name.detach()  # as long as the process lives
