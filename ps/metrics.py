"""The metrics of a shard, read from its own counts at every scrape; `deploy/METRICS.md` says what each one means.

Label values come from what is open here and from fixed sets, never from a request. What is labelled by version ends
with the version.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.registry import Collector

from ringpull.ps.metric_families import ALONE, Family, counter, gauge, histogram
from ringpull.ps.open_versions import ServedTable
from ringpull.ps.scrub import Scrubber
from ringpull.ps.shard import Shard
from ringpull.ps.wire.server import ShardServer
from ringpull.ps.wire.tally import ServerTally

TABLE = ("model", "version", "table")


class ShardCollector(Collector):
    """A shard and its server, as families; `collect` may be called from any thread."""

    def __init__(self, shard: Shard, server: ShardServer, tally: ServerTally) -> None:
        self._shard = shard
        self._server = server
        self._tally = tally

    def collect(self) -> Iterator[Family]:
        """Return all families as of now."""
        yield from self._of_requests()
        yield from self._of_tables()

    def describe(self) -> list[Family]:
        """Return nothing: a registry would else collect when it is made, before there is anything to read."""
        return []

    def _of_requests(self) -> Iterator[Family]:
        tally, server = self._tally, self._server
        yield counter("ringpull_shard_requests_total", "Requests answered.", ("verb", "code"), dict(tally.requests))
        yield histogram(
            "ringpull_shard_queue_seconds",
            "What a pull waited for a look-up thread.",
            (),
            {ALONE: tally.queue_s},
        )
        yield histogram(
            "ringpull_shard_pull_seconds",
            "What the look-up of an answered pull took in its thread.",
            (),
            {ALONE: tally.pull_s},
        )
        yield counter(
            "ringpull_shard_received_bytes_total",
            "Bytes of the arrays of requests.",
            ("verb",),
            {(verb,): count for verb, count in dict(tally.received_bytes).items()},
        )
        yield counter(
            "ringpull_shard_sent_bytes_total",
            "Bytes of the frames of replies.",
            ("verb",),
            {(verb,): count for verb, count in dict(tally.sent_bytes).items()},
        )
        yield gauge("ringpull_shard_connections", "Connections that are open.", (), {ALONE: server.connections})
        yield counter(
            "ringpull_shard_handshakes_refused_total",
            "Connections over TLS that came to nothing: strangers, plain text, no end in time.",
            (),
            {ALONE: server.handshakes_refused},
        )
        yield gauge(
            "ringpull_shard_requests_in_flight", "Requests taken in and not answered.", (), {ALONE: server.in_flight}
        )

    def _of_tables(self) -> Iterator[Family]:
        statistics = self._shard.statistics()
        tables = {(table.model, str(table.version), table.table): table for table in statistics.tables}
        yield gauge("ringpull_shard_info", "1; which shard this is.", ("shard",), {(str(statistics.shard),): 1})
        yield gauge("ringpull_shard_epoch", "Epoch of the newest assignment.", (), {ALONE: statistics.epoch})
        yield gauge("ringpull_shard_slots", "Slots owned at rank 0, of 65,536.", (), {ALONE: statistics.slots})
        yield gauge(
            "ringpull_shard_version_open",
            "1 for every version whose tables are open.",
            ("model", "version"),
            {(model, version): 1 for model, version, _ in tables},
        )
        yield counter(
            "ringpull_shard_keys_total",
            "Keys looked up.",
            TABLE,
            {labels: table.keys for labels, table in tables.items()},
        )
        yield counter(
            "ringpull_shard_missing_keys_total",
            "Keys looked up that the table does not have.",
            TABLE,
            {labels: table.missing for labels, table in tables.items()},
        )
        yield gauge(
            "ringpull_shard_rows",
            "Rows in the owned ranges.",
            TABLE,
            {each: table.rows for each, table in tables.items()},
        )
        yield gauge(
            "ringpull_shard_table_bytes",
            "Bytes of these rows and their keys.",
            TABLE,
            {labels: table.bytes for labels, table in tables.items()},
        )
        yield gauge(
            "ringpull_shard_table_deltas",
            "Deltas that an open table is made of, besides its base; to compact is due above 8.",
            ("model", "version", "table"),
            {key: served.deltas for key, served in self._open()},
        )
        yield gauge(
            "ringpull_shard_table_delta_share",
            "Rows that deltas brought, as a share of the base's; to compact is due above 0.3.",
            ("model", "version", "table"),
            {key: served.delta_share for key, served in self._open()},
        )
        yield gauge(
            "ringpull_shard_table_newer_share",
            "Rows that deltas brought or that were pushed, as a share of the base's; to compact is due above 0.3.",
            ("model", "version", "table"),
            {key: served.newer_share for key, served in self._open()},
        )

    def _open(self) -> Iterator[tuple[tuple[str, str, str], ServedTable]]:
        for (model, version, table), served in self._shard.served_tables():
            yield (model, str(version), table), served


class ScrubCollector(Collector):
    """A shard's scrub, as families; `collect` may be called from any thread."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber

    def collect(self) -> Iterator[Family]:
        """Return all families as of now."""
        scrubber, damage = self._scrubber, self._scrubber.damage
        yield counter(
            "ringpull_shard_scrubbed_bytes_total",
            "Bytes of rows that the scrub has held against their checksums.",
            (),
            {ALONE: scrubber.bytes},
        )
        yield counter(
            "ringpull_shard_scrub_rounds_total",
            "Times that the scrub has looked at everything that is served.",
            (),
            {ALONE: scrubber.rounds},
        )
        yield counter(
            "ringpull_shard_damaged_blocks_total",
            "Blocks of served tables that were found damaged.",
            (),
            {ALONE: damage.counts.damaged},
        )
        yield counter(
            "ringpull_shard_repaired_blocks_total",
            "Of these, those that are whole again, or were copied anew.",
            (),
            {ALONE: damage.counts.repaired},
        )
        yield gauge(
            "ringpull_shard_quarantined_blocks",
            "Damaged blocks whose slots are not answered for now.",
            (),
            {ALONE: damage.blocks},
        )

    def describe(self) -> list[Family]:
        """Return nothing, as `ShardCollector` does."""
        return []
