"""Timings by stage as a caller of Predict is told them."""

from __future__ import annotations

import time

from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.prediction import Timings


def timings_of(times: StageTimes, started_s: float, decoded_s: float) -> Timings:
    """Return the timings of a call whose scores are there.

    Args:
        started_s: Time at which it began, on the monotonic clock.
        decoded_s: Time at which it was handed to the batcher.
    """
    return Timings(
        decode_us=_us(decoded_s - started_s),
        features_us=_us(times.prepare_s),
        queue_us=_us(times.queue_s),
        lookup_us=_us(times.lookup_s),
        dense_us=_us(times.dense_s),
        total_us=_us(time.monotonic() - started_s),
        batch_rows=times.batch_rows,
    )


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
