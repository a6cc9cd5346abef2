"""Straight pushes: rows go from a client to the shards that own them, and pass through no head.

The rows are checked and encoded here as a head does it, by the same code, and sent over the wire between heads and
shards, each part once; shards refuse them where their lineage is not live. No compiler is needed: what is compiled in
a head is plain numpy here.
"""

from __future__ import annotations

import asyncio
import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.client.straight_hosts import StraightConnections, StraightHosts
from ringpull.inference.push_answer import PushAnswer, PushStamp
from ringpull.inference.push_request import PushRequest, named_writer, nameless_writer, rows_to_push
from ringpull.inference.push_route import PushRoute
from ringpull.inference.wire.push_codec import SinglePush
from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import RingpullError, Unavailable
from ringpull.ps.hashing import positions_without_compiler
from ringpull.ps.spec import KeyType
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import Hello
from ringpull.router.backoff import Backoff
from ringpull.router.in_flight import InFlightByEpoch
from ringpull.router.pushed_rows import PushedRows
from ringpull.router.pushing import Pushing
from ringpull.router.routes import Routes
from ringpull.router.shard_map import ShardAddress

CONNECT_S: Final = 1.0
"""Time for a connection to a shard: where there is a way at all, it is there in milliseconds."""
BACKOFF_S: Final = (0.1, 1.0)
"""First and longest pause before an address is tried again; the way itself rests for longer."""
COPIES: Final = 1
"""Copies of a row that has been acknowledged: tables of several take no pushes."""

Failed = Callable[[RingpullError, bool], None]
"""Function that is told why a push failed, and whether all shards could be reached then."""


class StraightPushes:
    """Pushes of one client to the shards of a deployment. Belongs to one event loop."""

    def __init__(self) -> None:
        self._hosts = StraightHosts()
        self._connections = StraightConnections(self._connect, Backoff(*BACKOFF_S, random.Random()), self._hosts)
        self._routes = self._new_routes("")
        self._pushing = self._new_pushing()
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop that it belongs to: that of its first push."""
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<StraightPushes {self._connections!r}>"

    @property
    def reached(self) -> bool:
        """Whether no host of a shard is known as one that cannot be reached, or says nothing."""
        return self._hosts.all_reached

    async def push(
        self, route: PushRoute, push: SinglePush, deadline_s: float, failed: Failed = lambda error, reached: None
    ) -> PushAnswer:
        """Push rows to the shards of a route, once; see `Router.push` for what may come of it.

        Args:
            deadline_s: Absolute, `time.monotonic()` seconds.
            failed: Told of the error, and of `reached` as it is then: others may connect before whoever pushes looks.

        Raises:
            RingpullError: Not every shard has acknowledged its part; each of them may have applied it.
            RuntimeError: It belongs to another event loop, as the client does.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            # Sockets belong to the loop, which would keep those of a client that nobody closes.
            weakref.finalize(self, _hang_up, loop, self._open).atexit = False
        if self._loop is not loop:  # whose connections answer nobody here
            raise RuntimeError("this client belongs to another event loop; make one inside the loop that will use it")
        shard_map = route.shard_map
        if shard_map.deployment != self._routes.deployment:  # another one serves there by now
            self._routes = self._new_routes(shard_map.deployment)
            self._pushing = self._new_pushing()
        self._routes.update(shard_map)
        try:
            result = await self._pushing.push(pushed_rows(push, route), deadline_s=deadline_s)
        except RingpullError as exc:
            failed(exc, self.reached)
            raise
        return PushAnswer(
            stamp=PushStamp(result.stamp),
            rows=result.rows,
            new_keys=result.new_keys,
            repeated=result.repeated,
            copies=COPIES,
            model=route.model,
            version=route.version,
            lineage=route.lineage,
        )

    async def close(self) -> None:
        """Close the connections. Pushes in flight fail."""
        self._routes.close()
        await self._connections.close()

    def _new_routes(self, deployment: str) -> Routes:
        return Routes(None, self._connections.want, deployment=deployment)

    def _new_pushing(self) -> Pushing:
        return Pushing(
            self._routes,
            self._connections,
            InFlightByEpoch(),
            once=True,
            only_live=True,
            positions=positions_without_compiler,
            gather=_gathered,
        )

    async def _connect(self, address: ShardAddress) -> Connection:
        hello = Hello(self._routes.deployment, address.shard, address.incarnation)
        try:
            connection = await Connection.connect(address.host, address.port, hello=hello, timeout_s=CONNECT_S)
        except RingpullError:
            self._hosts.failed(address.host)
            raise
        self._hosts.reached(address.host)
        self._open.add(connection)
        return connection


def _hang_up(loop: asyncio.AbstractEventLoop, connections: weakref.WeakSet[Connection]) -> None:
    """Close connections whose owner is gone; in whichever thread that was found."""
    if loop.is_closed():
        return
    for connection in list(connections):
        asyncio.run_coroutine_threadsafe(connection.close(), loop)


def pushed_rows(push: SinglePush, route: PushRoute) -> PushedRows:
    """Return a push as it is sent to shards, checked as a head checks it.

    Raises:
        InvalidInput: Keys and rows do not fit the table; the message names which.
    """
    keyed, spec = push.keyed, route.specs[push.target.table]
    strings = keyed.keys.dtype.kind not in "iu"
    request = PushRequest(
        model=route.model,
        table=spec.name,
        keys=keyed.hashed(),
        key_type=(KeyType.STRING if strings else KeyType.INT64) if len(keyed) else None,
        rows=keyed.rows,
        writer=named_writer(push.writer) if isinstance(push.writer, str) else nameless_writer(push.writer),
        number=push.number,
    )
    return rows_to_push(request, spec, route.lineage)


def _gathered(rows: BytesRows, which: NDArray[np.intp]) -> BytesRows:
    return rows.at(which)


class StraightThread:
    """`StraightPushes` for a client without an event loop: in a thread of its own. Thread-safe."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pushes = StraightPushes()
        self._thread = threading.Thread(
            target=_run, args=(self._loop, self._pushes), name="straight pushes", daemon=True
        )
        self._thread.start()
        self._closed = False
        self._lock = threading.Lock()
        """Held while a push is handed to the loop, and while that is told to stop: behind that nobody looks at it."""
        # A client that nobody closes leaves no thread behind.
        self._end = weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
        self._end.atexit = False

    def __repr__(self) -> str:
        return f"<StraightThread {self._pushes!r}>"

    def push(
        self, route: PushRoute, push: SinglePush, deadline_s: float, failed: Failed = lambda error, reached: None
    ) -> PushAnswer:
        """See `StraightPushes.push`; `failed` is told in another thread."""
        with self._lock:
            if self._closed:
                raise Unavailable("the client was closed")
            pushed = asyncio.run_coroutine_threadsafe(self._pushes.push(route, push, deadline_s, failed), self._loop)
        try:
            return pushed.result()
        except CancelledError as exc:
            raise Unavailable("the client was closed") from exc
        except BaseException:  # Whoever waits is interrupted: it does not want it any more.
            pushed.cancel()
            raise

    def close(self) -> None:
        """Close the connections, and end the thread. Pushes in flight fail."""
        with self._lock:
            self._closed = True
            if self._end.detach() is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _run(loop: asyncio.AbstractEventLoop, pushes: StraightPushes) -> None:
    loop.run_forever()
    loop.run_until_complete(_ended(pushes))
    loop.close()


async def _ended(pushes: StraightPushes) -> None:
    await pushes.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
