"""The metrics of a head, read from its own counts at every scrape; `deploy/METRICS.md` says what each one means.

Label values are names of what is loaded here, of tokens that are known here and of fixed sets, never of what a request
asks for: there are as many series as those call for, whatever is sent. Sums over versions are labelled by model alone,
so that publishing adds none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.registry import Collector

from ringpull.inference.head.admission import Admission
from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.leadership import LeaderView
from ringpull.inference.head.metrics.call_metrics import STAGES, CallMetrics
from ringpull.ps.metric_families import ALONE, Family, counter, gauge, histogram
from ringpull.router.client import Router
from ringpull.router.counters import RouterCounters

TABLE = ("model", "table")


class HeadCollector(Collector):
    """Families of a head's metrics. To be collected on the head's event loop, which owns all it reads."""

    def __init__(
        self,
        catalog: Catalog,
        router: Router,
        calls: CallMetrics,
        admission: Admission,
        leader: Callable[[], LeaderView | None] = lambda: None,
    ) -> None:
        self._catalog = catalog
        self._router = router
        self._calls = calls
        self._admission = admission
        self._leader = leader

    def collect(self) -> Iterator[Family]:
        """Return all families as of now."""
        yield from self._of_calls()
        yield from self._of_lookups()
        yield from self._of_top_ks()
        yield from self._of_pushes()
        yield from self._of_callers()
        yield from self._of_admission()
        yield from self._of_versions()
        yield from self._of_leader()
        yield from self._of_degrading()
        yield from _of_router(self._router.counters())

    def describe(self) -> list[Family]:
        """Return nothing: a registry would else collect when it is made, before there is anything to read."""
        return []

    def _of_calls(self) -> Iterator[Family]:
        models = self._calls.models()
        yield counter(
            "ringpull_requests_total", "Predict calls that ended.", ("model", "code"), dict(self._calls.calls)
        )
        yield histogram(
            "ringpull_request_seconds",
            "From a Predict call's bytes to its reply, of answered calls.",
            ("model",),
            {(model,): each.seconds for model, each in models.items()},
        )
        yield histogram(
            "ringpull_stage_seconds",
            "Where that time went, by stage.",
            ("model", "stage"),
            {
                (model, stage): seconds
                for model, each in models.items()
                for stage, seconds in zip(STAGES, each.stages, strict=True)
            },
        )
        yield histogram(
            "ringpull_batch_rows",
            "Rows of micro-batches.",
            ("model",),
            {(model,): each.batch_rows for model, each in models.items()},
        )

    def _of_lookups(self) -> Iterator[Family]:
        yield counter(
            "ringpull_lookups_total",
            "Look-ups of rows by key that ended.",
            ("model", "code"),
            dict(self._calls.lookups),
        )
        yield histogram(
            "ringpull_lookup_seconds",
            "From such a call's bytes to its reply, of answered calls.",
            ("model",),
            {(model,): each.lookup_seconds for model, each in self._calls.models().items()},
        )

    def _of_top_ks(self) -> Iterator[Family]:
        yield counter(
            "ringpull_top_k_total",
            "Calls for the rows with the largest scores that ended.",
            ("model", "code"),
            dict(self._calls.top_ks),
        )
        yield histogram(
            "ringpull_top_k_seconds",
            "From such a call's bytes to its reply, of answered calls.",
            ("model",),
            {(model,): each.top_k_seconds for model, each in self._calls.models().items()},
        )

    def _of_pushes(self) -> Iterator[Family]:
        yield counter("ringpull_pushes_total", "Pushes that ended.", ("model", "code"), dict(self._calls.pushes))
        yield histogram(
            "ringpull_push_seconds",
            "From a push's bytes to its acknowledgement.",
            TABLE,
            dict(self._calls.push_seconds),
        )

    def _of_callers(self) -> Iterator[Family]:
        if not self._calls.callers:
            return  # as where no tokens are asked for
        yield counter(
            "ringpull_token_requests_total",
            "Predict, Lookup, TopK and Push calls that ended, by the caller's token.",
            ("token", "code"),
            dict(self._calls.callers),
        )
        yield counter(
            "ringpull_quota_refused_total",
            "Of these, those refused because the token had had what it may have.",
            ("token", "limit"),
            dict(self._calls.over_quota),
        )

    def _of_admission(self) -> Iterator[Family]:
        admission = self._admission
        yield counter(
            "ringpull_admission_refused_total",
            "Predict, Lookup and TopK calls refused before they were decoded.",
            (),
            {ALONE: admission.refused},
        )
        yield gauge(
            "ringpull_admission_queue_seconds",
            "How long a call that comes now is predicted to wait for others.",
            (),
            {ALONE: admission.queue_s()},
        )
        yield gauge(
            "ringpull_admission_pressure",
            "That over the time that it may take; from 1 on some are refused.",
            (),
            {ALONE: admission.pressure()},
        )
        yield gauge(
            "ringpull_admission_in_flight_bytes",
            "Bytes of the Predict, Lookup and TopK calls that were let in and have not ended.",
            (),
            {ALONE: admission.in_flight_bytes},
        )

    def _of_degrading(self) -> Iterator[Family]:
        declared = [each for each in self._catalog.loaded() if each.degrader.steps]
        yield gauge(
            "ringpull_degrade_level",
            "How many of a version's degrade steps are in force.",
            ("model", "version"),
            {(each.key[0], str(each.key[1])): each.degrader.level for each in declared},
        )
        yield counter(
            "ringpull_degraded_replies_total",
            "Replies that a degrade step changed.",
            ("model", "version", "step"),
            {
                (each.key[0], str(each.key[1]), step): count
                for each in declared
                for step, count in each.degrader.replies.items()
            },
        )

    def _of_leader(self) -> Iterator[Family]:
        leader = self._leader()
        yield gauge(
            "ringpull_led",
            "1 while the coordinator is heard, 0 when nobody leads.",
            (),
            {} if leader is None else {ALONE: int(leader.leads)},
        )
        yield gauge(
            "ringpull_leader_heard_seconds",
            "How long ago the coordinator was heard.",
            (),
            {} if leader is None else {ALONE: leader.heard_s},
        )

    def _of_versions(self) -> Iterator[Family]:
        yield gauge("ringpull_epoch", "Epoch of the shard map.", (), {ALONE: self._router.epoch})
        yield gauge(
            "ringpull_live_version",
            "The version that answers requests that name none.",
            ("model",),
            {(each.key[0],): each.key[1] for each in self._catalog.live()},
        )
        yield gauge(
            "ringpull_version_open",
            "1 for every version that is loaded.",
            ("model", "version"),
            {(each.key[0], str(each.key[1])): 1 for each in self._catalog.loaded()},
        )


def _of_router(counted: RouterCounters) -> Iterator[Family]:
    def total(name: str, documentation: str, value: int) -> Family:
        return counter(name, documentation, (), {ALONE: value})

    yield total("ringpull_pulls_total", "Pulls, each of a micro-batch.", counted.pulls)
    yield total("ringpull_pulls_failed_total", "Pulls that failed or were given up.", counted.failed)
    yield total("ringpull_pull_messages_total", "Pull requests sent to shards.", counted.messages)
    yield total("ringpull_pull_sent_bytes_total", "Bytes of the arrays of these.", counted.sent_bytes)
    yield total("ringpull_pull_received_bytes_total", "Bytes of the arrays of replies.", counted.received_bytes)
    yield total(
        "ringpull_pull_not_owner_total",
        "Pull requests refused for an older shard map, routed again.",
        counted.not_owner,
    )
    yield total("ringpull_pull_unavailable_total", "Pull requests that a shard did not answer.", counted.unavailable)
    yield total("ringpull_pull_retries_total", "Parts of pulls asked anew, of another shard or map.", counted.retries)
    yield total("ringpull_pull_hedges_total", "Late parts of pulls asked of other owners too.", counted.hedges)
    yield total("ringpull_pull_hedges_won_total", "Of these, those answered first by them.", counted.hedges_won)
    yield total("ringpull_ejections_total", "Times that a sick shard was left out of the choice.", counted.ejections)
    yield total(
        "ringpull_local_refused_total",
        "Parts of pulls that local files were to answer and did not, so that shards were asked.",
        counted.here_refused,
    )
    keys = {table: counts.keys for table, counts in counted.tables.items()}
    missing = {table: counts.missing for table, counts in counted.tables.items()}
    lost = {table: counts.lost for table, counts in counted.tables.items()}
    yield counter("ringpull_keys_total", "Keys looked up.", TABLE, keys)
    here = {table: counts.here for table, counts in counted.tables.items()}
    yield counter("ringpull_local_keys_total", "Keys that this head answered itself, from local files.", TABLE, here)
    yield counter("ringpull_missing_keys_total", "Keys looked up that the table does not have.", TABLE, missing)
    yield counter(
        "ringpull_lost_keys_total", "Keys that no live shard could answer for, given default vectors.", TABLE, lost
    )
