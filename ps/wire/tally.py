"""What a shard's server has been asked, and how long it took: counts and histograms since it was made.

Owned by the server's event loop, which writes it once a request, when the answer leaves; any thread may read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from ringpull.ps.histogram import SECONDS, Histogram
from ringpull.ps.wire.messages import (
    DescribeRequest,
    ErrorReply,
    PullRequest,
    RangePullRequest,
    Reply,
    Request,
    StatisticsRequest,
)

VERBS: Final[Mapping[type[Request], str]] = {
    PullRequest: "pull",
    RangePullRequest: "range_pull",
    StatisticsRequest: "statistics",
    DescribeRequest: "describe",
}

OK: Final = "OK"


class ServerTally:
    """Requests by verb and code; of pulls also what they waited, what they took, and bytes."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        """(verb, code): `OK`, or the code of the error (`ps.wire.error_codes`)."""
        self.queue_s = Histogram(SECONDS)
        """From the last byte of a pull to a thread that takes it."""
        self.pull_s = Histogram(SECONDS)
        """Of pulls that were answered with rows: the look-up in its thread."""
        self.received_bytes: Counter[str] = Counter()
        """By verb: arrays of requests."""
        self.sent_bytes: Counter[str] = Counter()
        """By verb: whole frames of replies."""

    def answered(
        self, request: Request, reply: Reply, *, queue_s: float, took_s: float, received_bytes: int, sent_bytes: int
    ) -> None:
        """Count a request that was taken."""
        verb = VERBS[type(request)]
        code = reply.code if isinstance(reply, ErrorReply) else OK
        self.requests[verb, code] += 1
        self.received_bytes[verb] += received_bytes
        self.sent_bytes[verb] += sent_bytes
        if verb == "pull":
            self.queue_s.observe(queue_s)
            if code == OK:
                self.pull_s.observe(took_s)

    def refused(self, request: Request, reply: ErrorReply, *, received_bytes: int) -> None:
        """Count a request that was not taken: it waited for nothing."""
        verb = VERBS[type(request)]
        self.requests[verb, reply.code] += 1
        self.received_bytes[verb] += received_bytes
