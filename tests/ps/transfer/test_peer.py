"""A shard as a source: it is asked what a range is no more often than the answer may have changed."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from ringpull.ps.errors import OtherContent
from ringpull.ps.hashing import SLOTS
from ringpull.ps.placement import RangeSource
from ringpull.ps.ring import SlotRange
from ringpull.ps.shard import Shard
from ringpull.ps.transfer.peer import Peers, PeerSource
from ringpull.ps.wire.messages import DescribeRequest, RangePullRequest
from tests.ps.opened import open_shard
from tests.ps.tables import MODEL, VERSION, WrittenTable, write_table
from tests.ps.transfer.shards import DirectPeers

RANGE = SlotRange(100, 60_000)


class Counting(DirectPeers):
    """Peers that count how often a shard was asked for a description."""

    def __init__(self, shard: Shard) -> None:
        super().__init__({0: shard})
        self.describes = 0

    def request(self, source: RangeSource, message: DescribeRequest | RangePullRequest) -> object:
        self.describes += isinstance(message, DescribeRequest)
        return super().request(source, message)

    def source(self, identity: int) -> PeerSource:
        where = RangeSource(SlotRange(0, SLOTS), "peer", 0)
        return PeerSource(cast("Peers", self), where, MODEL, VERSION, "users", identity=identity)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> WrittenTable:
    return write_table(tmp_path_factory.mktemp("tables") / "users", rows=3000, dim=8)


@pytest.fixture
def peers(users: WrittenTable) -> Counting:
    return Counting(open_shard(users))


@pytest.fixture
def identity(peers: Counting) -> int:
    return peers.source(0).describe(RANGE).identity


def test_a_range_of_a_known_content_is_described_once(peers: Counting, identity: int) -> None:
    peers.describes, source = 0, peers.source(identity)
    first = source.describe(RANGE)
    assert source.describe(RANGE) == first == peers.source(0).describe(RANGE)
    assert peers.describes == 2, "one of each source"
    assert source.describe(SlotRange(0, 100)).rows < first.rows


def test_what_may_be_any_content_is_described_each_time(peers: Counting) -> None:
    peers.describes, source = 0, peers.source(0)
    assert source.describe(RANGE) == source.describe(RANGE)
    assert peers.describes == 2


def test_rows_of_another_content_are_refused_though_it_was_described(
    peers: Counting, identity: int, tmp_path: Path
) -> None:
    source = peers.source(identity)
    source.describe(RANGE)
    other = write_table(tmp_path / "users", rows=3000, dim=8, seed=2)
    peers.shards = {0: open_shard(other)}
    with pytest.raises(OtherContent):
        source.read(RANGE, 0, 1 << 20)
