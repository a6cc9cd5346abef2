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
from ringpull.router.connections import Connect, Connections, NotReached
from ringpull.router.shard_map import ShardAddress

SILENT_S: Final = 5.0
"""Time without any answer of a shard, to whatever was asked, after which it is given up."""
SURE_S: Final = 1.0
"""Time that a request must have had, so that no answer to it says something of the shard."""
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


class StraightConnections(Connections):
    """Connections to shards, of which those are closed that nothing comes back from.

    Whoever waits there fails with `ConnectionLost`, and has time left for another way.
    """

    def __init__(self, connect: Connect, backoff: Backoff, hosts: StraightHosts) -> None:
        super().__init__(connect, backoff)
        self._hosts = hosts
        self._heard_s: dict[ShardAddress, float] = {}
        """When a shard last said something."""
        self._dropping: set[asyncio.Task[None]] = set()

    def want(self, addresses: Iterable[ShardAddress]) -> None:
        wanted = frozenset(addresses)
        self._heard_s = {each: heard_s for each, heard_s in self._heard_s.items() if each in wanted}
        super().want(wanted)

    async def ask(self, address: ShardAddress, message: Request, *, deadline_s: float) -> Reply:
        asked_s = time.monotonic()
        timer = asyncio.get_running_loop().call_later(SILENT_S, self._look, address, asked_s)
        try:
            reply = await super().ask(address, message, deadline_s=deadline_s)
        except _UNHEARD as exc:
            if isinstance(exc, DeadlineExceeded) and time.monotonic() >= asked_s + SURE_S:
                self._look(address, asked_s)
            raise
        except RingpullError:
            self._heard_s[address] = time.monotonic()
            raise
        finally:
            timer.cancel()
        self._heard_s[address] = time.monotonic()
        return reply

    async def close(self) -> None:
        await super().close()
        await asyncio.gather(*self._dropping)

    def _look(self, address: ShardAddress, asked_s: float) -> None:
        """Give a shard up if it has said nothing since."""
        if self._heard_s.get(address, -1.0) >= asked_s:
            return  # It is slow with this one.
        self._hosts.silent(address.host)
        task = asyncio.get_running_loop().create_task(self.drop(address))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)
