"""The metrics of a shard's pushes, read from its own counts at every scrape; see `deploy/METRICS.md`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.registry import Collector

from ringpull.ps.live.live_shard import LiveShard
from ringpull.ps.live.push_tally import OUTCOMES
from ringpull.ps.metric_families import ALONE, Family, counter, gauge, histogram


class PushCollector(Collector):
    """Pushes of a shard, as families; `collect` may be called from any thread."""

    def __init__(self, live: LiveShard) -> None:
        self._live = live

    def collect(self) -> Iterator[Family]:
        """Return all families as of now."""
        live, tally = self._live, self._live.tally
        outcomes = {(outcome,): tally.pushes[outcome] for outcome in OUTCOMES}
        yield counter("ringpull_shard_pushes_total", "Pushes by what became of them.", ("outcome",), outcomes)
        keys = {("put",): tally.rows - tally.new_keys, ("new",): tally.new_keys}
        yield counter("ringpull_shard_pushed_keys_total", "Keys that were put or removed.", ("kind",), keys)
        yield histogram(
            "ringpull_shard_push_visible_seconds",
            "From a push's last byte until look-ups see it and it is durable.",
            (),
            {ALONE: tally.visible_s},
        )
        yield histogram(
            "ringpull_shard_push_commit_seconds",
            "What a group of pushes took, its sync included.",
            (),
            {ALONE: tally.commit_s},
        )
        yield gauge("ringpull_shard_log_bytes", "Bytes of the log of pushes.", (), {ALONE: live.log_bytes})
        rows = {(table.name.model, table.name.table): table.rows for table in live.tables.all()}
        yield gauge("ringpull_shard_newer_rows", "Keys with a pushed row.", ("model", "table"), rows)
        memory = {
            ("arena",): live.tables.budget.used_bytes,
            ("directory",): live.tables.memory_bytes - live.tables.budget.used_bytes,
        }
        yield gauge("ringpull_shard_newer_bytes", "Memory of newer rows.", ("kind",), memory)
        yield counter(
            "ringpull_shard_replayed_rows_total",
            "Rows that were read from the log when the shard began.",
            (),
            {ALONE: tally.replayed_rows},
        )
        yield counter("ringpull_shard_folds_total", "Rounds of folding.", (), {ALONE: live.folds})

    def describe(self) -> list[Family]:
        """Return nothing, as `ShardCollector` does."""
        return []
