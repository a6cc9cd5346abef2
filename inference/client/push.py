"""Calls that write rows, of either client."""

from __future__ import annotations

import asyncio
import os
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from ringpull.inference.client.connections import Connections
from ringpull.inference.client.lanes import PIECE_BYTES
from ringpull.inference.client.push_progress import PushProgress, single_push
from ringpull.inference.client.pusher import AsyncPusher, Pusher
from ringpull.inference.client.retry import Retrying
from ringpull.inference.client.straight_ways import (
    StraightWays,
    ask_s,
    left_of,
    pause_after,
    pause_before_head_s,
    route_request,
    straight_until_s,
    tell,
)
from ringpull.inference.push_answer import PushAnswer
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.inference.wire.push_codec import PushTarget, SinglePush, decode_pushed
from ringpull.ps.errors import RingpullError

if TYPE_CHECKING:
    from ringpull.inference.client.straight import StraightPushes, StraightThread


class PushCalls(Connections, ABC):
    """The part of `Client` that writes."""

    @abstractmethod
    def _call(self, method: list[Any], request: Any, timeout_s: float | None, retrying: Retrying | None = None) -> Any:
        """Return the reply to a request, tried until there is one."""

    def push(
        self,
        model: str,
        table: str,
        keys: Any,
        rows: Any = None,
        *,
        remove: bool = False,
        version: int | None = None,
        label: str | None = None,
        lineage: str | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> PushAnswer:
        """Write rows by their keys: `client.push("ranker", "user", [7, 9], rows).stamp`.

        When it returns, the rows are as durable as the deployment promises, and every prediction that begins from then
        on sees them. However many rows there are: they are cut into messages, and all are acknowledged. A message that
        is sent again, as its answer was lost, is applied once.

        Args:
            keys: (N,): integers, or strings where the table is keyed by strings. Of one that is there twice the last
                row counts.
            rows: float32 (N, dim), or N `bytes` for a table of bytes.
            remove: Take the keys out, in place of rows: they have the table's default vector, or no bytes, then.
            version: Version whose lineage is meant; None: the live one.
            label: Label of that version.
            lineage: Lineage that is meant, as `client.model(name).lineage`, in place of a version.
            timeout_s: Time for each message; what cannot be answered is tried again until then. It begins when the push
                does: at a time 32 of one client push, others wait for their turn.
            request_id: For the server's logs.

        Raises:
            InvalidInput: Keys and rows do not fit each other or the table. Nothing was written.
            UnmetCondition: The table takes no pushes, or the lineage is not open (`StaleLineage`).
            NotFound: No such model, version or table is served there.
            Forbidden: The token has not the role `write`.
            LimitExceeded: Memory, log or disk run short there, or the request is over a limit.
            DeadlineExceeded, Unavailable: It may have been applied. Safe to repeat.
        """
        target = PushTarget(model=model, table=table, version=version, label=label, lineage=lineage)
        keyed = KeyedRows.of(keys, rows, remove=remove)
        with self._nameless.one() as writer:
            if keyed.nbytes <= PIECE_BYTES:
                # What a shard was slow to take goes out behind the deadline, when the caller may write to its arrays.
                return self._send_push(single_push(target, keyed.owned(), writer, request_id), timeout_s)
            progress = PushProgress(target, writer.writer, writer.number - 1, request_id=request_id)
            with Pusher(self._send_push, progress, timeout_s) as pusher:
                pusher.hand_on(table, keyed)
                return pusher.flush()

    def pusher(
        self,
        model: str,
        *,
        writer: str | int,
        number: int | None = None,
        version: int | None = None,
        label: str | None = None,
        lineage: str | None = None,
        timeout_s: float | None = None,
    ) -> Pusher:
        """Return a pusher, for whoever pushes again and again: pushes go out while the next ones are made.

        Args:
            writer: Name of who pushes, such as "trainer-3"; one process at a time has it. Or 63 random bits, for one
                that is forgotten 10 minutes after its last push.
            number: Number of the last push that is known to be acknowledged, as `Pusher.acknowledged` said it: pushes
                behind it may be handed on once more, with their numbers, and are applied once. None: nothing is sent
                again, and numbers go on behind the clock (microseconds since 1970).
            version: Version whose lineage is meant; None: that which is live at the first push. Later pushes are for
                the same lineage, whatever goes live.
            label: Label of that version.
            lineage: Lineage that is meant, in place of a version.
            timeout_s: Time for each message; what cannot be answered is tried again until then.
        """
        target = PushTarget(model=model, table="", version=version, label=label, lineage=lineage)
        return Pusher(self._send_push, PushProgress(target, writer, number, resumes=number is not None), timeout_s)

    def _send_push(self, push: SinglePush, timeout_s: float | None) -> PushAnswer:
        """Send one message to shards, or through a head."""
        ways, model = self._ways, push.target.model
        until_s = straight_until_s(self.timeout_s if timeout_s is None else timeout_s)
        if ways is None or until_s is None or not len(push.keyed):
            return decode_pushed(self._call(self._push, push.message(), timeout_s, self._pushing))
        given_s = ways.clock()
        if ways.to_ask(push.target):
            self._ask_route(ways, model, until_s)
        route = ways.route(push.target)
        if route is not None:
            straight = self._straight_here()
            try:
                answer = straight.push(route, push, until_s, ways.failed_of(model))
                ways.worked(model)
                return answer
            except RingpullError as exc:
                pause_s = pause_before_head_s(exc, self._pushing.retries)
                if left_of(timeout_s, self.timeout_s, ways.clock() - given_s) <= pause_s:
                    raise
            if pause_s:
                time.sleep(pause_s)
        left_s = left_of(timeout_s, self.timeout_s, ways.clock() - given_s)
        return decode_pushed(self._call(self._push, push.message(), left_s, self._pushing))

    def _ask_route(self, ways: StraightWays, model: str, until_s: float) -> None:
        known = ways.known(model)
        try:
            reply = self._call(self._push_route, route_request(model, known), ask_s(ways, until_s), self._asking)
            tell(ways, model, reply, known)
        except RingpullError as exc:
            ways.not_told(model, pause_after(exc))
        except BaseException:
            ways.not_told(model)
            raise

    def _straight_here(self) -> StraightThread:
        from ringpull.inference.client.straight import StraightThread  # loaded by whoever pushes

        process = os.getpid()  # A forked process has no thread of its parent's.
        found: StraightThread | None = self._straight.get(process)
        if found is not None:
            return found
        made = StraightThread()
        found = self._straight.setdefault(process, made)
        if found is not made:  # another thread was faster
            made.close()
        return found

    def _close_straight(self) -> None:
        self._ways = None
        if (straight := self._straight.get(os.getpid())) is not None:
            straight.close()


class AsyncPushCalls(Connections, ABC):
    """The part of `AsyncClient` that writes."""

    @abstractmethod
    async def _call(
        self, method: list[Any], request: Any, timeout_s: float | None, retrying: Retrying | None = None
    ) -> Any:
        """Return the reply to a request, tried until there is one."""

    async def push(
        self,
        model: str,
        table: str,
        keys: Any,
        rows: Any = None,
        *,
        remove: bool = False,
        version: int | None = None,
        label: str | None = None,
        lineage: str | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> PushAnswer:
        """Write rows by their keys. Arguments, answer and errors are those of `Client.push`."""
        target = PushTarget(model=model, table=table, version=version, label=label, lineage=lineage)
        # Other turns of the loop may write to the caller's arrays, while this one waits to push and while rows go out.
        keyed = KeyedRows.of(keys, rows, remove=remove).owned()
        async with self._nameless.later() as writer:
            if keyed.nbytes <= PIECE_BYTES:
                push = single_push(target, keyed, writer, request_id)
                return await self._send_push(push, timeout_s)
            progress = PushProgress(target, writer.writer, writer.number - 1, request_id=request_id)
            async with AsyncPusher(self._send_push, progress, timeout_s) as pusher:
                await pusher.hand_on(table, keyed)
                return await pusher.flush()

    def pusher(
        self,
        model: str,
        *,
        writer: str | int,
        number: int | None = None,
        version: int | None = None,
        label: str | None = None,
        lineage: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncPusher:
        """Return a pusher. Arguments are those of `Client.pusher`."""
        target = PushTarget(model=model, table="", version=version, label=label, lineage=lineage)
        return AsyncPusher(self._send_push, PushProgress(target, writer, number, resumes=number is not None), timeout_s)

    async def _send_push(self, push: SinglePush, timeout_s: float | None) -> PushAnswer:
        """Send one message to shards, or through a head."""
        ways, model = self._ways, push.target.model
        until_s = straight_until_s(self.timeout_s if timeout_s is None else timeout_s)
        if ways is None or until_s is None or not len(push.keyed):
            return decode_pushed(await self._call(self._push, push.message(), timeout_s, self._pushing))
        given_s = ways.clock()
        if ways.to_ask(push.target):
            await self._ask_route(ways, model, until_s)
        route = ways.route(push.target)
        if route is not None:
            straight = self._straight_here()
            try:
                answer = await straight.push(route, push, until_s, ways.failed_of(model))
                ways.worked(model)
                return answer
            except RingpullError as exc:
                pause_s = pause_before_head_s(exc, self._pushing.retries)
                if left_of(timeout_s, self.timeout_s, ways.clock() - given_s) <= pause_s:
                    raise
            if pause_s:
                await asyncio.sleep(pause_s)
        left_s = left_of(timeout_s, self.timeout_s, ways.clock() - given_s)
        return decode_pushed(await self._call(self._push, push.message(), left_s, self._pushing))

    async def _ask_route(self, ways: StraightWays, model: str, until_s: float) -> None:
        known = ways.known(model)
        try:
            reply = await self._call(self._push_route, route_request(model, known), ask_s(ways, until_s), self._asking)
            tell(ways, model, reply, known)
        except RingpullError as exc:
            ways.not_told(model, pause_after(exc))
        except BaseException:
            ways.not_told(model)
            raise

    def _straight_here(self) -> StraightPushes:
        from ringpull.inference.client.straight import StraightPushes  # loaded by whoever pushes

        process = os.getpid()
        if process not in self._straight:
            self._straight[process] = StraightPushes()
        found: StraightPushes = self._straight[process]
        return found

    async def _close_straight(self) -> None:
        self._ways = None
        if (straight := self._straight.get(os.getpid())) is not None:
            await straight.close()
