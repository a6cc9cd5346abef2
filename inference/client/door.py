"""The operators' door as a client finds it: where it may be reached from here, and why it cannot."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Final

from ringpull.inference.client.targets import proxy_of

UNIX: Final = "unix:"

CONNECT_TIMEOUT_S: Final = 5.0
"""Longest wait for a connection to the door, before another way is tried."""


def why_unreachable(address: str, timeout_s: float) -> str:
    """Return why nobody can be reached at `unix:/PATH` or HOST:PORT from here; empty: somebody listens there."""
    try:
        if address.startswith(UNIX):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(timeout_s)
                probe.connect(address.removeprefix(UNIX))
        elif not proxy_of(address, os.environ):  # else the proxy would be tried, and gRPC says what it says
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except FileNotFoundError:
        return "it is not on this machine"
    except PermissionError:
        return "it is another user's"
    except ConnectionRefusedError:
        return "nobody listens there, as seen from here"
    except TimeoutError:
        return f"nobody answers there within {timeout_s:g} s"
    except (OSError, ValueError, OverflowError) as exc:
        return str(exc)
    return ""


def how_to_open(head: str) -> str:
    """Return what an operator can do who does not get in.

    Args:
        head: Address of the head; empty: not known.
    """
    where = f"the machine of {head}" if head else "its machine"
    return (
        f"run this on {where} as the user that serves; or have `ringpull serve` open it to other machines, with"
        " --admin-host and --admin-port; or show a token of role operate, with --token or RINGPULL_TOKEN"
    )


def ways(told: str, target: str) -> Iterator[str]:
    """Yield the addresses at which a door may be reached from here.

    Args:
        told: Address of the door, as the head tells it.
        target: Address at which the head told it: its host is known to lead there.
    """
    yield told
    host, _, _ = target.rpartition(":")
    if not told.startswith(UNIX) and not target.startswith(UNIX) and host != told.rpartition(":")[0]:
        yield f"{host}:{told.rpartition(':')[2]}"
