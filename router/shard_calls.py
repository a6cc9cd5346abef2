"""Calls to shards: one part asked of one shard, and every account that a router keeps of its shards.

All pulls of a router ask through one `ShardCalls`. What it learns from each call is entered here and in no other place:
keys in flight, answer times, hedge budget, health, counters. (Scans, which take as long as their table is large, have
another one, with times and a budget of their own.) So nothing is counted twice, and routing, waiting and
hedging read the same numbers. Pings (`health.py`) and statistics are no pulls, and count in none of these.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from copy import copy
from typing import Any, Final

from ringpull.ps.errors import ConnectionLost, DeadlineExceeded, RingpullError
from ringpull.router.connections import Connections, NotReached
from ringpull.router.counters import Tally
from ringpull.router.health import Condition, Health
from ringpull.router.hedging import AnswerTimes, HedgeBudget
from ringpull.router.here import is_here
from ringpull.router.question import AnyPart, PartT, Question, ReplyT
from ringpull.router.replicas import Loads, Placement
from ringpull.router.settings import RouterSettings
from ringpull.router.shard_map import ShardAddress

logger: Final = logging.getLogger(__name__)


class ShardCalls:
    """Asks shards for all pulls of a router, and keeps account of it."""

    def __init__(
        self,
        connections: Connections,
        health: Health,
        tally: Tally,
        settings: RouterSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        tells_health: bool = True,
    ) -> None:
        """Begin with nothing asked.

        Args:
            tells_health: Whether slow answers mean that a shard is ill.
        """
        self._tells_health = tells_health
        self.loads = Loads()
        self.clock = clock
        self._connections = connections
        self._health = health
        self._tally = tally
        self._times = AnswerTimes(
            quantile=settings.hedge_quantile, floor_s=settings.hedge_floor_s, cap_s=settings.hedge_cap_s
        )
        self._budget = HedgeBudget(share=settings.hedge_share, burst_keys=settings.hedge_burst_keys)

    def __repr__(self) -> str:
        return f"{self.loads!r} {self._times!r} {self._budget!r}"

    def counted_by(self, tally: Tally) -> ShardCalls:
        """Return the same calls, with the same accounts of shards, which another tally counts."""
        calls = copy(self)
        calls._tally = tally
        return calls

    async def ask_shard(
        self, question: Question[Any, PartT, ReplyT], placement: Placement, part: PartT
    ) -> ReplyT | RingpullError:
        """Ask the shard of a part, or what is here, and return the answer, checked, or what went wrong.

        When it is cancelled, an answer that comes yet is dropped by the connection, by its request id.
        """
        assert part.shard is not None
        address = placement.address(part.shard)
        request, keys, local = question.request(part, placement.epoch), part.size, is_here(part.shard)
        if not local:
            self._tally.sent(request)
        self.loads.add(part.shard, keys)
        began_s = self.clock()
        try:
            reply = await self._connections.ask(address, request, deadline_s=question.answer_by_s)
            answer = question.checked(part, reply)
        except (NotReached, ConnectionLost) as exc:
            self._tally.got_nothing(exc, local=local)
            self._health.failed(address, exc)
            return exc
        except DeadlineExceeded as exc:
            return exc
        except RingpullError as exc:
            # Whatever it says: it is alive. `Unavailable` is a shard that has too much to do.
            self._tally.got_nothing(exc, local=local)
            self._note_answered(address, self.clock() - began_s)
            return exc
        except asyncio.CancelledError:
            # Another owner was faster. How long this one would have taken is not known, but that it was slow is: left
            # out, slow answers would make the delay shorter and shorter.
            if not local and self.clock() - began_s > self._times.delay_s:
                self._times.add(self.clock() - began_s)
            raise
        finally:
            self.loads.add(part.shard, -keys)
        took_s = self.clock() - began_s
        self._note_answered(address, took_s)
        if not local:
            # What is read here takes a fraction of what a shard takes, and says nothing of when that is slow.
            self._times.add(took_s)
            self._tally.received(reply)
        return answer

    def _note_answered(self, address: ShardAddress, took_s: float) -> None:
        # A scan says that its shard is alive, and not how fast it answers pulls.
        self._health.answered(address, took_s if self._tells_health else math.inf, self._times.delay_s)

    # -- slow shards, hedges, retries ----------------------------------------------------------------------------------

    @property
    def slow_after_s(self) -> float:
        """Seconds after which an answer is slow."""
        return self._times.delay_s

    @property
    def may_hedge(self) -> bool:
        """Whether keys may be asked twice now: the budget has some left, and the slow shards are few."""
        return self._budget.affords and not self._health.majority_in_trouble

    def mark_slow(self, address: ShardAddress, asked_s: float) -> Condition:
        """Note that a shard asked at `asked_s` is slow; return its condition, to wait for changes of it."""
        return self._health.slow(address, asked_s, counts=self._tells_health)

    def silent_since(self, address: ShardAddress, since_s: float) -> bool:
        """Return whether a shard has said nothing from then on."""
        return self._health.silent_since(address, since_s)

    def count_asked(self, keys: int) -> None:
        """Count the keys of a new pull: a share of them may be asked twice."""
        self._budget.asked(keys)

    def count_retries(self, parts: int) -> None:
        """Count parts that are asked of other owners because their own failed, refused or was ejected."""
        self._tally.retries += parts

    def count_hedge(self, address: ShardAddress, part: AnyPart) -> None:
        """Count a part that is asked of other owners while its own, at `address`, goes on."""
        self._tally.hedges += 1
        self._budget.spend(part.size)
        logger.debug("pull hedged", extra={"shard": address.shard, "keys": part.size})

    def count_hedge_won(self) -> None:
        """Count a hedged part that its other owners answered first."""
        self._tally.hedges_won += 1
