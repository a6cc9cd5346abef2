"""Pace of copying: a rest after each step of it while pulls come, so that a machine that is full answers them first.

A move of many small ranges is thousands of messages, each of which takes a millisecond of processor time at both ends.
On a machine without processors to spare every pull waits behind them. So a step (a request to another shard, a block
read from files, rows written into a base) is followed by a rest of a multiple of what it took: the fuller the
machine, the longer. With processors to spare a step takes little, and so do its rests.

A thread of lower priority would do worse: it would be put to sleep while it holds the interpreter's lock, with every
pull behind it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from ringpull.ps.ring import SlotRange
from ringpull.ps.transfer.job import Job
from ringpull.ps.transfer.source import Block, RowSource, TableContent

REST_SHARE: Final = 2.0
"""Length of a rest, as a multiple of the step before it."""

MAX_REST_S: Final = 0.02
"""Longest rest: a step of a block of 1 MiB that takes 10 ms makes 35 MB/s with it."""

MIN_REST_S: Final = 1e-4
"""Rests that are shorter are left out: the kernel would take longer."""

LULL_S: Final = 0.1
"""Time without a pull after which a shard is at leisure: under load, pulls come every few milliseconds."""


class Pace:
    """Rests of one shard's copying."""

    def __init__(
        self, pulled_s: Callable[[], float] = lambda: -math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Give way to pulls.

        Args:
            pulled_s: Returns when the last pull came, in seconds of `clock`.
        """
        self._pulled_s = pulled_s
        self._clock = clock

    def now_s(self) -> float:
        """Return the time, for `rest`."""
        return self._clock()

    def rest(self, began_s: float, job: Job) -> None:
        """Rest after a step that began at this time and has just ended.

        Raises:
            Cancelled: The job was cancelled.
        """
        now_s = self._clock()
        rest_s = min(REST_SHARE * (now_s - began_s), MAX_REST_S)
        if rest_s >= MIN_REST_S and now_s - self._pulled_s() < LULL_S:
            job.pause(rest_s)


class PacedSource:
    """Row source that is asked at a pace. Used by one thread at a time."""

    def __init__(self, source: RowSource, pace: Pace, job: Job) -> None:
        self._source = source
        self._pace = pace
        self._job = job

    def __repr__(self) -> str:
        return repr(self._source)

    def describe(self, slots: SlotRange) -> TableContent:
        began_s = self._pace.now_s()
        content = self._source.describe(slots)
        self._pace.rest(began_s, self._job)
        return content

    def read(self, slots: SlotRange, cursor: int, max_bytes: int) -> Block:
        began_s = self._pace.now_s()
        block = self._source.read(slots, cursor, max_bytes)
        self._pace.rest(began_s, self._job)
        return block
