"""The watch over calls: each is told to the tally, the metrics and the log when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from ringpull.inference.head.batcher import StageTimes
from ringpull.inference.head.metrics.call_log import Call, CallLog
from ringpull.inference.head.metrics.call_metrics import OK, CallMetrics
from ringpull.inference.head.metrics.call_tally import CallTally
from ringpull.inference.head.tokens.quotas import QuotaExceeded
from ringpull.inference.wire.status_codes import status_of


class CallWatch:
    """Passes ended calls on to tally, metrics and log. Owned by the event loop."""

    def __init__(
        self,
        metrics: CallMetrics | None = None,
        log: CallLog | None = None,
        clock: Callable[[], float] = time.monotonic,
        tally: CallTally | None = None,
    ) -> None:
        """Watch calls.

        Args:
            metrics: Metrics to count in; None: none are kept.
            log: Log to write to; None: one with the limits of every head.
            tally: Tally to count in; None: its own.
        """
        self.tally = tally or CallTally()
        self._metrics = metrics
        self._log = log or CallLog(clock)
        self._clock = clock

    def answered(
        self, call: Call, model: str, version: int, times: StageTimes, *, decoded_s: float, scored_s: float
    ) -> None:
        """Take a call whose reply is made now.

        Args:
            model: Model that answered it; a name of the catalog's.
            version: Version that answered it.
            times: Times of its stages in the batcher.
            decoded_s: Time at which it was handed to the batcher.
            scored_s: Time at which its scores were there.
        """
        now = self._clock()
        decode_s, encode_s, total_s = decoded_s - call.started_s, now - scored_s, now - call.started_s
        self.tally.answered(model, version, call.rows, times, decode_s=decode_s, encode_s=encode_s, total_s=total_s)
        if self._metrics is not None:
            self._metrics.answered(model, times, decode_s=decode_s, encode_s=encode_s, total_s=total_s)
            if call.caller:
                self._metrics.called(call.caller, OK)
        self._log.answered(call, version)

    def looked_up(self, call: Call, model: str, version: int, *, decoded_s: float, pulled_s: float) -> None:
        """Take a call for rows, by key or with the largest scores, whose reply is made now.

        Args:
            model: Model whose rows they are; a name of the catalog's.
            version: Version that answered it.
            decoded_s: Time at which the shards were asked.
            pulled_s: Time at which its rows were there.
        """
        now = self._clock()
        decode_s, encode_s, total_s = decoded_s - call.started_s, now - pulled_s, now - call.started_s
        times = StageTimes(0.0, 0.0, pulled_s - decoded_s, 0.0, call.rows)
        self.tally.answered(model, version, call.rows, times, decode_s=decode_s, encode_s=encode_s, total_s=total_s)
        if self._metrics is not None:
            if call.verb == "top_k":
                self._metrics.ranked(model, total_s)
            else:
                self._metrics.looked_up(model, total_s)
            if call.caller:
                self._metrics.called(call.caller, OK)
        self._log.answered(call, version)

    def pushed(self, call: Call, model: str, version: int) -> None:
        """Take a push that is acknowledged now: no request of the tally, which is of what is answered.

        Args:
            model: Model whose rows they are; a name of the catalog's.
            version: Version whose table they were checked against.
        """
        if self._metrics is not None:
            self._metrics.pushed(model, call.table, self._clock() - call.started_s)
            if call.caller:
                self._metrics.called(call.caller, OK)
        self._log.answered(call, version)

    def failed(self, call: Call, error: BaseException) -> None:
        """Take a call that ends with this error."""
        code = status_of(error).grpc
        if isinstance(error, Exception) and call.verb != "push":  # else its caller went away
            self.tally.failed(call.model, call.version, self._clock() - call.started_s)
        if self._metrics is not None:
            self._metrics.failed(call.model, code, call.verb)
            if call.caller:
                self._metrics.called(call.caller, code, error.limit if isinstance(error, QuotaExceeded) else "")
        self._log.failed(call, code, error)
