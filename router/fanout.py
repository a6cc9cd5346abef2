"""Asking the shard of one part, and keeping every book about it: load, counters, health, answer times, budget.

What a shard is asked and what came of it passes through here and nowhere else, so nothing is counted twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ringpull.ps.errors import ConnectionLost, DeadlineExceeded, NotOwner, ProtocolError, RingpullError, Unavailable
from ringpull.ps.wire.messages import PullReply
from ringpull.router.connections import Connections, NotReached
from ringpull.router.counters import Tally
from ringpull.router.health import Health
from ringpull.router.hedging import AnswerTimes, HedgeBudget
from ringpull.router.merge import Merge
from ringpull.router.partition import Part
from ringpull.router.replicas import Loads, Placement


class Fanout:
    """Asks shards, for all pulls of a router."""

    def __init__(
        self,
        connections: Connections,
        health: Health,
        tally: Tally,
        times: AnswerTimes,
        budget: HedgeBudget,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.health = health
        self.tally = tally
        self.times = times
        self.budget = budget
        self.loads = Loads()
        self.clock = clock
        self._connections = connections

    def __repr__(self) -> str:
        return f"{self.loads!r} {self.times!r} {self.budget!r}"

    async def ask(
        self, placement: Placement, part: Part, merge: Merge, model: str, version: int, deadline_s: float
    ) -> PullReply | RingpullError:
        """Ask the shard of a part, and return its answer, checked, or what went wrong.

        When it is cancelled, an answer that comes yet is dropped by the connection, by its request id.
        """
        assert part.shard is not None
        address = placement.addresses[part.shard]
        request = part.request(model, version, placement.epoch)
        keys = part.positions.size
        self.tally.sent(request)
        self.loads.add(part.shard, keys)
        began_s = self.clock()
        try:
            reply = await self._connections.ask(address, request, deadline_s=deadline_s)
            if not isinstance(reply, PullReply):
                raise ProtocolError(f"shard {part.shard} answered a pull with {type(reply).__name__}")
            merge.check(part, reply)
        except (NotReached, ConnectionLost) as exc:
            self.tally.unavailable += 1
            self.health.failed(address, exc)
            return exc
        except DeadlineExceeded as exc:
            return exc
        except RingpullError as exc:
            # Whatever it says: it is alive. `Unavailable` is a shard that has too much to do.
            self.tally.not_owner += isinstance(exc, NotOwner)
            self.tally.unavailable += isinstance(exc, Unavailable)
            self.health.answered(address, self.clock() - began_s, self.times.delay_s)
            return exc
        except asyncio.CancelledError:
            # Another owner was faster. How long this one would have taken is not known, but that it was late is: left
            # out, late answers would make the delay shorter and shorter.
            if self.clock() - began_s > self.times.delay_s:
                self.times.add(self.clock() - began_s)
            raise
        finally:
            self.loads.add(part.shard, -keys)
        took_s = self.clock() - began_s
        self.times.add(took_s)
        self.health.answered(address, took_s, self.times.delay_s)
        self.tally.received(reply)
        return reply
