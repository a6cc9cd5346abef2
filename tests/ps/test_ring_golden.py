"""Rings are, bit for bit, those that an earlier build made: deployments serve by them."""

from __future__ import annotations

import hashlib
import random

import pytest

from ringpull.ps.ring import Ring

HISTORIES = [
    "92a9ba8c6997c99b",
    "14fc729d8018d067",
    "29eea82cd5c1645b",
    "3b317a1e93b0ff9d",
    "d218fe87f772d450",
    "67feb1675ecac3a2",
    "7f7d73bd7c792a0f",
    "bbfdfcd382426903",
]
"""Digest of the rings of each history, by its seed, as they were made when each step made a ring."""

EVEN = {(1024, 1): "9d1c65d481ba48d2", (300, 2): "5ddcc11ff03d7d43"}
GROWN = {1: "c9972cd5c83d1f5f"}


def digest(ring: Ring) -> str:
    return hashlib.sha256(ring.owner_table(ring.ranks).tobytes() + bytes([ring.ranks])).hexdigest()[:16]


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(len(HISTORIES)))
def test_histories_of_joins_leaves_and_ranks(seed: int) -> None:
    rng = random.Random(seed)
    ranks, shards = rng.randint(1, 3), rng.randint(1, 40)
    ring = Ring.even(rng.sample(range(200), shards), ranks)
    seen = hashlib.sha256(digest(ring).encode())
    for _ in range(3):
        if rng.randrange(4) == 0:
            ring = ring.with_ranks(rng.randint(1, 4))
        else:
            ring = ring.with_shards(rng.sample(range(200), rng.randint(1, 40)))
        seen.update(digest(ring).encode())
    assert seen.hexdigest()[:16] == HISTORIES[seed]


@pytest.mark.medium
@pytest.mark.parametrize(("shards", "ranks"), list(EVEN))
def test_even_rings_of_many_shards(shards: int, ranks: int) -> None:
    assert digest(Ring.even(range(shards), ranks)) == EVEN[shards, ranks]


@pytest.mark.medium
@pytest.mark.parametrize("ranks", list(GROWN))
def test_few_shards_grow_to_many(ranks: int) -> None:
    assert digest(Ring.even(range(4), ranks).with_shards(range(160))) == GROWN[ranks]
