"""Job: a request that a shard has taken in, from its last byte to its answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from ringpull.ps.errors import ConnectionLost, DeadlineExceeded, RequestCancelled
from ringpull.ps.wire.messages import Reply, Request

if TYPE_CHECKING:
    from ringpull.ps.service_rate import Work
    from ringpull.ps.wire.served import ServedConnection

Pieces = list[bytes | memoryview]


class Job:
    """Request that was taken."""

    __slots__ = (
        "cancelled",
        "connection",
        "deadline_s",
        "overhead",
        "received_s",
        "request",
        "request_id",
        "size",
        "work",
    )

    def __init__(
        self,
        connection: ServedConnection,
        request_id: int,
        request: Request,
        received_s: float,
        deadline_s: float,
        size: int,
        overhead: int,
    ) -> None:
        """Take a request in.

        Args:
            size: Bytes of its payload.
            overhead: Memory that it takes besides.
        """
        self.connection = connection
        self.request_id = request_id
        self.request = request
        self.received_s = received_s
        self.deadline_s = deadline_s
        self.size = size
        self.overhead = overhead
        self.cancelled = False
        self.work: Work | None = None
        """Work of a pull or a scan, as admission counts it; None for other verbs."""

    def check_wanted(self) -> None:
        """Check, from any thread, that somebody still waits for the answer.

        Raises:
            DeadlineExceeded: The time is up.
            RequestCancelled: The caller has said that it does not wait.
            ConnectionLost: The connection has ended.
        """
        if time.monotonic() >= self.deadline_s:
            raise DeadlineExceeded("the request's time was up before all rows were looked at")
        if self.cancelled:
            raise RequestCancelled("the caller does not wait any more")
        if self.connection.gone:
            raise ConnectionLost("the caller is gone")


class Answer(NamedTuple):
    """Answer on its way from a thread to the connection of its caller."""

    job: Job
    pieces: Pieces
    reply: Reply | None
    """None: nothing was looked up, because its caller does not read."""
    queue_s: float
    took_s: float
    sent_bytes: int
