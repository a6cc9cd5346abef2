"""Calls of the last 15 minutes as the proto's `RecentStatus`, and look-ups of the last one, from numbers by step.

Percentiles come from histograms that were summed over heads. They are those of the calls' own latencies within a
bucket, whose bounds are a third apart; within it they are taken to lie evenly on a logarithmic scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ringpull.inference.head.metrics.call_tally import (
    ANSWERED,
    BOUNDS_S,
    CALL_NUMBERS,
    FAILED,
    FIRST_BUCKET,
    HERE,
    KEYS,
    MISSING,
    TABLE_NUMBERS,
)
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.router.control.head_counts import STEP_S, STEPS, Growing, Numbers

RATE_STEPS: Final = 5
"""Steps over which rates are taken: the one under way and 60 s before it."""

GROWTH: Final = BOUNDS_S[1] / BOUNDS_S[0]


def recent_statuses(recent: Growing, models: Iterable[str], now_s: float) -> list[pb.RecentStatus]:
    """Return the calls of all models together, then those of each.

    Args:
        recent: Numbers by model and step, over all heads; tables are left out.
        models: Models to tell of, whether or not they were called.
        now_s: Seconds since 1970.
    """
    steps = range(int(now_s) // STEP_S - STEPS + 1, int(now_s) // STEP_S + 1)
    called = sorted({*models, *(name for name, _ in recent if name and "/" not in name)})
    by_model = {model: [recent.get((model, step), ()) for step in steps] for model in ["", *called]}
    every = [_sum(at_once, CALL_NUMBERS) for at_once in zip(*by_model.values(), strict=True)]
    del by_model[""]
    return [_recent(model, numbers, steps, now_s) for model, numbers in {"": every, **by_model}.items()]


def keys_per_s(recent: Growing, table: str, now_s: float) -> tuple[float, float, float]:
    """Return how many keys of a table are looked up a second, and how many of these are missing and are answered by
    heads themselves, over the last minute.

    Args:
        recent: Numbers by `MODEL/TABLE` and step, over all heads.
        table: Its name, `MODEL/TABLE`.
        now_s: Seconds since 1970.
    """
    newest = int(now_s) // STEP_S
    numbers = _sum([recent.get((table, newest - back), ()) for back in range(RATE_STEPS)], TABLE_NUMBERS)
    seconds = _rate_seconds(now_s)
    return numbers[KEYS] / seconds, numbers[MISSING] / seconds, numbers[HERE] / seconds


def percentile_s(buckets: Sequence[int], share: float) -> float:
    """Return the time below which this share of the values lies, in seconds; 0 when there are none.

    Args:
        buckets: Number of values in each bucket of `BOUNDS_S`, the last one what is over all.
    """
    before, wanted = 0, share * sum(buckets)
    for place, count in enumerate(buckets):
        if count and before + count >= wanted:
            if place == len(BOUNDS_S):
                return BOUNDS_S[-1]
            return float(BOUNDS_S[place] * GROWTH ** ((wanted - before) / count - 1))
        before += count
    return 0.0


def _recent(model: str, numbers: Sequence[Numbers], steps: range, now_s: float) -> pb.RecentStatus:
    filled = [_sum([each], CALL_NUMBERS) for each in numbers]
    sums, lately = _sum(filled, CALL_NUMBERS), _sum(filled[-RATE_STEPS:], CALL_NUMBERS)
    p50_ms, p99_ms = _percentiles_ms(sums)
    by_step = [_percentiles_ms(each) for each in filled]
    return pb.RecentStatus(
        model=model,
        requests=sums[ANSWERED] + sums[FAILED],
        failed=sums[FAILED],
        requests_per_s=(lately[ANSWERED] + lately[FAILED]) / _rate_seconds(now_s),
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        begin_s=steps[0] * STEP_S,
        step_s=STEP_S,
        last_step_s=now_s % STEP_S,
        steps=pb.StepsStatus(
            requests=[each[ANSWERED] + each[FAILED] for each in filled],
            failed=[each[FAILED] for each in filled],
            p50_ms=[p50 for p50, _ in by_step],
            p99_ms=[p99 for _, p99 in by_step],
        ),
    )


def _percentiles_ms(numbers: Numbers) -> tuple[float, float]:
    if not numbers[ANSWERED]:
        return 0.0, 0.0
    buckets = numbers[FIRST_BUCKET:CALL_NUMBERS]
    return 1e3 * percentile_s(buckets, 0.5), 1e3 * percentile_s(buckets, 0.99)


def _rate_seconds(now_s: float) -> float:
    return (RATE_STEPS - 1) * STEP_S + max(1.0, now_s % STEP_S)


def _sum(numbers: Sequence[Numbers], places: int) -> Numbers:
    """Return sums by place, of which there are `places`, whatever a head of another build counts."""
    filled = [each for each in numbers if each]
    if len(filled) == 1 and len(filled[0]) == places:
        return filled[0]
    return tuple(sum(each[place] for each in filled if place < len(each)) for place in range(places))
