"""The channels of a client: where they go, and what gRPC is told so that each is a connection of its own.

Several heads may stand behind one HOST:PORT, which they share (SO_REUSEPORT): the kernel hands every new connection to
one of them. So another channel is another connection, and perhaps another head; gRPC itself would let channels of equal
address and options share one connection, and never leaves it for another while it lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ringpull.inference.client.stubs import CHANNEL_OPTIONS
from ringpull.ps.errors import InvalidInput

DEFAULT_CHANNELS: Final = 2
"""Connections to each target, so that there is always another one."""

OWN_CONNECTION: Final[tuple[tuple[str, int], ...]] = (
    *CHANNEL_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    # A head that Ray restarts, or the next one behind the port, is there within seconds; gRPC would wait 1 s to 2 min.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 3000),
)
"""Options of a client's channel."""


def parse_targets(target: str | Sequence[str]) -> tuple[str, ...]:
    """Return the addresses in `"a:1,b:2"` or `["a:1", "b:2"]`, each once, in their order.

    Raises:
        InvalidInput: There is none, or an empty one.
    """
    addresses = target.split(",") if isinstance(target, str) else list(target)
    stripped = [address.strip() for address in addresses]
    if not stripped or not all(stripped):
        raise InvalidInput(f"target is {target!r}; it must be HOST:PORT, or several of them")
    return tuple(dict.fromkeys(stripped))


def channel_targets(targets: Sequence[str], channels: int) -> list[str]:
    """Return the target of each channel, `channels` for every target, by turns: neighbours differ where they can.

    Raises:
        InvalidInput: `channels` is not positive.
    """
    if channels < 1:
        raise InvalidInput(f"channels is {channels}; it must be 1 or more")
    return list(targets) * channels
