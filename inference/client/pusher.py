"""Pushers: rows go out while the next ones are made, in order for each key, each applied once.

    with client.pusher("ranker", writer="trainer-3") as pusher:
        pusher.push("user", keys, rows)          # handed on; waits where too much is on its way
        done = pusher.flush()                    # acknowledged, all of it: done.stamp, done.rows

After a push has failed for good nothing else goes out, and `push` and `flush` raise its error; `acknowledged` says how
far all is well, and another pusher that is given this number goes on from there.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from ringpull.inference.client.lanes import LANES, Outgoing
from ringpull.inference.client.push_progress import MAX_HELD_BYTES, PushProgress
from ringpull.inference.push_answer import PushAnswer
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.inference.wire.push_codec import SinglePush
from ringpull.ps.errors import RingpullError


class Pusher:
    """Pusher of `Client.pusher`. Thread-safe."""

    def __init__(
        self,
        send: Callable[[SinglePush, float | None], PushAnswer],
        progress: PushProgress,
        timeout_s: float | None,
        *,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        """Begin with nothing pushed; made by `Client.pusher`.

        Args:
            send: Function that sends a message, and returns when it is acknowledged.
            timeout_s: Time for each message; None: the client's.
            max_held_bytes: Bytes on their way from which on `push` waits.
        """
        self._send = send
        self._progress = progress
        self._timeout_s = timeout_s
        self._max_held_bytes = max_held_bytes
        self._changed = threading.Condition()
        self._out = 0
        self._closed = False
        self._process = os.getpid()
        self._senders = ThreadPoolExecutor(LANES, "push")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._progress.lanes!r}>"

    @property
    def number(self) -> int:
        """Number of the last push that was handed on."""
        with self._changed:
            return self._progress.lanes.number

    @property
    def acknowledged(self) -> int:
        """Number up to which every push is acknowledged: to go on from, in another process, too."""
        with self._changed:
            return self._progress.lanes.acknowledged

    def push(self, table: str, keys: Any, rows: Any = None, *, remove: bool = False, number: int | None = None) -> int:
        """Hand on rows of a table, or keys to take out, and return the number of this push.

        Args:
            number: Its number; None: one more than the last one's. Larger than that.

        Raises:
            InvalidInput: Keys, rows or number cannot be sent; nothing is handed on.
            RingpullError: A push before this one has failed, with what `Client.push` raises.
        """
        return self.hand_on(table, KeyedRows.of(keys, rows, remove=remove).owned(), number)

    def hand_on(self, table: str, keyed: KeyedRows, number: int | None = None) -> int:
        """Do what `push` does with keys and rows that were read already."""
        self._check_process()
        with self._changed:
            self._progress.check()
            self._changed.wait_for(lambda: self._has_room() or self._progress.error is not None)
            chosen = self._progress.add(table, keyed, number)
            self._pump()
            return chosen

    def flush(self) -> PushAnswer:
        """Wait until all is acknowledged that was handed on; return the acknowledgement of all since the last flush.

        Raises:
            RingpullError: A push has failed, with what `Client.push` raises.
        """
        self._check_process()
        with self._changed:
            self._changed.wait_for(lambda: self._progress.lanes.idle or self._has_failed())
            return self._progress.taken()

    def close(self) -> None:
        """Flush, and end. Nothing happens where it was closed before.

        Raises:
            RingpullError: A push has failed.
        """
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            self._end("the pusher is closed")

    def _check_process(self) -> None:
        if os.getpid() != self._process:  # its threads are not there, and its numbers are taken
            raise RingpullError(
                f"this pusher is one of process {self._process}, which was forked; make one of another name in this"
                " process, of a client that was made here"
            )

    def _has_room(self) -> bool:
        return self._progress.lanes.held_bytes < self._max_held_bytes

    def _has_failed(self) -> bool:
        return self._progress.error is not None and not self._out

    def _pump(self) -> None:
        while (found := self._progress.next()) is not None:
            self._out += 1
            self._hand_to_sender([found])

    def _hand_to_sender(self, one: list[tuple[Outgoing, SinglePush]]) -> None:
        """Have a thread carry the one message of a list, which whoever carries it takes out."""
        try:
            self._senders.submit(self._carry, one)
        except RuntimeError:
            # The main thread has ended: executors take nothing more, and others push on. Or there is no thread more, in
            # which case the executor may have the message all the same.
            try:
                threading.Thread(target=self._carry, args=(one,), name="push").start()
            except RuntimeError as exc:  # nor is there one for this, as in Python 3.12 once the main thread has ended
                if (taken := _take(one)) is not None:
                    self._out -= 1
                    self._progress.ended(taken[0], RingpullError(f"no thread could be started to push: {exc}"))
                    self._changed.notify_all()

    def _carry(self, one: list[tuple[Outgoing, SinglePush]]) -> None:
        if (taken := _take(one)) is None:
            return
        outgoing, push = taken
        ended: PushAnswer | RingpullError
        try:
            ended = self._send(push, self._timeout_s)
        except Exception as exc:  # of grpc, or a bug, too: whoever waits must hear of it
            ended = exc if isinstance(exc, RingpullError) else RingpullError(f"{type(exc).__name__}: {exc}")
        with self._changed:
            self._out -= 1
            self._progress.ended(outgoing, ended)
            self._pump()
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        self._end(f"the pusher was left by an error: {error}")

    def _end(self, why: str) -> None:
        if os.getpid() != self._process:
            return
        with self._changed:  # what waits is not sent any more
            self._progress.error = self._progress.error or RingpullError(why)
            self._changed.notify_all()
        self._senders.shutdown()


def _take(one: list[tuple[Outgoing, SinglePush]]) -> tuple[Outgoing, SinglePush] | None:
    """Take the one message out of a list; None: another thread has taken it."""
    try:
        return one.pop()
    except IndexError:
        return None


class AsyncPusher:
    """Pusher of `AsyncClient.pusher`: as `Pusher`, with coroutines."""

    def __init__(
        self,
        send: Callable[[SinglePush, float | None], Awaitable[PushAnswer]],
        progress: PushProgress,
        timeout_s: float | None,
        *,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        """Begin with nothing pushed; made by `AsyncClient.pusher`. Arguments are those of `Pusher`."""
        self._send = send
        self._progress = progress
        self._timeout_s = timeout_s
        self._max_held_bytes = max_held_bytes
        self._changed = asyncio.Condition()
        self._out: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._progress.lanes!r}>"

    @property
    def number(self) -> int:
        """Number of the last push that was handed on."""
        return self._progress.lanes.number

    @property
    def acknowledged(self) -> int:
        """Number up to which every push is acknowledged: to go on from, in another process, too."""
        return self._progress.lanes.acknowledged

    async def push(
        self, table: str, keys: Any, rows: Any = None, *, remove: bool = False, number: int | None = None
    ) -> int:
        """Hand on rows of a table. Arguments, number and errors are those of `Pusher.push`."""
        return await self.hand_on(table, KeyedRows.of(keys, rows, remove=remove).owned(), number)

    async def hand_on(self, table: str, keyed: KeyedRows, number: int | None = None) -> int:
        """Do what `push` does with keys and rows that were read already."""
        async with self._changed:
            self._progress.check()
            await self._changed.wait_for(lambda: self._has_room() or self._progress.error is not None)
            chosen = self._progress.add(table, keyed, number)
            self._pump()
            return chosen

    async def flush(self) -> PushAnswer:
        """Wait until all is acknowledged that was handed on. Answer and errors are those of `Pusher.flush`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._progress.lanes.idle or self._has_failed())
            return self._progress.taken()

    async def close(self) -> None:
        """Flush, and end. Nothing happens where it was closed before.

        Raises:
            RingpullError: A push has failed.
        """
        if self._closed:
            return
        try:
            await self.flush()
        finally:
            self._closed = True
            await self._end("the pusher is closed")

    def _has_room(self) -> bool:
        return self._progress.lanes.held_bytes < self._max_held_bytes

    def _has_failed(self) -> bool:
        return self._progress.error is not None and len(self._out) == 0

    def _pump(self) -> None:
        while (found := self._progress.next()) is not None:
            task = asyncio.create_task(self._carry(*found))
            self._out.add(task)

    async def _carry(self, outgoing: Outgoing, push: SinglePush) -> None:
        ended: PushAnswer | RingpullError
        try:
            ended = await self._send(push, self._timeout_s)
        except Exception as exc:  # of grpc, or a bug, too: whoever waits must hear of it
            ended = exc if isinstance(exc, RingpullError) else RingpullError(f"{type(exc).__name__}: {exc}")
        async with self._changed:
            task = asyncio.current_task()
            assert task is not None
            self._out.discard(task)
            self._progress.ended(outgoing, ended)
            self._pump()
            self._changed.notify_all()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
            return
        await self._end(f"the pusher was left by an error: {error}")

    async def _end(self, why: str) -> None:
        self._progress.error = self._progress.error or RingpullError(why)
        out, self._out = self._out, set()  # Whoever waits, now or later, waits for none of them any more.
        for task in out:
            task.cancel()
        async with self._changed:  # First: waiting for the tasks may be cancelled, too.
            self._changed.notify_all()
        await asyncio.gather(*out, return_exceptions=True)
