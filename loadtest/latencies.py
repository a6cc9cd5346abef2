"""Latencies of a run: HDR histograms of microseconds, and how many requests were sent, answered, failed.

A histogram keeps three digits of every value from 1 us to `HIGHEST_US`, so a 99.9th percentile is as exact as the
median. Histograms of several processes add up. Failed requests are in them too, with the time it took them to fail:
leaving a time-out out would flatter the tail.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hdrh.histogram import HdrHistogram

from ringpull.inference.proto import ringpull_pb2 as pb

HIGHEST_US: Final = 600_000_000
DIGITS: Final = 3

STAGES: Final = ("decode", "features", "queue", "lookup", "dense", "total")
"""Timings of a reply, in the order of a request's way; `total` is the server's own view of all of it."""

PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0)


def empty_histogram() -> HdrHistogram:
    return HdrHistogram(1, HIGHEST_US, DIGITS)


@dataclass(slots=True)
class Latencies:
    """Latencies and counts of one process, or of all of them together."""

    requests: int = 0
    failures: int = 0
    latency: HdrHistogram = field(default_factory=empty_histogram)
    """Time from the send, or where the tool knows better from when the request was due, to the answer."""
    stages: dict[str, HdrHistogram] = field(default_factory=lambda: {name: empty_histogram() for name in STAGES})
    errors: dict[str, int] = field(default_factory=dict)
    """Reason of failed requests, and how often it was given."""
    first_s: float = math.inf
    """Unix time at which the first request began."""
    last_s: float = -math.inf
    """Unix time at which the last one ended."""

    @property
    def seconds(self) -> float:
        """Time from the first request to the end of the last."""
        return max(self.last_s - self.first_s, 0.0)

    def answered(self, took_s: float, stages_us: Mapping[str, int] | None = None) -> None:
        """Count one request that was answered just now."""
        self._ended(took_s)
        for name, value in (stages_us or {}).items():
            _record(self.stages[name], value)

    def failed(self, took_s: float, why: str) -> None:
        """Count one request that was given up just now."""
        self._ended(took_s)
        self.failures += 1
        self.errors[why] = self.errors.get(why, 0) + 1

    def _ended(self, took_s: float) -> None:
        self.requests += 1
        _record(self.latency, took_s * 1e6)
        self.last_s = time.time()
        self.first_s = min(self.first_s, self.last_s - took_s)

    def add(self, other: Latencies) -> None:
        """Add what another process has seen."""
        self.requests += other.requests
        self.failures += other.failures
        self.latency.add(other.latency)
        for name, histogram in other.stages.items():
            self.stages[name].add(histogram)
        for why, count in other.errors.items():
            self.errors[why] = self.errors.get(why, 0) + count
        self.first_s = min(self.first_s, other.first_s)
        self.last_s = max(self.last_s, other.last_s)

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile of the requests' latencies; 0 when there was none."""
        return milliseconds(self.latency, percent)

    def to_message(self) -> dict[str, Any]:
        """Return all of it as plain values that can be sent to another process."""
        return {
            "requests": self.requests,
            "failures": self.failures,
            "latency": self.latency.encode(),
            "stages": {name: histogram.encode() for name, histogram in self.stages.items()},
            "errors": dict(self.errors),
            "first_s": self.first_s,
            "last_s": self.last_s,
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Latencies:
        """Read what `to_message` wrote."""
        return cls(
            requests=message["requests"],
            failures=message["failures"],
            latency=HdrHistogram.decode(message["latency"]),
            stages={name: HdrHistogram.decode(encoded) for name, encoded in message["stages"].items()},
            errors=dict(message["errors"]),
            first_s=message["first_s"],
            last_s=message["last_s"],
        )


def stages_of(reply: bytes) -> dict[str, int]:
    """Return the microseconds by stage of an encoded reply; empty when it has no timings."""
    response = pb.PredictResponse.FromString(reply)
    if not response.HasField("timings"):
        return {}
    return {name: getattr(response.timings, f"{name}_us") for name in STAGES}


def milliseconds(histogram: HdrHistogram, percent: float) -> float:
    """Return a percentile of a histogram of microseconds; 0 when it is empty."""
    return float(histogram.get_value_at_percentile(percent)) / 1000 if histogram.get_total_count() else 0.0


def curve(histogram: HdrHistogram, percents: Iterable[float]) -> list[float]:
    """Return percentiles in milliseconds."""
    return [milliseconds(histogram, percent) for percent in percents]


def _record(histogram: HdrHistogram, value_us: float) -> None:
    histogram.record_value(min(max(round(value_us), 1), HIGHEST_US))
