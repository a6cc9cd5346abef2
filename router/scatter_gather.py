"""Scatter-gather: asks shards about the keys of one pull, or the slots of one scan, until each is answered, or lost by
its table's policy. What is said here of a pull and of keys goes for both: see `question.py`.

A pull goes in rounds. A round takes keys, plans which shard to ask for which, and asks all of them at once.

* A part whose shard refused, failed or is gone goes through a round of its own: over a newer map, or other owners.
* A part whose shard refuses some of its slots, damaged there, is divided: these go over other owners, all else is asked
  anew, of the same shard too.
* A part whose shard is slow does so too, over its other owners, while the shard goes on: a *hedge*. The first complete
  answer wins: the shard's own, or all of those in its stead. The loser is cancelled, and its answers are dropped.
* Keys that no other shard has are waited for: until the time is up, or until its shard is given up.

Exactly once: `_round` returns answers to the keys it was given, each key once. It puts together, per part, either the
answer to that part, or what one `_round` returned for exactly the keys of that part; never some of both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeGuard, TypeVar

from ringpull.ps.errors import (
    ConnectionLost,
    DeadlineExceeded,
    NotAnswered,
    NotFound,
    NotOwner,
    OtherContent,
    RingpullError,
    Unavailable,
)
from ringpull.router.connections import NotReached
from ringpull.router.event_loop import let_answers_in, wake
from ringpull.router.health import Condition
from ringpull.router.in_flight import InFlightByEpoch
from ringpull.router.question import BatchT, Exclusions, PartT, Question, ReplyT
from ringpull.router.route_planning import RoutePlan, RoutePlanner
from ringpull.router.shard_calls import ShardCalls
from ringpull.router.shard_map import MapEdition, ShardAddress

_STALL_FACTOR: Final = 1.5
"""A wait that takes this many times as long as it should says more of this process than of shards."""

_MAX_STALLED_WAITS: Final = 4
"""Times a pull waits anew for that reason, at most: a shard may be stopped as well."""

Answer = tuple[PartT, ReplyT | None]
"""A part and its answer. None: no shard could answer, and the tables' policy allows for that."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class _Call(Generic[PartT, ReplyT]):
    """A part being asked of its shard."""

    part: PartT
    address: ShardAddress
    edition: MapEdition
    """Edition of the map that it was planned by."""
    asked_s: float
    answer: asyncio.Task[ReplyT | RingpullError]


