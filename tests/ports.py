"""Ports of loopback for what a test lets listen later, or has nobody listen on."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

FIRST: Final = 20_000


def free_port() -> int:
    """Return a port that nobody has, and that the kernel deals to nobody who asks for any.

    One of those that it deals, let go of, may be another test's a moment later: there are hundreds of servers and
    connections a minute.
    """
    first_dealt = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    ports = range(FIRST, first_dealt) if first_dealt > FIRST else range(1 << 14, 1 << 16)
    while True:
        port = random.SystemRandom().choice(ports)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:  # somebody has it
            continue
        return port
