"""Tally of a head's calls: what each version did since the head began, and what happened in the last 15 minutes.

Written once a call, in 2.4 us on a busy machine of 2 cores; read at every heartbeat. What is read is in the form that
heads report (`ringpull.router.control.head_counts`): numbers that only grow. Names that callers send are no keys here:
a call counts for a model once it is known which loaded version it asks for.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Final

from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.metrics.model_counts import ModelCounts
from ringpull.router.control.head_counts import OVERALL, STEP_S, STEPS, Growing, HeadCounts, Numbers, summed
from ringpull.router.counters import RouterCounters

BOUNDS_S: Final = tuple(1e-4 * 10 ** (place / 8) for place in range(41))
"""Bounds of the buckets of latencies: eight a decade, from 0.1 ms to 10 s, each a third above the last one."""

ANSWERED: Final = 0
FAILED: Final = 1
FIRST_BUCKET: Final = 2
CALL_NUMBERS: Final = FIRST_BUCKET + len(BOUNDS_S) + 1
"""Places of the numbers of a model's step: calls answered, calls failed, and how many of the answered are in each
bucket; how many numbers these are."""

LET_GO_KEPT: Final = 1024
"""Versions let go of whose counts are kept, the last ones, half a MiB at most: one that is loaded again counts on. They
are more than others keep (`ringpull.router.control.head_counts.LET_GO_KEPT`): to whoever remembers its higher numbers a
version that began again would stand still until it had caught up."""

KEYS: Final = 0
MISSING: Final = 1
HERE: Final = 2
TABLE_NUMBERS: Final = 3
"""The same of the step of a table, which is named `MODEL/TABLE`: keys looked up, keys of these that it has not, and
keys that the head answered itself. Of its totals only the latter count: `KEYS` and `MISSING` of keys answered here."""

KeysHere = Mapping[tuple[str, int], Mapping[str, tuple[int, int]]]
"""Keys that a head answered itself, and how many of these were missing: (model, version) -> table -> both."""


@dataclass(slots=True)
class _Sums:
    """Counts of one version as they go: fields as those of `ModelCounts`."""

    calls: int = 0
    failed: int = 0
    rows: int = 0
    batches: int = 0
    total_ns: int = 0
    failed_ns: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    last_ms: int = 0


_NAMES: Final = [each.name for each in fields(ModelCounts)]
assert [each.name for each in fields(_Sums)] == _NAMES


@dataclass(slots=True)
class CallCounts:
    """Predict, Lookup and TopK calls since start. Owned by the event loop."""

    requests: int = 0
    failed: int = 0
    """Calls of these that ended with an error; those whose callers went away count as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """Numbers of a head that are of no model: calls, and what it asked of the shards for them."""

    requests: int = 0
    failed: int = 0
    pulls: int = 0
    messages: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


_OVERALL_NAMES: Final = [each.name for each in fields(Overall)]