class ScatterGather(Generic[BatchT, PartT, ReplyT]):
    """The rounds of one pull, or of another question."""

    def __init__(
        self,
        pull: Question[BatchT, PartT, ReplyT],
        planner: RoutePlanner,
        calls: ShardCalls,
        in_flight: InFlightByEpoch,
    ) -> None:
        self._pull = pull
        self._planner = planner
        self._calls = calls
        self._in_flight = in_flight
        self._down: dict[ShardAddress, RingpullError] = {}
        """Shards that failed in this pull: not asked again in it."""

    async def answers(self) -> list[Answer[PartT, ReplyT]]:
        """Return answers to all keys of the pull, each key in exactly one.

        Raises:
            Unavailable: No shard could answer for keys of a table whose policy does not allow that.
            DeadlineExceeded: A shard could, but not in time.
            RingpullError: Any shard would say the same.
        """
        self._calls.count_asked(self._pull.size)
        return await self._round(self._planner.plan(self._pull, [self._pull.batch], self._down), {})

    # -- rounds --------------------------------------------------------------------------------------------------------

    async def _round(self, plan: RoutePlan[PartT], slow_shards: Exclusions) -> list[Answer[PartT, ReplyT]]:
        """Ask for all parts, and anew for those that fail or are slow; return answers to exactly these keys."""
        answers: list[Answer[PartT, ReplyT]] = []
        if plan.unowned:
            if not plan.excluded or any(_is_gone(error) for error in plan.excluded.values()):
                self._planner.ask_for_map()
            self._pull.check_may_be_lost(plan.unowned, plan.excluded)
            answers += [(part, None) for part in plan.unowned]
        if not plan.parts:
            return answers
        calls = self._ask_all(plan)
        self._in_flight.begin(plan.edition.epoch)
        try:
            await self._wait_until_answered_or_slow(calls)
            failed: list[tuple[_Call[PartT, ReplyT], RingpullError]] = []
            slow: list[_Call[PartT, ReplyT]] = []
            for call in calls:
                if not call.answer.done():
                    slow.append(call)
                elif not isinstance(outcome := call.answer.result(), RingpullError):
                    answers.append((call.part, outcome))
                else:
                    failed.append((call, outcome))
            if failed or slow:
                coming = [self._answer_slow(call, slow_shards) for call in slow]
                coming += [self._divide(call, error, slow_shards) for call, error in failed if _in_part(error)]
                if failed := [(call, error) for call, error in failed if not _in_part(error)]:
                    coming.append(self._retry(failed, slow_shards))
                for some in await _all(coming):
                    answers += some
        finally:
            for call in calls:
                if not call.answer.done():
                    _drop(call.answer)
            self._in_flight.end(plan.edition.epoch)
        return answers

    def _ask_all(self, plan: RoutePlan[PartT]) -> list[_Call[PartT, ReplyT]]:
        loop, now_s = asyncio.get_running_loop(), self._calls.clock()
        calls = []
        for placement, part in plan.parts:
            assert part.shard is not None
            answer = loop.create_task(self._calls.ask_shard(self._pull, placement, part))
            calls.append(_Call(part, placement.address(part.shard), plan.edition, now_s, answer))
        return calls

    async def _wait_until_answered_or_slow(self, calls: Sequence[_Call[PartT, ReplyT]]) -> None:
        """Wait until all are answered, or those that are not are slow."""
        loop, clock, delay_s = asyncio.get_running_loop(), self._calls.clock, self._calls.slow_after_s
        # By hand, with one timer a pull: half of what `asyncio.wait` costs, and this is the way of every pull.
        over: asyncio.Future[None] = loop.create_future()
        open_answers = len(calls)

        def answered(_: object) -> None:
            nonlocal open_answers
            open_answers -= 1
            if not open_answers:
                wake(over)

        for call in calls:
            call.answer.add_done_callback(answered)
        for _ in range(_MAX_STALLED_WAITS):
            began_s = clock()
            timer = loop.call_later(delay_s, wake, over)
            try:
                await over
            finally:
                timer.cancel()
            if not open_answers:
                return
            await let_answers_in()
            # Looked at again: answers that are in by now wake no future that is made from here on.
            if not open_answers or clock() - began_s < _STALL_FACTOR * delay_s:
                return
            # It is this loop that is slow. To hedge would give it more to do, when it has too much already.
            over = loop.create_future()

    async def _retry(
        self, failed: Sequence[tuple[_Call[PartT, ReplyT], RingpullError]], slow_shards: Exclusions
    ) -> list[Answer[PartT, ReplyT]]:
        """Return answers to parts whose shards gave none: from other owners, or by a newer map."""
        lost: list[Answer[PartT, ReplyT]] = []
        retries: list[BatchT] = []
        refused: dict[ShardAddress, RingpullError] = {}
        for call, error in failed:
            # A version that is registered here and not open there was retired: the shard is ahead of us.
            if isinstance(error, NotOwner | NotFound):
                refused[call.address] = error
            elif isinstance(error, Unavailable | OtherContent):
                # A shard with another content under this number is as good as down: its rows belong to other answers.
                self._down[call.address] = error
            elif isinstance(error, DeadlineExceeded):
                self._check_time_may_be_up(call, error)
                lost.append((call.part, None))
                continue
            else:
                raise error
            retries.append(self._pull.as_batch(call.part))
        edition = failed[0][0].edition
        if refused and not await self._renew_map(edition):
            # The map we have is the newest there is, and its owner does not answer: as good as down.
            self._down |= refused
        if not retries:
            return lost
        plan = self._planner.plan(self._pull, retries, {**self._down, **slow_shards})
        if any(_is_gone(error) for _, error in failed):
            # It may be elsewhere by now, or another process have its port. Who has other owners does not wait for that.
            # One that has too much to do, or other content, is where the map says.
            self._planner.ask_for_map()
            if plan.unowned and await self._renew_map(edition, sparingly=True):
                plan = self._planner.plan(self._pull, retries, {**self._down, **slow_shards})
        if plan.parts:
            self._calls.count_retries(len(retries))
        return lost + await self._round(plan, slow_shards)

    async def _divide(
        self, call: _Call[PartT, ReplyT], error: NotAnswered, slow_shards: Exclusions
    ) -> list[Answer[PartT, ReplyT]]:
        """Return answers to a part whose shard does not answer for some slots of a table: for these, damaged there,
        from other owners, and for all other keys from whomever they are asked of best, which may be this shard."""
        refused, others = self._pull.divide(call.part, error.table, error.slots)
        if refused is None:  # It was not asked for any of them: it is not to be believed.
            return await self._retry([(call, Unavailable(str(error)))], slow_shards)
        self._calls.count_retries(1)
        coming = []
        for batch, excluded in ((refused, {**slow_shards, call.address: error}), (others, slow_shards)):
            if batch is not None:
                plan = self._planner.plan(self._pull, [batch], {**self._down, **excluded})
                coming.append(self._round(plan, excluded))
        return [answer for some in await _all(coming) for answer in some]

    async def _renew_map(self, edition: MapEdition, *, sparingly: bool = False) -> bool:
        """Try to get a newer map in half of the time left: the rest is for other owners, should none come."""
        now_s = self._calls.clock()
        half_s = (self._pull.answer_by_s - now_s) / 2
        return await self._planner.renew_map(edition, now_s + half_s, sparingly=sparingly)

    def _check_time_may_be_up(self, call: _Call[PartT, ReplyT], error: DeadlineExceeded) -> None:
        """Raise unless the tables of a part that was not answered in time allow its keys to be lost."""
        silent = self._calls.silent_since(call.address, call.asked_s)
        if silent:
            self._calls.mark_slow(call.address, call.asked_s)
        if silent and self._elapsed_s(call) > self._calls.slow_after_s:
            self._pull.check_may_be_lost([call.part], {call.address: error})
        elif self._pull.strict_tables([call.part]):
            # Its shard is alive, or had hardly any time: the request came too close to its deadline.
            raise error

    # -- slow parts ----------------------------------------------------------------------------------------------------

    async def _answer_slow(self, call: _Call[PartT, ReplyT], slow_shards: Exclusions) -> list[Answer[PartT, ReplyT]]:
        """Return answers to a part that is slow: from its shard, or from the other owners."""
        condition = self._calls.mark_slow(call.address, call.asked_s)
        error = Unavailable(f"late after {self._elapsed_s(call) * 1e3:.0f} ms")
        slow_shards = {**slow_shards, call.address: error}
        if not self._calls.may_hedge:
            while condition.ejected is None and not call.answer.done():
                await condition.changed(call.answer)
        if call.answer.done():
            return await self._settle(call, call.answer.result(), slow_shards)
        excluded = {**self._down, **slow_shards}
        plan = self._planner.plan(self._pull, [self._pull.as_batch(call.part)], excluded, spare_ejected=True)
        if not plan.parts or self._pull.strict_tables(plan.unowned):
            # No other shard has these keys.
            return await self._settle(call, await _until_given_up(call, condition), slow_shards)
        # An ejected shard is not hedged but replaced: that moves load, and adds none.
        hedged = condition.ejected is None
        if hedged:
            self._calls.count_hedge(call.address, call.part)
        else:
            self._calls.count_retries(1)
        loop = asyncio.get_running_loop()
        own = loop.create_task(_until_given_up(call, condition))
        others = loop.create_task(self._round(plan, slow_shards))
        try:
            answers = await _first_complete(own, others)
        finally:
            _drop(own)
            _drop(others)
        if answers is None:
            return await self._settle(call, own.result(), slow_shards)
        if hedged and all(reply is not None for _, reply in answers):
            self._calls.count_hedge_won()
        return answers

    async def _settle(
        self, call: _Call[PartT, ReplyT], outcome: ReplyT | RingpullError, slow_shards: Exclusions
    ) -> list[Answer[PartT, ReplyT]]:
        """Return the answer that a shard gave in the end, or answers to its part from elsewhere."""
        if not isinstance(outcome, RingpullError):
            return [(call.part, outcome)]
        if _in_part(outcome):
            return await self._divide(call, outcome, slow_shards)
        return await self._retry([(call, outcome)], slow_shards)

    def _elapsed_s(self, call: _Call[PartT, ReplyT]) -> float:
        return self._calls.clock() - call.asked_s


