"""The metrics of what is limited before it is work: calls that are being received, and HTTP connections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.registry import Collector

from ringpull.inference.head.frontends.http.limits import ConnectionCounts
from ringpull.inference.head.receiving import REASONS, Receiving
from ringpull.ps.metric_families import ALONE, Family, counter, gauge


class LimitsCollector(Collector):
    """Families of these metrics. To be collected on the head's event loop, which owns all it reads."""

    def __init__(self, receiving: Sequence[Receiving], connections: ConnectionCounts) -> None:
        """Take what is told of.

        Args:
            receiving: Calls that are being received, by each way in.
            connections: HTTP connections.
        """
        self._receiving = receiving
        self._connections = connections

    def collect(self) -> Iterator[Family]:
        """Return all families as of now."""
        yield gauge(
            "ringpull_receiving_calls",
            "Calls that were begun and whose message is not there yet.",
            (),
            {ALONE: sum(len(each) for each in self._receiving)},
        )
        yield gauge(
            "ringpull_overdue_calls",
            "Of these, those whose message should be there: they count as no work.",
            (),
            {ALONE: sum(each.overdue for each in self._receiving)},
        )
        yield counter(
            "ringpull_receiving_ended_total",
            "Calls that were ended before their message was there.",
            ("reason",),
            {(reason,): sum(each.ended[reason] for each in self._receiving) for reason in REASONS},
        )
        yield gauge("ringpull_http_connections", "Open HTTP connections.", (), {ALONE: self._connections.open})
        yield counter(
            "ringpull_http_ended_total",
            "HTTP connections that were ended by a limit, or as what came is no HTTP.",
            ("reason",),
            {(reason,): count for reason, count in self._connections.ended.items()},
        )

    def describe(self) -> list[Family]:
        """Return nothing: a registry would else collect when it is made, before there is anything to read."""
        return []
