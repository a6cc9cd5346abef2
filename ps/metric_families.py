"""Metric families of Prometheus, made of counts that exist anyway: nothing is kept twice, a scrape reads them.

Each function takes the samples as label values -> value; the label values in the order of the names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isinf
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ringpull import __version__
from ringpull.ps.histogram import Histogram

Labels = TypeVar("Labels", bound=tuple[str, ...])
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

ALONE: Final = ()
"""The labels of a family that has none."""


def counter(name: str, documentation: str, names: Sequence[str], values: Mapping[Labels, float]) -> CounterMetricFamily:
    """Return counts that only grow; a name ends in `_total`."""
    family = CounterMetricFamily(name, documentation, labels=names)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def gauge(name: str, documentation: str, names: Sequence[str], values: Mapping[Labels, float]) -> GaugeMetricFamily:
    """Return values as of now."""
    family = GaugeMetricFamily(name, documentation, labels=names)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def histogram(
    name: str, documentation: str, names: Sequence[str], values: Mapping[Labels, Histogram]
) -> HistogramMetricFamily:
    """Return distributions."""
    family = HistogramMetricFamily(name, documentation, labels=names)
    for labels, each in values.items():
        buckets = [("+Inf" if isinf(bound) else repr(bound), count) for bound, count in each.cumulative()]
        family.add_metric(labels, buckets, each.sum)
    return family


def registry_of(collectors: Iterable[Collector]) -> CollectorRegistry:
    """Return a registry of these collectors and of the process: its version, memory, descriptors, processor time.

    One per member: a process may have several, as tests do.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Gauge("ringpull_build_info", "1; which ringpull this is.", ["version"], registry=registry).labels(__version__).set(
        1
    )
    for each in collectors:
        registry.register(each)
    return registry
