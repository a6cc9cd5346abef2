"""All questions and answers of one pull, until every key is answered, or lost by the policy of its table.

A pull goes in rounds. Each cuts what is left into parts, by the map of that moment, and asks all their shards at once.

* A part that was refused, or whose shard is gone, is cut anew in a round of its own: over a newer map, or other owners.
* A part that is late is cut anew over other owners too, while its shard goes on: a *hedge*. The first whole answer
  wins: the shard's own, or all of those in its stead. The loser is cancelled, and its answers are dropped.
* What nobody else has is waited for: until the time is up, or until its shard is given up.

Exactly once: `_round` returns answers to the keys it was given, each key once. It puts together, per part, either the
answer to that part, or what one `_round` returned for exactly the keys of that part; never some of both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Final, NamedTuple

from ringpull.ps.errors import DeadlineExceeded, NotFound, NotOwner, RingpullError, Unavailable
from ringpull.ps.wire.messages import PullReply
from ringpull.router.batch import Batch
from ringpull.router.cutting import Causes, Cut, Cutter
from ringpull.router.event_loop import let_answers_in, wake
from ringpull.router.fanout import Fanout
from ringpull.router.health import Condition
from ringpull.router.merge import Merge
from ringpull.router.partition import Part
from ringpull.router.rounds import Rounds
from ringpull.router.routes import Routes
from ringpull.router.shard_map import ShardAddress

logger: Final = logging.getLogger(__name__)

_HELD_UP: Final = 1.5
"""A wait that takes that many times as long as it should says more of this process than of shards."""

_HELD_UP_TIMES: Final = 4
"""So often a pull waits anew for that reason: a shard may be stopped as well."""

Answer = tuple[Part, PullReply | None]
"""None: nobody could answer, and the tables' policy allows for that."""


class _Asked(NamedTuple):
    """A part that was asked."""

    part: Part
    address: ShardAddress
    epoch: int
    asked_s: float
    answer: asyncio.Task[PullReply | RingpullError]


