"""Metrics of calls: how many by model and code, and where the time of answered ones went.

Owned by the event loop. A model is known here once a version of it was loaded: names in requests never become labels,
so whoever sends names that nobody serves adds no series.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.metrics.call_log import Verb
from ringpull.ps.histogram import ROWS, SECONDS, Histogram

STAGES: Final = ("decode", "queue", "features", "lookup", "dense", "encode")
"""Stages of an answered call, in the order of `ModelMetrics.stages`."""

OK: Final = "OK"

NO_MODEL: Final = ""
"""Label of calls that ended before it was known which served model they ask for."""


class ModelMetrics:
    """The distributions of one model, over all its versions."""

    __slots__ = ("batch_rows", "lookup_seconds", "seconds", "stages", "top_k_seconds")

    def __init__(self) -> None:
        self.seconds = Histogram(SECONDS)
        """Time from a call's bytes to its reply's, of answered calls."""
        self.stages = tuple(Histogram(SECONDS) for _ in STAGES)
        self.batch_rows = Histogram(ROWS)
        self.lookup_seconds = Histogram(SECONDS)
        """The same time of answered look-ups of rows by key."""
        self.top_k_seconds = Histogram(SECONDS)
        """The same time of answered calls for the rows with the largest scores."""


class CallMetrics:
    """Counts and distributions of calls, written once a call."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        """Predict calls that ended, by model and gRPC's name of the status code."""
        self.lookups: Counter[tuple[str, str]] = Counter()
        """Look-ups of rows by key that ended, likewise."""
        self.top_ks: Counter[tuple[str, str]] = Counter()
        """Calls for the rows with the largest scores that ended, likewise."""
        self.pushes: Counter[tuple[str, str]] = Counter()
        """Pushes that ended, likewise."""
        self.push_seconds: dict[tuple[str, str], Histogram] = {}
        """The time from a push's bytes to its reply, of acknowledged ones, by model and table."""
        self.callers: Counter[tuple[str, str]] = Counter()
        """Calls that ended, by the name of the caller's token and gRPC's name of the status code."""
        self.over_quota: Counter[tuple[str, str]] = Counter()
        """Calls of these that were refused for a quota, by name and limit."""
        self._models: dict[str, ModelMetrics] = {}

    def serves(self, model: str) -> ModelMetrics:
        """Make a model known, the name of what is loaded here and never of what was asked for."""
        metrics = self._models.get(model)
        if metrics is None:
            metrics = self._models[model] = ModelMetrics()
        return metrics

    def models(self) -> dict[str, ModelMetrics]:
        """Return the distributions of all models that are known."""
        return dict(self._models)

    def answered(self, model: str, times: StageTimes, *, decode_s: float, encode_s: float, total_s: float) -> None:
        """Count a call that is answered; its model is one that is loaded here."""
        self.calls[model, OK] += 1
        metrics = self.serves(model)
        metrics.seconds.observe(total_s)
        decode, queue, features, lookup, dense, encode = metrics.stages
        decode.observe(decode_s)
        queue.observe(times.queue_s)
        features.observe(times.prepare_s)
        lookup.observe(times.lookup_s)
        dense.observe(times.dense_s)
        encode.observe(encode_s)

    def looked_up(self, model: str, total_s: float) -> None:
        """Count a look-up of rows by key that is answered; its model is one that is loaded here."""
        self.lookups[model, OK] += 1
        self.serves(model).lookup_seconds.observe(total_s)

    def ranked(self, model: str, total_s: float) -> None:
        """Count a call for the rows with the largest scores that is answered, likewise."""
        self.top_ks[model, OK] += 1
        self.serves(model).top_k_seconds.observe(total_s)

    def pushed(self, model: str, table: str, total_s: float) -> None:
        """Count a push that is acknowledged; its table is one that takes pushes here."""
        self.serves(model)
        self.pushes[model, OK] += 1
        seconds = self.push_seconds.get((model, table))
        if seconds is None:
            seconds = self.push_seconds[model, table] = Histogram(SECONDS)
        seconds.observe(total_s)

    def called(self, caller: str, code: str, limit: str = "") -> None:
        """Count a call for its caller.

        Args:
            caller: Name of its token: one that is known here.
            limit: Quota that it was refused for; empty: none.
        """
        self.callers[caller, code] += 1
        if limit:
            self.over_quota[caller, limit] += 1

    def failed(self, model: str, code: str, verb: Verb = "predict") -> None:
        """Count a call that ended with an error; a model that is not known is not named."""
        calls = {"predict": self.calls, "lookup": self.lookups, "top_k": self.top_ks, "push": self.pushes}[verb]
        calls[model if model in self._models else NO_MODEL, code] += 1
