"""Peers: other shards as sources of rows, by range_pull over their data planes. A stranger at one's port is no source.

The sockets belong to the shard's event loop; the copying thread waits for it. A source that does not answer within
`ANSWER_S` counts as gone, so that a stopped process does not hold up a move.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final, TypeVar, cast

import msgpack

from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.placement import RangeSource
from ringpull.ps.ring import SlotRange
from ringpull.ps.spec import TableSpec
from ringpull.ps.tls import LiveTls
from ringpull.ps.transfer.job import Cancelled
from ringpull.ps.transfer.source import Block, TableContent
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import DescribeReply, DescribeRequest, Hello, RangePullRequest, Reply, Request

ANSWER_S: Final = 10.0
"""Timeout of one request. A block is a MB or two, which takes seconds even from a slow disk."""

Result = TypeVar("Result")


class Peers:
    """Connections to other shards for the length of one job; `close` when it ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deployment: str = "", tls: LiveTls | None = None) -> None:
        """Use a loop that runs in another thread.

        Args:
            deployment: Id of the deployment that all of them are of.
            tls: What its shards show each other; None: nothing, in plain text.
        """
        self._loop = loop
        self._deployment = deployment
        self._tls = tls
        self._connections: dict[tuple[str, int, Hello], Connection] = {}
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()

    def request(self, source: RangeSource, message: Request) -> Reply:
        """Send one request to the shard of a source and wait for its reply.

        Raises:
            Stranger: Another process listens there.
            Cancelled: `interrupt` was called meanwhile.
            RingpullError: As `Connection.connect` and `Connection.request`.
        """
        hello = Hello(self._deployment, source.shard, source.incarnation)
        return self._wait(self._request((source.host, source.port, hello), message))

    def interrupt(self) -> None:
        """Have every request under way raise `Cancelled`; from any thread."""
        with self._lock:
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()

    def close(self) -> None:
        """Close the connections."""
        self._wait(self._close())

    async def _request(self, address: tuple[str, int, Hello], message: Request) -> Reply:
        connection = self._connections.get(address)
        if connection is None or connection.closed:
            host, port, hello = address
            connection = self._connections[address] = await Connection.connect(host, port, hello=hello, tls=self._tls)
        return await connection.request(message, deadline_s=time.monotonic() + ANSWER_S)

    async def _close(self) -> None:
        for connection in self._connections.values():
            await connection.close()

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        with self._lock:
            self._waiting.add(future)
        try:
            return future.result()
        except CancelledError as exc:
            raise Cancelled("a request to another shard was given up") from exc
        finally:
            with self._lock:
                self._waiting.discard(future)


class PeerSource:
    """Source for one table of one version: another shard."""

    def __init__(
        self, peers: Peers, source: RangeSource, model: str, version: int, table: str, *, identity: int = 0
    ) -> None:
        """Refer to a shard.

        Args:
            identity: Identity that the table must have there; 0: any.
        """
        self._peers = peers
        self._source = source
        self._table = model, version, table
        self._identity = identity
        self._described: dict[SlotRange, TableContent] = {}

    def __repr__(self) -> str:
        return f"shard at {self._source.host}:{self._source.port}"

    def describe(self, slots: SlotRange) -> TableContent:
        # Plan and fetch ask alike, and a move has hundreds of ranges: that is a third of its messages. Where the
        # identity is known every answer is of that content, whatever the shard holds by then.
        if slots not in self._described or not self._identity:
            self._described[slots] = self._ask(slots)
        return self._described[slots]

    def _ask(self, slots: SlotRange) -> TableContent:
        request = DescribeRequest(*self._table, slots.begin, slots.end, self._identity)
        reply = cast(DescribeReply, self._peers.request(self._source, request))
        try:
            spec = TableSpec.from_dict(msgpack.unpackb(reply.spec.tobytes()))
        except (InvalidInput, ValueError, TypeError, AttributeError) as exc:
            raise CorruptData(f"{self!r} describes table {self._table[2]} in a way that cannot be read: {exc}") from exc
        return TableContent(spec, reply.identity, reply.rows, reply.rows_bytes)

    def read(self, slots: SlotRange, cursor: int, max_bytes: int) -> Block:
        request = RangePullRequest(*self._table, slots.begin, slots.end, cursor, max_bytes, self._identity)
        return cast(Block, self._peers.request(self._source, request))