class Exchange:
    """The rounds of one pull.

    Args:
        cutter: Of the tables of the batch.
        merge: Checks answers as they come.
        answer_by_s: On the clock of `fanout`; what is not answered then is lost or an error.
    """

    def __init__(
        self,
        fanout: Fanout,
        routes: Routes,
        rounds: Rounds,
        cutter: Cutter,
        model: str,
        version: int,
        merge: Merge,
        answer_by_s: float,
    ) -> None:
        self._fanout = fanout
        self._routes = routes
        self._rounds = rounds
        self._cutter = cutter
        self._model = model
        self._version = version
        self._merge = merge
        self._answer_by_s = answer_by_s
        self._down: dict[ShardAddress, RingpullError] = {}
        """Shards that failed in this pull: not asked again in it."""

    async def answers(self, batch: Batch) -> list[Answer]:
        """Return answers to all keys of a batch, each key in exactly one.

        Raises:
            Unavailable: Nobody could answer for keys of a table whose policy does not allow that.
            DeadlineExceeded: Somebody could, but not in time.
            RingpullError: What any shard would say.
        """
        self._fanout.budget.asked(batch.keys.size)
        return await self._round(self._cutter.cut([batch], self._down), {})

    # -- rounds --------------------------------------------------------------------------------------------------------

    async def _round(self, cut: Cut, late: Causes) -> list[Answer]:
        """Ask for all parts, and again for those that fail or are late; return answers to exactly these keys."""
        answers: list[Answer] = []
        if cut.nobody:
            self._cutter.check_may_be_lost(cut.nobody, cut.causes)
            answers += [(part, None) for part in cut.nobody]
        if not cut.parts:
            return answers
        with self._rounds.by(cut.epoch):
            asked = self._ask(cut)
            try:
                await self._until_late(asked)
                failed: list[tuple[_Asked, RingpullError]] = []
                slow: list[_Asked] = []
                for each in asked:
                    if not each.answer.done():
                        slow.append(each)
                    elif isinstance(outcome := each.answer.result(), PullReply):
                        answers.append((each.part, outcome))
                    else:
                        failed.append((each, outcome))
                if failed or slow:
                    coming = [self._slow(each, late) for each in slow]
                    if failed:
                        coming.append(self._failed(failed, late))
                    for some in await _all(coming):
                        answers += some
            finally:
                for each in asked:
                    if not each.answer.done():
                        _drop(each.answer)
        return answers

    def _ask(self, cut: Cut) -> list[_Asked]:
        loop, now_s = asyncio.get_running_loop(), self._fanout.clock()
        asked = []
        for placement, part in cut.parts:
            assert part.shard is not None
            answer = loop.create_task(
                self._fanout.ask(placement, part, self._merge, self._model, self._version, self._answer_by_s)
            )
            asked.append(_Asked(part, placement.addresses[part.shard], cut.epoch, now_s, answer))
        return asked

    async def _until_late(self, asked: Sequence[_Asked]) -> None:
        """Wait until all are answered, or the others are late."""
        loop, clock, delay_s = asyncio.get_running_loop(), self._fanout.clock, self._fanout.times.delay_s
        # By hand, with one timer a pull: half of what `asyncio.wait` costs, and this is the way of every pull.
        over: asyncio.Future[None] = loop.create_future()
        open_answers = len(asked)

        def answered(_: object) -> None:
            nonlocal open_answers
            open_answers -= 1
            if not open_answers:
                wake(over)

        for each in asked:
            each.answer.add_done_callback(answered)
        for _ in range(_HELD_UP_TIMES):
            began_s = clock()
            timer = loop.call_later(delay_s, wake, over)
            try:
                await over
            finally:
                timer.cancel()
            if not open_answers:
                return
            await let_answers_in()
            # Looked at again: who has been answered by now wakes no future that is made from here on.
            if not open_answers or clock() - began_s < _HELD_UP * delay_s:
                return
            # It is this loop that is late. To hedge would give it more to do, when it has too much already.
            over = loop.create_future()

    async def _failed(self, failed: Sequence[tuple[_Asked, RingpullError]], late: Causes) -> list[Answer]:
        """Return answers to parts whose shards gave none."""
        lost: list[Answer] = []
        again: list[Batch] = []
        refused: dict[ShardAddress, RingpullError] = {}
        for each, error in failed:
            # A version that is registered here and not open there was retired: the shard is ahead of us.
            if isinstance(error, NotOwner | NotFound):
                refused[each.address] = error
            elif isinstance(error, Unavailable):
                self._down[each.address] = error
            elif isinstance(error, DeadlineExceeded):
                self._check_time_may_be_up(each, error)
                lost.append((each.part, None))
                continue
            else:
                raise error
            again.append(each.part.again())
        if refused and not await self._renewed(failed[0][0].epoch):
            # The map we have is the newest there is, and its owner does not answer: as good as down.
            self._down |= refused
        if not again:
            return lost
        cut = self._cutter.cut(again, {**self._down, **late})
        if cut.parts:
            self._fanout.tally.retries += len(again)
        return lost + await self._round(cut, late)

    async def _renewed(self, epoch: int) -> bool:
        """Try to get a newer map in half of the time left: the rest is for other owners, should none come."""
        now_s = self._fanout.clock()
        return await self._routes.renewed(epoch, now_s + (self._answer_by_s - now_s) / 2)

    def _check_time_may_be_up(self, asked: _Asked, error: DeadlineExceeded) -> None:
        """Raise unless the tables of a part that was not answered in time allow its keys to be lost."""
        silent = self._fanout.health.silent_since(asked.address, asked.asked_s)
        if silent:
            self._fanout.health.late(asked.address, asked.asked_s)
        if silent and self._elapsed_s(asked) > self._fanout.times.delay_s:
            self._cutter.check_may_be_lost([asked.part], {asked.address: error})
        elif self._cutter.refusing([asked.part]):
            # Its shard is alive, or had hardly any time: the request came late.
            raise error

    # -- what is late --------------------------------------------------------------------------------------------------

    async def _slow(self, asked: _Asked, late: Causes) -> list[Answer]:
        """Return answers to a part that is late: from its shard, or from the other owners."""
        tally, budget = self._fanout.tally, self._fanout.budget
        condition = self._fanout.health.late(asked.address, asked.asked_s)
        late = {**late, asked.address: Unavailable(f"late after {self._elapsed_s(asked) * 1e3:.0f} ms")}
        if not budget.affords or self._fanout.health.most_in_trouble:
            while condition.ejected is None and not asked.answer.done():
                await condition.changed(asked.answer)
        if asked.answer.done():
            return await self._settled(asked, asked.answer.result(), late)
        cut = self._cutter.cut([asked.part.again()], {**self._down, **late}, spare_ejected=True)
        if not cut.parts or self._cutter.refusing(cut.nobody):
            # Nobody else has these keys.
            return await self._settled(asked, await _until_given_up(asked, condition), late)
        # An ejected shard is not hedged but replaced: that moves load, and adds none.
        hedged = condition.ejected is None
        if hedged:
            tally.hedges += 1
            budget.spend(asked.part.positions.size)
            logger.debug("pull hedged", extra={"shard": asked.address.shard, "keys": asked.part.positions.size})
        else:
            tally.retries += 1
        loop = asyncio.get_running_loop()
        own, other = loop.create_task(_until_given_up(asked, condition)), loop.create_task(self._round(cut, late))
        try:
            return await self._first(asked, own, other, late, hedged=hedged)
        finally:
            _drop(own)
            _drop(other)

    async def _first(
        self,
        asked: _Asked,
        own: asyncio.Task[PullReply | RingpullError],
        other: asyncio.Task[list[Answer]],
        late: Causes,
        *,
        hedged: bool,
    ) -> list[Answer]:
        """Return the first whole answer to a part: its own shard's, or the others'."""
        pending: set[asyncio.Task[Any]] = {own, other}
        while pending:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if own.done() and isinstance(own.result(), PullReply):
                break
            if other.done() and other.exception() is None and all(reply is not None for _, reply in other.result()):
                self._fanout.tally.hedges_won += hedged
                return other.result()
        else:
            if other.exception() is None:
                # Keys that only the late shard has are lost, as their tables allow; those of the others are not.
                return other.result()
        return await self._settled(asked, own.result(), late)

    async def _settled(self, asked: _Asked, outcome: PullReply | RingpullError, late: Causes) -> list[Answer]:
        if isinstance(outcome, PullReply):
            return [(asked.part, outcome)]
        return await self._failed([(asked, outcome)], late)

    def _elapsed_s(self, asked: _Asked) -> float:
        return self._fanout.clock() - asked.asked_s


async def _until_given_up(asked: _Asked, condition: Condition) -> PullReply | RingpullError:
    """Return what a late shard says in the end, or why it was given up."""
    while not asked.answer.done():
        if condition.given_up is not None:
            return condition.given_up
        await condition.changed(asked.answer)
    return asked.answer.result()


async def _all(coming: Sequence[Coroutine[Any, Any, list[Answer]]]) -> list[list[Answer]]:
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
    """Cancel a task that nobody waits for any more, whatever comes of it."""
    task.cancel()
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
