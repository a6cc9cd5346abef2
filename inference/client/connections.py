"""Channels of a client, sync or asyncio, and the attempts of its calls on them: the part that both clients share."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

import grpc

from ringpull.inference.client import stubs
from ringpull.inference.client.channels import OWN_CONNECTION, channel_targets, open_channel
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.numbers import timeout, whole
from ringpull.inference.client.push_progress import NamelessWriters
from ringpull.inference.client.retry import Attempts, Failure, Retrying, retrying_pushes
from ringpull.inference.client.rotation import Rotation
from ringpull.inference.client.straight_ways import StraightWays
from ringpull.inference.client.targets import parse_targets
from ringpull.ps.errors import RingpullError

DEFAULT_TIMEOUT_S: Final = 10.0

IN_FLIGHT: Final = 100
"""Calls of one channel that are out at once. A head lets 200 wait within gRPC (`--max-pending`), and cancels more."""
MAX_IN_FLIGHT: Final = 1_000_000


class Connections:
    """Channels of either kind, and the attempts of calls on them."""

    def __init__(
        self,
        kind: ModuleType,
        target: str | Sequence[str],
        timeout_s: float,
        retries: int,
        channels: int,
        credentials: Credentials,
        in_flight: int,
        straight_pushes: bool = True,
    ) -> None:
        targets = parse_targets(target)
        timeout("timeout_s", timeout_s)
        self.target = ",".join(targets)
        self.timeout_s = timeout_s
        self.in_flight = whole("in_flight", in_flight, 1, MAX_IN_FLIGHT)
        self.credentials = credentials
        self._metadata = credentials.metadata
        self._rotation = Rotation(channel_targets(targets, channels))
        self._retrying = Retrying(self._rotation, retries)
        self._channels = [open_channel(kind, each, credentials, OWN_CONNECTION) for each in self._rotation.targets]
        self._predict = self._method(stubs.PREDICT)
        self._lookup = self._method(stubs.LOOKUP)
        self._top_k = self._method(stubs.TOP_K)
        self._get_model = self._method(stubs.GET_MODEL)
        self._list_models = self._method(stubs.LIST_MODELS)
        self._get_status = self._method(stubs.GET_STATUS)
        self._push = self._method(stubs.PUSH)
        self._push_route = self._method(stubs.ROUTE)
        self._pushing = retrying_pushes(self._rotation, retries)
        self._asking = Retrying(self._rotation, 0)
        self._nameless = NamelessWriters()
        # Whoever shows something of itself, or encrypts, means a head: shards are shown nothing, in plain text.
        bare = not credentials.tls and not credentials.token
        self._ways = StraightWays() if straight_pushes and bare else None
        self._straight: dict[int, Any] = {}
        """What carries pushes to shards, by the process that made it."""

    def _method(self, rpc: stubs.Rpc) -> list[Any]:
        """Return a method's callables, one per channel."""
        return [rpc.on(channel) for channel in self._channels]

    def _begin(self, timeout_s: float | None, retrying: Retrying | None = None) -> Attempts:
        return (retrying or self._retrying).begin(self.timeout_s if timeout_s is None else timeout_s)

    def _failure(self, attempts: Attempts, error: grpc.RpcError) -> Failure:
        return stubs.failure_of(self._rotation.targets[attempts.channel], error, self.credentials)

    def _closed(self, why: Exception | str) -> RingpullError:
        """Return the error of a call on a closed channel; `why` is grpc's own error, or what it means."""
        return RingpullError(f"{self.target}: {why}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.target}>"
