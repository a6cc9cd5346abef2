"""The health of shards: takes what calls to them came to, gives which of them are not worth asking now.

    well --slow--> pinged --says nothing for `eject_after_s`--------------------> ejected --answer--> well
      |  `--slow, `eject_slow` times in a row, over at least `eject_after_s`--------^
      |--refused or broken off, `eject_failures` times in a row---------------------^
      `--not the shard that is meant------------------------------------------------^

An ejected shard is asked only where no other owner is left; when it leaves a ping unanswered and says nothing for
`give_up_s` after that, it is given up: not asked at all. Meanwhile it is pinged, at waits that grow, and readmitted
when it answers, be it a pull, promptly.

Invariants: a shard that is in no trouble has no task and no timer; whatever a shard says, an error too, is a sign of
life; a shard that was readmitted and falls ill again at once is pinged at waits that go on growing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ringpull.ps.errors import ConnectionLost, RingpullError, Stranger, Unavailable
from ringpull.ps.wire.messages import StatisticsRequest
from ringpull.router.backoff import Backoff
from ringpull.router.connections import Connections, NotReached
from ringpull.router.counters import Tally
from ringpull.router.event_loop import done_in, wake
from ringpull.router.here import is_here
from ringpull.router.settings import RouterSettings
from ringpull.router.shard_map import ShardAddress

logger: Final = logging.getLogger(__name__)

_LONG_AGO_S: Final = float("-inf")

_PING_DEADLINE_S: Final = 600.0
"""Time longer than any wait for a ping, which is counted in time that this process was not held up."""


class Condition:
    """Condition of one shard, as far as it is known."""

    def __init__(self) -> None:
        self.answered_s = _LONG_AGO_S
        """Time of its last sign of life."""
        self.troubled = False
        """Whether anything below differs from that of a shard that is well."""
        self.failures = 0
        """Failures in a row."""
        self.slow_answers = 0
        """Slow answers in a row."""
        self.since_s = _LONG_AGO_S
        """Time at which the first of these was asked."""
        self.ejected: RingpullError | None = None
        self.given_up: RingpullError | None = None
        self.pings = 0
        """Pings sent since it was ejected."""
        self.readmitted_s = _LONG_AGO_S
        self.watch: asyncio.Task[None] | None = None
        self.giving_up: asyncio.Task[None] | None = None
        # A set, not one future for all: thousands may wait, and each takes itself off a future by searching its list.
        self._waiting: set[asyncio.Future[None]] = set()

    async def changed(self, answer: asyncio.Future[Any]) -> None:
        """Wait until there is an answer, or the shard is ejected or given up."""
        signal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda _: wake(signal))
        self._waiting.add(signal)
        try:
            await signal
        finally:
            self._waiting.discard(signal)

    def wake_all(self) -> None:
        """Wake all who wait for a change."""
        for signal in self._waiting:
            wake(signal)

    def forget(self) -> None:
        """Stop, and wake all who wait for this shard, which left the map."""
        self.stop()
        self.ejected = self.given_up = Unavailable("left the map while it was late")
        self.wake_all()

    def stop(self) -> None:
        """Cancel what runs on its behalf."""
        for task in (self.watch, self.giving_up):
            if task is not None:
                task.cancel()
        self.watch = self.giving_up = None


class Health:
    """The condition of every shard of the map. One event loop, no locks."""

    def __init__(
        self,
        settings: RouterSettings,
        connections: Connections,
        backoff: Backoff,
        tally: Tally,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._connections = connections
        self._backoff = backoff
        self._tally = tally
        self._clock = clock
        self._wanted: frozenset[ShardAddress] = frozenset()
        self._shards = 0
        """How many of these are shards; the others are here."""
        self._conditions: dict[ShardAddress, Condition] = {}
        self._ejected: dict[ShardAddress, RingpullError] = {}
        self._given_up: dict[ShardAddress, RingpullError] = {}

    def __repr__(self) -> str:
        ejected = sorted(address.shard for address in self._ejected)
        return f"<Health [{self._shards} shards, ejected: {ejected}]>"

    @property
    def ejected(self) -> Mapping[ShardAddress, RingpullError]:
        """Shards to be asked only where no other shard has the keys, and why."""
        return self._ejected

    @property
    def given_up(self) -> Mapping[ShardAddress, RingpullError]:
        """Ejected shards that are not to be asked even then, and why."""
        return self._given_up

    @property
    def majority_in_trouble(self) -> bool:
        """Whether more than half of the shards are slow repeatedly, or ejected: then it is the load, not they."""
        in_trouble = sum(
            each.slow_answers > 1 or each.ejected is not None
            for address, each in self._conditions.items()
            if not is_here(address.shard)
        )
        return in_trouble > max(1, self._shards // 2)

    def want(self, addresses: Iterable[ShardAddress]) -> None:
        """Know these shards; forget all others. Pulls that wait for one of those go by the new map."""
        self._wanted = frozenset(addresses)
        self._shards = sum(not is_here(address.shard) for address in self._wanted)
        for address in self._conditions.keys() - self._wanted:
            self._conditions.pop(address).forget()
            self._ejected.pop(address, None)
            self._given_up.pop(address, None)

    def close(self) -> None:
        """Stop all pings."""
        self.want(())

    def silent_since(self, address: ShardAddress, since_s: float) -> bool:
        """Return whether a shard has said nothing from then on."""
        condition = self._conditions.get(address)
        return condition is None or condition.answered_s < since_s

    # -- what is noticed -----------------------------------------------------------------------------------------------

    def answered(self, address: ShardAddress, took_s: float, slow_after_s: float) -> None:
        """Note that a shard answered, after `took_s`; more than `slow_after_s` is slow. Called for every answer."""
        condition = self._conditions.get(address)
        if condition is None:
            if address not in self._wanted:
                return
            condition = self._conditions[address] = Condition()
        if condition.troubled:
            self._better(address, condition, took_s, slow_after_s)
        else:
            condition.answered_s = self._clock()

    def failed(self, address: ShardAddress, error: RingpullError) -> None:
        """Note that a shard could not be reached, or broke off; or that it is another, which will be no other soon."""
        condition = self._in_trouble(address, self._clock())
        condition.failures += 1
        if condition.failures >= self._settings.eject_failures or isinstance(error, Stranger):
            self._eject(address, condition, error)

    def slow(self, address: ShardAddress, asked_s: float, *, counts: bool = True) -> Condition:
        """Note that a shard asked at `asked_s` is slow; return its condition, to wait for changes of it.

        Args:
            counts: Whether it is a reason to eject it, if there are more; else it is only pinged.
        """
        condition = self._in_trouble(address, asked_s)
        condition.slow_answers += counts
        if self._is_always_slow(condition):
            condition.stop()  # an answer to a ping that is under way would readmit it at once
            self._eject(address, condition, Unavailable(f"{condition.slow_answers} answers in a row were late"))
        elif condition.watch is None and address in self._wanted:
            condition.watch = asyncio.create_task(self._watch(address, condition))
        return condition

    def _is_always_slow(self, condition: Condition) -> bool:
        """Return whether a shard is so slow that others should do its work."""
        slow_for_s = self._clock() - condition.since_s
        return (
            condition.ejected is None
            and condition.slow_answers >= self._settings.eject_slow
            and slow_for_s >= self._settings.eject_after_s
            and not self.majority_in_trouble
        )

    def _in_trouble(self, address: ShardAddress, since_s: float) -> Condition:
        condition = self._conditions.get(address)
        if condition is None:
            condition = Condition()
            if address in self._wanted:
                self._conditions[address] = condition
        if not condition.troubled:
            condition.troubled = True
            condition.since_s = since_s
        return condition

    def _better(self, address: ShardAddress, condition: Condition, took_s: float, slow_after_s: float) -> None:
        self._alive(address, condition)
        condition.failures = 0
        if condition.ejected is not None:
            if took_s <= self._settings.eject_after_s:
                self._readmit(address, condition)
            return
        if took_s <= slow_after_s:
            condition.slow_answers = 0
            condition.troubled = False

    def _alive(self, address: ShardAddress, condition: Condition) -> None:
        condition.answered_s = self._clock()
        if condition.given_up is not None:
            condition.given_up = None
            del self._given_up[address]

    def _eject(self, address: ShardAddress, condition: Condition, error: RingpullError) -> None:
        if condition.ejected is not None or address not in self._wanted:
            return
        condition.ejected = self._ejected[address] = error
        self._tally.ejections += 1
        logger.warning("shard ejected", extra={"shard": address.shard, "error": str(error)})
        if self._clock() - condition.readmitted_s > self._settings.backoff_max_s:
            condition.pings = 0
        if condition.watch is None:
            condition.watch = asyncio.create_task(self._watch(address, condition))
        condition.wake_all()

    def _readmit(self, address: ShardAddress, condition: Condition) -> None:
        del self._ejected[address]
        condition.stop()
        condition.ejected = None
        condition.troubled = False
        condition.failures = condition.slow_answers = 0
        condition.readmitted_s = self._clock()
        logger.info("shard readmitted", extra={"shard": address.shard})

    def _count_silence(self, address: ShardAddress, condition: Condition) -> None:
        """Count the silence of an ejected shard from now on: it left a ping unanswered."""
        if condition.ejected is not None and condition.given_up is None and condition.giving_up is None:
            condition.giving_up = asyncio.create_task(self._give_up(address, condition))

    async def _give_up(self, address: ShardAddress, condition: Condition) -> None:
        """Give an ejected shard up if it stays silent for long enough."""
        answered_s = condition.answered_s
        silence: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await done_in(silence, self._settings.give_up_s)
        condition.giving_up = None
        if condition.answered_s != answered_s:
            return  # The next ping tells whether it went silent again: until then it may not have been asked anything.
        error = NotReached(f"said nothing for {self._settings.give_up_s:g} s or longer ({condition.ejected})")
        condition.given_up = self._given_up[address] = error
        condition.wake_all()

    # -- pings ---------------------------------------------------------------------------------------------------------

    async def _watch(self, address: ShardAddress, condition: Condition) -> None:
        """Ping a shard that is slow or ejected until it answers."""
        if condition.ejected is not None:
            await self._pause(address, condition)
        while not await self._answers(address, condition):
            await self._pause(address, condition)
        condition.watch = None
        if condition.ejected is not None:
            self._readmit(address, condition)

    async def _pause(self, address: ShardAddress, condition: Condition) -> None:
        condition.pings += 1
        wait_s = self._backoff.wait_s(condition.pings)
        await asyncio.sleep(max(wait_s, self._connections.attempt_in_s(address)))

    async def _answers(self, address: ShardAddress, condition: Condition) -> bool:
        """Ping a shard, eject it while it says nothing, and return whether it answers in the end."""
        began_s = self._clock()
        ping = asyncio.create_task(
            self._connections.ask(address, StatisticsRequest(), deadline_s=began_s + _PING_DEADLINE_S)
        )
        try:
            if not await done_in(ping, self._settings.eject_after_s) and condition.answered_s < began_s:
                silent_s = self._clock() - began_s
                error = Unavailable(f"said nothing, not to a ping either, for {silent_s * 1e3:.0f} ms")
                self._eject(address, condition, error)
                self._count_silence(address, condition)
            if not await done_in(ping, self._settings.ping_timeout_s):
                if condition.given_up is not None:
                    # What was sent may never have arrived, and TCP itself takes minutes to see that its peer is gone.
                    await self._connections.drop(address)
                return False
            ping.result()
        except (NotReached, ConnectionLost) as error:
            self._eject(address, condition, error)
            self._count_silence(address, condition)
            return False
        except RingpullError:
            pass  # An error is an answer.
        finally:
            ping.cancel()
        self._alive(address, condition)
        return True
