"""Straight hosts: the hosts of shards as a client finds them, and connections that are given up where nothing is said.

A host is *unreached* if no connection to it was ever made, or a shard there took requests and said nothing. That is
remembered for a while: what was not there then may be there now, or is not meant any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from ringpull.ps.errors import ConnectionLost, DeadlineExceeded, RingpullError
from ringpull.ps.wire.messages import Reply, Request
from ringpull.router.backoff import Backoff
from ringpull.router.connections import Connect, Connections, NotReached, ShardConnection
from ringpull.router.shard_map import ShardAddress

SILENT_S: Final = 5.0
"""Time without any answer of a shard, to whatever was asked, after which it is given up."""
SURE_S: Final = 1.0
"""Time that a request must have had, so that no answer to it says something of the shard."""
TURNS: Final = 2
"""Turns of the loop before a look: where the loop was blocked, what came meanwhile is taken in the turn of the timer,
and whoever asked has it in the next."""
FORGET_S: Final = 30.0
"""Time after which a host is not held for unreached any more: as long as the way rests then."""

_UNHEARD: Final = (ConnectionLost, DeadlineExceeded, NotReached)
"""Errors that are no words of a shard."""


class StraightHosts:
    """Hosts of the shards of one client. Noted by one thread; `all_reached` may be asked by any."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reached: set[str] = set()
        self._unreached: dict[str, float] = {}
        """When that was noted last, by host."""

    def __repr__(self) -> str:
        return f"<StraightHosts {len(self._reached)} reached, {len(self._unreached)} unreached>"

    @property
    def all_reached(self) -> bool:
        """Whether no host is unreached."""
        since_s = self._clock() - FORGET_S
        return not any(noted_s > since_s for noted_s in self._unreached.copy().values())

    def reached(self, host: str) -> None:
        """Note that there is a connection to a host."""
        self._reached.add(host)
        self._unreached.pop(host, None)

    def failed(self, host: str) -> None:
        """Note that no connection to a host was made: it is restarted, perhaps, if there was one before."""
        if host not in self._reached:
            self._note(host)

    def silent(self, host: str) -> None:
        """Note that a shard of a host took requests and said nothing."""
        self._reached.discard(host)
        self._note(host)

    def _note(self, host: str) -> None:
        now_s = self._clock()
        recent = {each: noted_s for each, noted_s in self._unreached.items() if noted_s > now_s - FORGET_S}
        self._unreached = recent | {host: now_s}


class _Looks:
    """Looks at a shard, one after the other for as long as a request is open there."""

    __slots__ = ("_handle", "_look", "_loop")

    def __init__(self, look: Callable[[], float]) -> None:
        """Have the first one after `SILENT_S`.

        Args:
            look: Returns the seconds until the next one.
        """
        self._look, self._loop = look, asyncio.get_running_loop()
        self._handle: asyncio.Handle = self._loop.call_later(SILENT_S, self._turn, TURNS)

    def end(self) -> None:
        """Have no more."""
        self._handle.cancel()

    def _turn(self, left: int) -> None:
        if left:
            self._handle = self._loop.call_soon(self._turn, left - 1)
        else:
            self._handle = self._loop.call_later(self._look(), self._turn, TURNS)


class StraightConnections(Connections):
    """Connections to shards, of which those are closed that nothing comes back from.

    Whoever waits there fails with `ConnectionLost`, and has time left for another way.
    """

    def __init__(self, connect: Connect, backoff: Backoff, hosts: StraightHosts) -> None:
        async def noted(address: ShardAddress) -> ShardConnection:
            connection = await connect(address)
            self._made_s[address] = time.monotonic()
            return connection

        super().__init__(noted, backoff)
        self._hosts = hosts
        self._made_s: dict[ShardAddress, float] = {}
        """When the last connection to a shard was made."""
        self._heard_s: dict[ShardAddress, float] = {}
        """When a shard last said something."""
        self._dropping: set[asyncio.Task[None]] = set()

    def want(self, addresses: Iterable[ShardAddress]) -> None:
        wanted = frozenset(addresses)
        for noted in (self._made_s, self._heard_s):
            for each in noted.keys() - wanted:
                del noted[each]
        super().want(wanted)

    async def ask(self, address: ShardAddress, message: Request, *, deadline_s: float) -> Reply:
        asked_s = time.monotonic()
        looks = _Looks(lambda: self._look(address, asked_s))
        try:
            reply = await super().ask(address, message, deadline_s=deadline_s)
        except _UNHEARD as exc:
            if isinstance(exc, DeadlineExceeded):
                await self._look_back(address, asked_s)
            raise
        except RingpullError:
            self._heard_s[address] = time.monotonic()
            raise
        finally:
            looks.end()
        self._heard_s[address] = time.monotonic()
        return reply

    async def close(self) -> None:
        await super().close()
        await asyncio.gather(*self._dropping)

    def _look(self, address: ShardAddress, asked_s: float) -> float:
        """Give a shard up if it says nothing to a request; return when to look again, in seconds from now."""
        line = self._lines.get(address)
        if line is None or not line.is_open:
            return SILENT_S  # Nobody has taken it yet.
        since_s = max(asked_s, self._made_s.get(address, asked_s), self._heard_s.get(address, asked_s))
        left_s = since_s + SILENT_S - time.monotonic()
        if left_s > 0:
            return left_s  # It is slow with this one.
        self._give_up(address)
        return SILENT_S

    async def _look_back(self, address: ShardAddress, asked_s: float) -> None:
        """Give a shard up if it has said nothing by the deadline of a request that had time enough."""
        if time.monotonic() < max(asked_s, self._made_s.get(address, asked_s)) + SURE_S:
            return
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if self._heard_s.get(address, -1.0) < asked_s:
            self._give_up(address)

    def _give_up(self, address: ShardAddress) -> None:
        self._hosts.silent(address.host)
        task = asyncio.get_running_loop().create_task(self.drop(address))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)