class CallTally:
    """Counts of one head. Owned by the event loop."""

    def __init__(
        self,
        routed: Callable[[], RouterCounters] = RouterCounters,
        now: Callable[[], float] = time.time,
        here: Callable[[], KeysHere] = dict,
    ) -> None:
        """Begin with nothing.

        Args:
            routed: Returns what the head has asked of the shards.
            here: Returns what it answered itself.
            now: Seconds since 1970.
        """
        self._routed = routed
        self._now = now
        self._here = here
        self._keys: dict[str, tuple[int, int, int]] = {}
        """`MODEL/TABLE` -> keys looked up, missing and answered here, as of the last look."""
        self._totals: dict[tuple[str, int], _Sums] = {}
        self._let_go: dict[tuple[str, int], _Sums] = {}
        """The same of versions that are not loaded any more, in the order in which they were let go of."""
        self.calls = CallCounts()
        """Calls of any model, and of none. Whoever takes one in counts it as a request."""
        self._recent: dict[tuple[str, int], list[int]] = {}
        self._told = 0

    def __repr__(self) -> str:
        return f"<CallTally of {self.calls}>"

    def loaded(self, model: str, version: int) -> None:
        """Begin to count for a version that is loaded, or count on."""
        self._totals.setdefault((model, version), self._let_go.pop((model, version), _Sums()))

    def let_go(self, model: str, version: int) -> None:
        """Count no more for a version that is not loaded any more."""
        sums = self._totals.pop((model, version), None)
        if sums is not None:
            self._let_go[model, version] = sums
        while len(self._let_go) > LET_GO_KEPT:
            del self._let_go[next(iter(self._let_go))]

    def answered(
        self,
        model: str,
        version: int,
        rows: int,
        times: StageTimes,
        *,
        decode_s: float,
        encode_s: float,
        total_s: float,
    ) -> None:
        """Count a call that is answered now.

        Args:
            rows: Rows that were scored for it, or keys whose rows it asked for.
            times: Times of its stages in the batcher.
        """
        now_s = self._now()
        step = self._step(model, now_s)
        step[ANSWERED] += 1
        step[FIRST_BUCKET + bisect_left(BOUNDS_S, total_s)] += 1
        sums = self._totals.get((model, version))
        if sums is None:  # let go of just now
            return
        sums.calls += 1
        sums.rows += rows
        sums.batches += times.first
        sums.queue_ns += int(times.queue_s * 1e9)
        sums.input_ns += int((decode_s + times.prepare_s + times.lookup_s) * 1e9)
        sums.infer_ns += int(times.dense_s * 1e9)
        sums.output_ns += int(encode_s * 1e9)
        sums.total_ns += int(total_s * 1e9)
        sums.last_ms = int(now_s * 1e3)

    def failed(self, model: str, version: int, took_s: float) -> None:
        """Count a call that ended with an error.

        Args:
            version: Version that it asked for; 0: that was not known yet, and neither is the model.
        """
        self._step(model if version else "", self._now())[FAILED] += 1
        self.calls.failed += 1
        sums = self._totals.get((model, version))
        if sums is not None:
            sums.failed += 1
            sums.failed_ns += int(took_s * 1e9)

    def totals(self) -> dict[tuple[str, int], Numbers]:
        """Return what was counted for every version that is loaded, and overall."""
        return self._totals_with(self._routed())

    def _totals_with(self, routed: RouterCounters) -> dict[tuple[str, int], Numbers]:
        overall = Overall(
            requests=self.calls.requests,
            failed=self.calls.failed,
            pulls=routed.pulls,
            messages=routed.messages,
            sent_bytes=routed.sent_bytes,
            received_bytes=routed.received_bytes,
        )
        totals: dict[tuple[str, int], Numbers] = {OVERALL: astuple(overall)}
        totals |= {key: astuple(sums) for key, sums in self._totals.items()}
        for (model, version), tables in self._here().items():
            totals |= {(f"{model}/{table}", version): keys for table, keys in tables.items()}
        return totals

    def counts(self) -> HeadCounts:
        """Return all that is counted."""
        routed = self._routed()
        self._look_at_tables(routed)
        self._forget_old()
        return HeadCounts(self._totals_with(routed), {key: tuple(step) for key, step in self._recent.items()})

    def news(self) -> HeadCounts:
        """Return what is new since the last heartbeats: all but the older steps, of which one is told at a time.

        So whoever has missed some, as a coordinator that was restarted, has all of them again after a while.
        """
        routed = self._routed()
        self._look_at_tables(routed)
        newest = int(self._now()) // STEP_S
        self._told = (self._told + 1) % STEPS
        steps = (newest, newest - 1, newest - self._told)
        recent = {key: tuple(step) for key, step in self._recent.items() if key[1] in steps}
        return HeadCounts(self._totals_with(routed), recent)

    def _look_at_tables(self, routed: RouterCounters) -> None:
        """Take what was looked up since the last look, half a second ago, for a part of this step."""
        for (model, table), counts in routed.tables.items():
            name = f"{model}/{table}"
            keys, missing, here = self._keys.get(name, (0, 0, 0))
            if counts.keys != keys:
                step = self._step(name, self._now(), TABLE_NUMBERS)
                step[KEYS] += counts.keys - keys
                step[MISSING] += counts.missing - missing
                step[HERE] += counts.here - here
                self._keys[name] = counts.keys, counts.missing, counts.here

    def _step(self, name: str, now_s: float, numbers: int = CALL_NUMBERS) -> list[int]:
        key = (name, int(now_s) // STEP_S)
        step = self._recent.get(key)
        if step is None:
            step = self._recent[key] = [0] * numbers
            self._forget_old()
        return step

    def _forget_old(self) -> None:
        oldest = int(self._now()) // STEP_S - STEPS + 1
        for key in [key for key in self._recent if key[1] < oldest]:
            del self._recent[key]


def model_counts(totals: Growing) -> dict[tuple[str, int], ModelCounts]:
    """Return the counts of each version that one life of a head reports."""
    return {
        key: ModelCounts(**dict(zip(_NAMES, numbers, strict=False)))
        for key, numbers in totals.items()
        if key != OVERALL and "/" not in key[0]
    }


def keys_here(lives: Mapping[str, Growing], table: str, version: int) -> tuple[int, int]:
    """Return how many keys of a table all lives of heads answered themselves, and how many of these were missing.

    Args:
        table: Its name, `MODEL/TABLE`.
    """
    numbers = summed({(table, version): each.get((table, version), ())} for each in lives.values())
    keys, missing = (*numbers.get((table, version), ()), 0, 0)[:2]
    return keys, missing


def overall(totals: Mapping[str, Growing]) -> Overall:
    """Return what all lives of all heads did together."""
    numbers = summed({OVERALL: each[OVERALL]} for each in totals.values() if OVERALL in each).get(OVERALL, ())
    return Overall(**dict(zip(_OVERALL_NAMES, numbers, strict=False)))
