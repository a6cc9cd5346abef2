"""The channels of a client: where they go, and what gRPC is told so that each is a connection of its own.

Several heads may stand behind one HOST:PORT, which they share (SO_REUSEPORT): the kernel hands every new connection to
one of them. So another channel is another connection, and perhaps another head; gRPC itself would let channels of equal
address and options share one connection, and never leaves it for another while it lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

import grpc

from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.numbers import whole
from ringpull.inference.client.stubs import CHANNEL_OPTIONS
from ringpull.inference.client.targets import stays_here

DEFAULT_CHANNELS: Final = 2
"""Connections to each target, so that there is always another one."""

MAX_CHANNELS: Final = 1_000

OWN_CONNECTION: Final[tuple[tuple[str, int], ...]] = (
    *CHANNEL_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    # A head that Ray restarts, or the next one behind the port, is there within seconds; gRPC would wait 1 s to 2 min.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 3000),
)
"""Options of a client's channel."""

NO_PROXY: Final = ("grpc.enable_http_proxy", 0)
"""Option of a channel to this machine: gRPC would ask the proxy of `http_proxy` even for that."""


def channel_targets(targets: Sequence[str], channels: int) -> list[str]:
    """Return the target of each channel, `channels` for every target, by turns: neighbours differ where they can.

    Raises:
        InvalidInput: `channels` is no positive number, or a huge one.
    """
    return list(targets) * whole("channels", channels, 1, MAX_CHANNELS)


def open_channel(
    kind: ModuleType,
    target: str,
    credentials: Credentials,
    options: Sequence[tuple[str, int]] = CHANNEL_OPTIONS,
) -> Any:
    """Return a channel to a target, TLS or plain text as the credentials have it.

    A Unix socket is plain text always: its file's mode says who is let in.

    Args:
        kind: `grpc`, or `grpc.aio`.
        target: Address as `parse_target` gives it.
    """
    if stays_here(target):
        options = (*options, NO_PROXY)
    credentials.warn_of_plain_text(target)
    if not credentials.tls or target.startswith(("unix:", "unix-abstract:")):
        return kind.insecure_channel(target, options)
    return kind.secure_channel(target, grpc_credentials(credentials), options)


def grpc_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    """Return credentials of TLS as gRPC takes them."""
    if credentials.channel is not None:
        return credentials.channel
    return grpc.ssl_channel_credentials(credentials.ca or None, credentials.key or None, credentials.cert or None)
