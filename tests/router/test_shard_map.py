"""Shard maps: what they refuse, what they say of replicas, and that they survive JSON."""

from __future__ import annotations

import json

import pytest

from ringpull.ps.errors import InvalidInput
from ringpull.ps.ring import Ring
from ringpull.ps.spec import ALL
from ringpull.router.shard_map import ShardAddress, ShardMap


def addresses(count: int) -> tuple[ShardAddress, ...]:
    return tuple(ShardAddress(shard, "127.0.0.1", 9000 + shard) for shard in range(count))


def test_effective_replicas_are_those_wanted_while_there_are_shards():
    replicas = {("m", "two"): 2, ("m", "five"): 5, ("m", "all"): ALL}
    shard_map = ShardMap(1, addresses(3), Ring.even(range(3), 5), replicas)
    assert [shard_map.effective_replicas("m", table) for table in ("one", "two", "five", "all")] == [1, 2, 3, 3]
    assert [shard_map.wanted_replicas("m", table) for table in ("one", "two", "five", "all")] == [1, 2, 5, ALL]


def test_a_map_survives_json():
    shard_map = ShardMap(7, addresses(4), Ring.even(range(4), 2), {("m", "t"): 2, ("m", "u"): ALL})
    assert ShardMap.from_dict(json.loads(json.dumps(shard_map.to_dict()))) == shard_map


def test_a_map_says_whose_it_is_and_how_old():
    shards = (ShardAddress(0, "127.0.0.1", 9000, "one life"), ShardAddress(1, "127.0.0.1", 9001))
    before = ShardMap(6, addresses(2), Ring.even(range(2)), {}, deployment="d", term=2)
    shard_map = ShardMap(7, shards, Ring.even(range(2)), {}, before, "d", 3)
    assert ShardMap.from_dict(json.loads(json.dumps(shard_map.to_dict()))) == shard_map
    assert shard_map.edition == (3, 7) > before.edition
    assert ShardAddress(0, "127.0.0.1", 9000, "another") != shards[0], "on the same port, and yet another"


def test_a_map_of_an_earlier_build_is_anybodys():
    fields = {
        "epoch": 4,
        "shards": [[0, "host", 1], [1, "host", 2, "a life"]],
        "ring": Ring.even(range(2)).to_dict(),
        "replicas": [],
        "previous": None,
    }
    read = ShardMap.from_dict(fields)
    assert (read.deployment, read.term, read.edition) == ("", 0, (0, 4))
    assert [each.incarnation for each in read.shards] == ["", "a life"]
    assert read.to_dict() == fields


def test_addresses_and_ring_must_name_the_same_shards_in_order():
    with pytest.raises(InvalidInput, match=r"shard map 3: addresses of shards \(0, 1\), a ring of shards \(0, 1, 2\)"):
        ShardMap(3, addresses(2), Ring.even(range(3)), {})
    with pytest.raises(InvalidInput, match="addresses of shards"):
        ShardMap(3, addresses(2)[::-1], Ring.even(range(2)), {})


@pytest.mark.parametrize("replicas", [0, -1, "some", 1.5, True])
def test_replicas_are_a_count_or_all(replicas):
    with pytest.raises(InvalidInput, match=r"m/t has .* replicas"):
        ShardMap(3, addresses(1), Ring.even([0]), {("m", "t"): replicas})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epoch": None}, "shard map: "),
        ({"shards": [[0, "host"]]}, "shard map: "),
        ({"shards": [[0, "host", 1, "a life", 0]]}, "shard map: "),
        ({"term": None}, "shard map: "),
        ({"shards": []}, "addresses of shards"),
        ({"ring": {}}, "'ranges' is missing"),
        ({"replicas": [["m", "t", 0]]}, "0 replicas"),
    ],
)
def test_fields_that_are_wrong_are_refused(change, reason):
    fields = ShardMap(1, addresses(1), Ring.even([0]), {}).to_dict() | change
    with pytest.raises(InvalidInput, match=reason):
        ShardMap.from_dict(fields)


def test_fields_that_are_missing_are_named():
    with pytest.raises(InvalidInput, match="'ring' is missing"):
        ShardMap.from_dict({"epoch": 1, "shards": []})
