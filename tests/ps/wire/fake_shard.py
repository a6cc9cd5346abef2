"""A shard that answers every key with itself, or waits at a gate, or fails, as the request's model says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from ringpull.ps.pull_messages import Op, PullReply, PullRequest, SubLookup
from ringpull.ps.top_k_messages import TopKReply, TopKRequest
from ringpull.ps.wire.files_messages import FilesReply, FilesRequest
from ringpull.ps.wire.messages import (
    DescribeReply,
    DescribeRequest,
    RangePullReply,
    RangePullRequest,
    ShardStatistics,
    range_checksum,
)
from ringpull.ps.wire.newest_messages import NewestReply, NewestRequest
from tests.patience import PATIENCE_S

ECHO, GATED = "echo", "gated"


def soon() -> float:
    return time.monotonic() + PATIENCE_S


def pull_of(*keys: int, model: str = ECHO) -> PullRequest:
    lookups = (SubLookup("table", Op.ROWS, len(keys), 0, False),)
    positions = np.array(keys, np.uint64)
    return PullRequest(model, 1, 1, lookups, positions, np.zeros(0, np.uint32), np.zeros(0, np.float32))


def top_k_of(count: int = 1, model: str = ECHO) -> TopKRequest:
    """Return a request of so many queries of one number, about all slots."""
    nothing = np.zeros(2 * count, np.uint32)
    ranges, vectors = np.array([0, 65_536], np.uint32), np.arange(count, dtype=np.float32)
    return TopKRequest(model, 1, 1, "table", 1, False, count, False, vectors, ranges, nothing, np.zeros(0, np.uint64))


class FakeShard:
    """`ringpull.ps.wire.server.Verbs` without tables."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        """Set when a pull has reached the gate."""
        self.threads: set[str] = set()
        self.pulls = 0
        self.statistics_asked = 0
        self.failures: dict[str, Exception] = {}
        """Model -> what a pull of it raises."""
        self.values_per_key = 1
        self.scan_cost = 0.0

    def pull(self, request: PullRequest) -> PullReply:
        self.pulls += 1
        self.threads.add(threading.current_thread().name)
        if request.model in self.failures:
            raise self.failures[request.model]
        if request.model == GATED:
            self.entered.set()
            self.gate.wait()
        values = np.repeat(request.positions.astype(np.float32), self.values_per_key)
        return PullReply(values, np.zeros(len(request.lookups), np.uint32), np.ones(len(request.positions), np.uint8))

    def range_pull(self, request: RangePullRequest) -> RangePullReply:
        positions = np.arange(request.begin, request.end, dtype=np.uint64)
        rows = positions.view(np.uint8)
        return RangePullReply(positions, rows, range_checksum(positions, rows), len(positions), len(positions))

    def describe(self, request: DescribeRequest) -> DescribeReply:
        return DescribeReply(np.frombuffer(request.table.encode(), np.uint8), request.begin, request.end)

    def files(self, request: FilesRequest) -> FilesReply:
        return FilesReply("machine", 1, ((request.model, request.version),))

    def top_k(self, request: TopKRequest, go_on: Callable[[], None]) -> TopKReply:
        """Answer each query with itself; at the gate it waits until that is open or it may not go on."""
        self.threads.add(threading.current_thread().name)
        if request.model == GATED:
            self.entered.set()
            while not self.gate.wait(0.01):
                go_on()
        counts = np.ones(request.count, np.uint32)
        return TopKReply(counts, np.arange(request.count, dtype=np.uint64), request.vectors[: request.count])

    def top_k_cost(self, request: TopKRequest) -> float:
        return self.scan_cost

    def statistics(self) -> ShardStatistics:
        self.statistics_asked += 1
        return ShardStatistics(shard=4, epoch=2, pid=1, slots=65_536, requests=self.pulls, tables=())

    def newest(self, request: NewestRequest) -> NewestReply:
        """Answer with the positions that are asked for: those of the first slot, by their rows."""
        self.threads.add(threading.current_thread().name)
        positions = np.arange(request.first, request.first + 3, dtype=np.uint64)
        rows = positions.view(np.uint8)
        return NewestReply(0, False, range_checksum(positions, rows, np.empty(0, np.uint32)), positions, rows)
