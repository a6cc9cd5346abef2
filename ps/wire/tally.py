"""The tally of a shard's server: counts and histograms of its requests since it was made.

Written once a request, when the answer leaves, by the server's event loop or its push thread; any thread may read it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Final

from ringpull.ps.histogram import SECONDS, Histogram
from ringpull.ps.pull_messages import PullRequest
from ringpull.ps.top_k_messages import TopKRequest
from ringpull.ps.wire.files_messages import FilesRequest
from ringpull.ps.wire.frames import Kind
from ringpull.ps.wire.messages import DescribeRequest, ErrorReply, RangePullRequest, Reply, Request, StatisticsRequest
from ringpull.ps.wire.newest_messages import NewestRequest
from ringpull.ps.wire.push_messages import PushRequest

VERBS: Final[Mapping[type[Request], str]] = {
    PullRequest: "pull",
    RangePullRequest: "range_pull",
    StatisticsRequest: "statistics",
    DescribeRequest: "describe",
    TopKRequest: "top_k",
    FilesRequest: "files",
    PushRequest: "push",
    NewestRequest: "newest",
}

_VERBS_OF_KINDS: Final[Mapping[Kind, str]] = {
    Kind.PULL: "pull",
    Kind.RANGE_PULL: "range_pull",
    Kind.STATISTICS: "statistics",
    Kind.DESCRIBE: "describe",
    Kind.HELLO: "hello",
    Kind.TOP_K: "top_k",
    Kind.CANCEL: "cancel",
    Kind.PUSH: "push",
    Kind.NEWEST: "newest",
}

OK: Final = "OK"


class ServerTally:
    """Requests by verb and code, bytes by verb, and for pulls the times they waited and took."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        """Requests by (verb, code): `OK`, or the code of the error (`ringpull.ps.wire.error_codes`)."""
        self.queue_s = Histogram(SECONDS)
        """Time from the last byte of a pull to a thread that takes it."""
        self.pull_s = Histogram(SECONDS)
        """Time of the look-up in its thread, for pulls that were answered with rows."""
        self.received_bytes: Counter[str] = Counter()
        """Bytes of arrays of requests, by verb."""
        self.sent_bytes: Counter[str] = Counter()
        """Bytes of frames of replies, by verb."""
        self._writing = threading.Lock()

    def answered(
        self, request: Request, reply: Reply, *, queue_s: float, took_s: float, received_bytes: int, sent_bytes: int
    ) -> None:
        """Count a request that was taken."""
        verb = VERBS[type(request)]
        code = reply.code if isinstance(reply, ErrorReply) else OK
        with self._writing:
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
        with self._writing:
            self.requests[verb, reply.code] += 1
            self.received_bytes[verb] += received_bytes

    def refused_unread(self, kind: Kind, reply: ErrorReply) -> None:
        """Count a request that was not taken before it had arrived."""
        with self._writing:
            self.requests[_VERBS_OF_KINDS[kind], reply.code] += 1
