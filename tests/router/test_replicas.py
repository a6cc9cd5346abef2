"""Numbers of owners, as routing reads them of a shard map."""

from __future__ import annotations

from collections.abc import Mapping

from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL
from ringpull.router.replicas import _KINDS_KEPT, Placement
from ringpull.router.shard_map import ShardAddress, ShardMap

MODEL = "model"


def placement(epoch: int, wanted: Mapping[str, int | str], shards: int = 3, ranks: int = 3) -> Placement:
    addresses = tuple(ShardAddress(shard, "host", shard) for shard in range(shards))
    replicas = {(MODEL, table): each for table, each in wanted.items()}
    return Placement(ShardMap(epoch, addresses, Ring.even(range(shards), ranks), replicas))


def test_numbers_of_owners_are_those_of_the_map() -> None:
    tables = ("two", "all", "other", "two", "many")
    first = placement(1, {"two": 2, "all": ALL, "many": 9})
    for _ in range(2):
        assert first.replicas(MODEL, tables).tolist() == [2, 0, 1, 2, 3]
        assert first.replicas("another", tables).tolist() == [1] * 5
    after = placement(2, {"two": 1, "other": ALL, "many": 9}, ranks=2)
    assert after.replicas(MODEL, tables).tolist() == [1, 1, 0, 1, 2]
    assert first.replicas(MODEL, tables).tolist() == [2, 0, 1, 2, 3]


def test_of_many_kinds_of_requests_few_are_kept_and_all_are_right() -> None:
    wanted = {f"table{at}": 1 + at % 3 for at in range(2 * _KINDS_KEPT)}
    made = placement(1, wanted)
    for _ in range(2):
        for table, owners in wanted.items():
            assert made.replicas(MODEL, (table, "other")).tolist() == [owners, 1]
            assert len(made._known) <= _KINDS_KEPT