def _is_gone(error: RingpullError) -> bool:
    """Return whether a shard is not where the map says, or cannot be reached there: a newer map may know more."""
    return isinstance(error, NotReached | ConnectionLost)


def _in_part(error: RingpullError) -> TypeGuard[NotAnswered]:
    """Return whether a shard refused some slots of a part, and named them."""
    return isinstance(error, NotAnswered) and bool(error.slots)


async def _first_complete(
    own: asyncio.Task[ReplyT | RingpullError], others: asyncio.Task[list[Answer[PartT, ReplyT]]]
) -> list[Answer[PartT, ReplyT]] | None:
    """Return the answers of other owners to a slow part, or None where what its own shard said counts."""
    pending: set[asyncio.Task[Any]] = {own, others}
    while pending:
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if own.done() and not isinstance(own.result(), RingpullError):
            return None
        if others.done() and others.exception() is None and all(reply is not None for _, reply in others.result()):
            return others.result()
    # Neither is complete. Keys that only the slow shard has are lost, as their tables allow; the others' are not.
    return others.result() if others.exception() is None else None


async def _until_given_up(call: _Call[PartT, ReplyT], condition: Condition) -> ReplyT | RingpullError:
    """Return what a slow shard says in the end, or why it was given up."""
    while not call.answer.done():
        if condition.given_up is not None:
            return condition.given_up
        await condition.changed(call.answer)
    return call.answer.result()


async def _all(coming: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run together; the first error ends all."""
    if len(coming) == 1:
        return [await coming[0]]
    tasks = [asyncio.get_running_loop().create_task(each) for each in coming]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        return [task.result() for task in tasks if task.done()]
    finally:
        for task in tasks:
            _drop(task)


def _drop(task: asyncio.Task[Any]) -> None:
    """Cancel a task whose result is not needed any more; its error, if any, is dropped."""
    task.cancel()
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
