"""The load of pushes: writers push rows, each to keys of its own, and readers predict and look rows up meanwhile.

A writer pushes by a pusher with a name. When a push has failed for good it begins anew, as its users are told to:
behind the last number that is known to be acknowledged, with the same rows under the same numbers. Now and then it
sends an old push once more, with its number and rows that nobody must ever see.

One writer pushes through heads, the others straight to shards; what is sent once more goes the other way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull import AsyncClient
from ringpull.inference.client.pusher import AsyncPusher
from ringpull.inference.errors import RingpullError
from ringpull.loadtest.chaos.checked_model import ids_of
from ringpull.loadtest.chaos.oracle import Verdict
from ringpull.loadtest.chaos.push_oracle import IntArray, PushCounts, PushOracle, removes
from ringpull.loadtest.chaos.pushed_model import DIM, FEATURE, HIGH, LOW, PUSHED, TABLE
from ringpull.loadtest.chaos.record import Record
from ringpull.loadtest.generator import why_failed

WRITERS: Final = 3
KEYS: Final = 120
"""Keys of each writer; most of them are not in the exported table."""
READERS: Final = 2
READ_KEYS: Final = 40
PUSH_PAUSE_S: Final = 0.02
READ_PAUSE_S: Final = 0.03
FLUSH_EVERY: Final = 7
REPEAT_EVERY: Final = 3
"""Number of flushes after which a push is sent once more."""
REMEMBERED: Final = 20
"""Acknowledged pushes of a writer of which one may be sent once more."""
AGAIN_S: Final = 0.2
END_TIMEOUT_S: Final = 60.0
"""Time for which what is pushed is tried again at the end, and then the last look."""


class PushedLoad:
    """Pushes and reads from `start` to `stop`.

    Args:
        client: Client that reads, and pushes straight to shards.
        through: Client that pushes through heads.
        record: Receives every read, as if it were a request of the load.
        now_s: Seconds since the load began.
    """

    def __init__(
        self, client: AsyncClient, through: AsyncClient, record: Record, now_s: Callable[[], float], seed: int
    ) -> None:
        self._client, self._through = client, through
        self._record = record
        self._now_s = now_s
        self._seed = seed
        self._stopping = False
        self._writing: list[asyncio.Task[None]] = []
        self._reading: list[asyncio.Task[None]] = []
        self.oracle = PushOracle(WRITERS * KEYS)
        self.counts = PushCounts()

    def start(self) -> None:
        """Begin to push and to read."""
        self._writing = [asyncio.ensure_future(self._write(writer)) for writer in range(WRITERS)]
        self._reading = [asyncio.ensure_future(self._read_on(reader)) for reader in range(READERS)]

    async def stop(self) -> None:
        """End, with everything acknowledged that was pushed, and look at all keys; raises what a task died of.

        Where the deployment is not back, what it has not acknowledged is lost.
        """
        self._stopping = True
        tasks = [*self._writing, *self._reading]
        done, going_on = await asyncio.wait(tasks, timeout=END_TIMEOUT_S)
        for task in going_on:
            task.cancel()
        for task in done:
            task.result()
        self.counts.lost = await self._lost()

    async def _write(self, writer: int) -> None:
        drawn = np.random.default_rng([self._seed, writer, 0x9054])
        pushes = _Pushes(writer, drawn)
        while not self._stopping or pushes.pending:
            try:
                await self._push_on(pushes)
            except RingpullError:
                self.counts.resumed += 1
                await asyncio.sleep(AGAIN_S)

    async def _push_on(self, pushes: _Pushes) -> None:
        """Push until the load ends; raises when a push has failed for good, and leaves what is not acknowledged."""
        client = self._through if pushes.through_heads else self._client
        pusher = client.pusher(PUSHED, writer=pushes.name, number=pushes.acknowledged)
        try:
            await self._push_by(pusher, pushes)
        finally:
            self._acknowledged(pushes, pusher.acknowledged)

    async def _push_by(self, pusher: AsyncPusher, pushes: _Pushes) -> None:
        async with pusher:
            for number in sorted(pushes.pending):  # those of before
                await pusher.push(TABLE, *pushes.rows(number), remove=removes(number), number=number)
            while True:
                await pusher.flush()
                self._acknowledged(pushes, pusher.acknowledged)
                if self._stopping:
                    return
                if pushes.flushed % REPEAT_EVERY == 0:
                    await self._repeat(pushes)
                for number in pushes.more(FLUSH_EVERY):
                    self.oracle.send(pushes.pending[number], number)
                    await pusher.push(TABLE, *pushes.rows(number), remove=removes(number), number=number)
                    self._acknowledged(pushes, pusher.acknowledged)
                    await asyncio.sleep(PUSH_PAUSE_S)

    def _acknowledged(self, pushes: _Pushes, number: int) -> None:
        for each in pushes.acknowledge(number):
            keys = pushes.done[each]
            self.oracle.acknowledge(keys, each)
            self.counts.pushes += 1
            self.counts.rows += len(keys)

    async def _repeat(self, pushes: _Pushes) -> None:
        """Send a push that was acknowledged once more, with rows that must not be seen."""
        if (number := pushes.one_done()) is None:
            return
        keys = pushes.done[number]
        other = self._client if pushes.through_heads else self._through
        async with other.pusher(PUSHED, writer=pushes.name, number=number - 1) as again:
            await again.push(TABLE, ids_of(keys), np.full((len(keys), DIM), -number, np.float32), number=number)
            answer = await again.flush()
        self.counts.repeats += 1
        if answer.rows:
            self.counts.twice += 1

    async def _read_on(self, reader: int) -> None:
        drawn = np.random.default_rng([self._seed, reader, 0x4EAD])
        number = reader
        while not self._stopping:
            number += 1
            await self._read(drawn.choice(WRITERS * KEYS, READ_KEYS, replace=False), by_key=number % 2 == 0)
            await asyncio.sleep(READ_PAUSE_S)

    async def _read(self, keys: IntArray, *, by_key: bool) -> None:
        begin_s = self._now_s()
        floor = self.oracle.acknowledged[keys].copy()
        try:
            shown, filled = await self._shown(keys, by_key=by_key)
        except RingpullError as exc:
            text = f"{PUSHED}: {why_failed(exc)}"
            self._record.ended(begin_s, self._now_s(), Verdict.FAILED, type(exc).__name__, text)
            return
        wrong = self.oracle.wrong(keys, floor, shown)
        if filled:
            wrong &= (shown != 0).any(axis=1)  # what was lost has the default vector
        self.counts.reads += 1
        if not wrong.any():
            self._record.ended(begin_s, self._now_s(), Verdict.FILLED if filled else Verdict.RIGHT)
            return
        self.counts.outside += int(wrong.sum())
        first = int(np.argmax(wrong))
        what = f"key {keys[first]} showed {shown[first]}, not one of {floor[first]} to {self.oracle.sent[keys[first]]}"
        self._record.ended(begin_s, self._now_s(), Verdict.WRONG, "wrong", f"{PUSHED}, by_key={by_key}: {what}")

    async def _shown(self, keys: IntArray, *, by_key: bool) -> tuple[NDArray[np.float32], bool]:
        """Return numbers of the rows of keys, (n, numbers), and whether some were filled in."""
        if by_key:
            answer = await self._client.lookup(PUSHED, TABLE, ids_of(keys))
            rows: NDArray[np.float32] = np.asarray(answer.rows)
            return rows, bool(answer.lost)
        prediction = await self._client.predict(PUSHED, {FEATURE: ids_of(keys)})
        shown = np.stack([prediction.outputs[LOW], prediction.outputs[HIGH]], axis=1)
        return shown, bool(prediction.filled)

    async def _lost(self) -> int:
        """Return how many keys do not have their last push, now that all are acknowledged."""
        keys = np.arange(WRITERS * KEYS)
        until_s = self._now_s() + END_TIMEOUT_S
        while True:
            with suppress(RingpullError):
                shown, filled = await self._shown(keys, by_key=True)
                if not filled:
                    wrong = self.oracle.wrong(keys, self.oracle.acknowledged, shown)
                    return int((wrong | self.oracle.lost()).sum())
            if self._now_s() > until_s:
                return len(keys)
            await asyncio.sleep(AGAIN_S)


class _Pushes:
    """Pushes of one writer: those that are on their way, and those that are acknowledged."""

    def __init__(self, writer: int, drawn: np.random.Generator) -> None:
        self.name = f"chaos-{writer}"
        self.through_heads = writer == 0
        self._writer = writer
        self._drawn = drawn
        self._number = 0
        self.acknowledged = 0
        self.flushed = 0
        self.pending: dict[int, IntArray] = {}
        self.done: dict[int, IntArray] = {}
        """Keys of the last pushes that are acknowledged, by number."""

    def more(self, count: int) -> Iterator[int]:
        """Yield the numbers of so many new pushes, each of them pending from then on."""
        self.flushed += 1
        for _ in range(count):
            self._number += 1
            size = int(self._drawn.choice([1, 12, KEYS]))
            self.pending[self._number] = self._writer * KEYS + self._drawn.choice(KEYS, size, replace=False)
            yield self._number

    def rows(self, number: int) -> tuple[IntArray, NDArray[np.float32] | None]:
        """Return the keys of a pending push and its rows; None: it takes the keys out."""
        keys = self.pending[number]
        return ids_of(keys), None if removes(number) else np.full((len(keys), DIM), number, np.float32)

    def acknowledge(self, number: int) -> list[int]:
        """Take all up to a number for acknowledged; return those that were not yet."""
        newly = [each for each in sorted(self.pending) if each <= number]
        for each in newly:
            self.done[each] = self.pending.pop(each)
        self.acknowledged = max(self.acknowledged, *newly, 0)
        for old in sorted(self.done)[:-REMEMBERED]:
            del self.done[old]
        return newly

    def one_done(self) -> int | None:
        """Return the number of one of the last pushes that are acknowledged; None: there is none."""
        return int(self._drawn.choice(sorted(self.done))) if self.done else None
