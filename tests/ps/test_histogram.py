"""The histogram counts as Prometheus's own does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as PrometheusHistogram

from ringpull.ps.histogram import ROWS, SECONDS, Histogram

BOUNDS = (0.5, 1.0, 2.5)


@given(st.lists(st.floats(-1, 4) | st.sampled_from(BOUNDS), max_size=50))
def test_it_counts_as_prometheus_does(values: list[float]) -> None:
    theirs = PrometheusHistogram("it", "it", buckets=BOUNDS, registry=CollectorRegistry())
    ours = Histogram(BOUNDS)
    for value in values:
        theirs.observe(value)
        ours.observe(value)
    (family,) = theirs.collect()
    buckets = [sample.value for sample in family.samples if sample.name == "it_bucket"]
    assert [count for _, count in ours.cumulative()] == buckets
    assert [bound for bound, _ in ours.cumulative()] == [*BOUNDS, float("inf")]
    assert ours.count == len(values)
    assert ours.sum == pytest.approx(sum(values))


@pytest.mark.parametrize("bounds", [SECONDS, ROWS])
def test_bounds_ascend(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))
