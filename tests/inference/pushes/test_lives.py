"""Lives of a writer that end at every step, with what is out at some shards alone: nothing is lost or doubled.

Without threads and clocks: a life is a `PushProgress`, whose messages come to shards in any order.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest

from ringpull.inference.client import earlier_life, lanes
from ringpull.inference.client.lanes import Lanes
from ringpull.inference.client.push_progress import PushProgress
from ringpull.inference.push_answer import PushAnswer
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.inference.wire.push_codec import PushTarget
from ringpull.ps.errors import RingpullError, StaleLineage, StaleNumber
from ringpull.ps.hashing import SLOT_SHIFT, positions_of
from tests.inference.pushes.fake_shards import FakeShards, expected

Push = tuple[str, np.ndarray, np.ndarray]


@dataclass
class Given:
    """Pushes that a writer is to make, by their numbers."""

    numbers: list[int]
    pushes: list[Push]

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int, jumps: list[int]) -> Given:
        pushes = []
        for place in range(count):
            keys = np.unique(rng.integers(0, 40, int(rng.choice([1, 1, 1, 2, 3, 12]))))
            rows = np.stack([np.full(len(keys), place), keys], axis=1).astype(np.float32)  # each row once
            pushes.append((str(rng.choice(["user"] * 9 + ["item"])), keys, rows))
        return cls(np.cumsum(rng.choice(jumps, count)).tolist(), pushes)


def live(
    shards: FakeShards, given: Given, begin: int, rng: np.random.Generator, *, resumes: bool, steps: int | None
) -> tuple[int, int, list[tuple[int, ...]]]:
    """Push from behind a number on; return what was acknowledged, the steps taken, and the pushes of each message.

    Args:
        steps: Steps after which it ends, and what is out comes to some of the shards; None: it goes on to the end.
    """
    life = PushProgress(PushTarget(model="ranker", table=""), "trainer-3", begin, resumes=resumes)
    life.lanes = Lanes(life.lanes.number, whole=not resumes, piece_bytes=600)
    left = [(number, push) for number, push in zip(given.numbers, given.pushes, strict=True) if number > begin]
    out, taken, sent, eager = [], 0, [], rng.choice([0.3, 0.6, 0.9])
    while left or not life.lanes.idle:
        if taken == steps:
            for _, message in out:
                shards.down = {shard for shard in range(3) if rng.random() < 0.5}
                with suppress(RingpullError):
                    shards.send(message)
            shards.down = set()
            break
        taken += 1
        if left and (not out or rng.random() < eager):
            number, (table, keys, rows) = left.pop(0)
            life.add(table, KeyedRows.of(keys, rows), number)
        else:
            outgoing, message = out.pop(int(rng.integers(len(out))))
            ended: PushAnswer | RingpullError
            try:
                ended = shards.send(message)
            except RingpullError as exc:
                ended = exc
            life.ended(outgoing, ended)
            life.check()
        while (found := life.next()) is not None:
            out.append(found)
            sent.append(found[0].pushes)
        spread = {number for outgoing, _ in out for number in outgoing.pushes}
        assert not spread or given.numbers.index(max(spread)) - given.numbers.index(min(spread)) < lanes.SPAN
    return life.lanes.acknowledged, taken, sent


def span(monkeypatch: pytest.MonkeyPatch, pushes: int) -> None:
    for each in (lanes, earlier_life):
        monkeypatch.setattr(each, "SPAN", pushes)


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("jumps", [[1], [1, 1, 1, 400, 90_000]], ids=["by-one", "with-gaps"])
@pytest.mark.parametrize("most", [3, 1_024])
def test_lives_that_end_at_any_step_lose_and_double_nothing(
    monkeypatch: pytest.MonkeyPatch, seed: int, jumps: list[int], most: int
) -> None:
    span(monkeypatch, most)
    given = Given.drawn(np.random.default_rng(seed), 14, jumps)
    last = live(FakeShards(3), given, 0, np.random.default_rng(seed), resumes=False, steps=None)[1]
    for steps in range(last + 1):
        rng = np.random.default_rng([seed, steps])
        shards, saved, resumes = FakeShards(3), 0, False
        for ends in (steps, int(rng.integers(0, last)), int(rng.integers(0, last)), None):
            known = live(shards, given, saved, rng, resumes=resumes, steps=ends)[0]
            # A checkpoint remembers less than it might.
            saved, resumes = int(rng.choice([saved, *(each for each in given.numbers if saved <= each <= known)])), True
        assert shards.rows == expected(*given.pushes), steps
        assert len(shards.applied) == len(set(shards.applied)), steps


@pytest.mark.parametrize("by", [1, 5_000], ids=["by-one", "offsets"])
def test_a_life_joins_pushes_again_beyond_all_that_an_earlier_one_can_have_sent(
    monkeypatch: pytest.MonkeyPatch, by: int
) -> None:
    span(monkeypatch, 20)
    rng = np.random.default_rng(1)
    given = Given.drawn(rng, 120, [by])
    *_, sent = live(FakeShards(3), given, 0, rng, resumes=True, steps=None)
    assert {len(each) for each in sent if each[-1] <= 20 * by} == {1}
    assert max(map(len, sent)) > 1


@pytest.mark.parametrize("resumes", [False, True])
def test_pushes_with_offsets_for_numbers_are_out_side_by_side(resumes: bool) -> None:
    life = PushProgress(PushTarget(model="ranker", table="", lineage="0" * 15 + "7"), "trainer-3", 0, resumes=resumes)
    for place in range(8):
        life.add("user", KeyedRows.of(keys_at(0, place % 4), np.ones((1, 2), np.float32)), 5_000 * (place + 1))
    out = list(iter(life.next, None))
    if not resumes:  # the first message is of all that waits
        assert len(out[0][0].pushes) == 8
        return
    assert sorted(found[0].pushes for found in out) == [(5_000,), (10_000,), (15_000,), (20_000,)]


def keys_at(shard: int, lane: int, count: int = 1) -> list[int]:
    """Return keys of two shards that are in a slot of one lane."""
    keys = np.arange(1, 100_000, dtype=np.uint64)
    slots = (positions_of(keys) >> np.uint64(SLOT_SHIFT)).astype(int)
    found = keys[(slots >> 15 == shard) & (slots % 4 == lane)]
    return [int(key) for key in found[:count]]


def test_one_shard_is_new_and_another_has_what_came_later() -> None:
    """Pushes 2 to 4 are one message of the first life, which shard 0 applied, as shard 1 was dead."""
    shards = FakeShards()
    (here, more), (there,) = keys_at(0, 3, 2), keys_at(1, 3)
    pushes = [("user", [key], np.full((1, 2), place, np.float32)) for place, key in enumerate((there, here, more), 2)]
    first = PushProgress(PushTarget(model="ranker", table=""), "trainer-3", 1)
    for number, (table, keys, rows) in enumerate(pushes, 2):
        first.add(table, KeyedRows.of(keys, rows), number)
    found = first.next()
    assert found is not None
    assert found[0].pushes == (2, 3, 4)
    shards.down = {1}
    with pytest.raises(RingpullError):
        shards.send(found[1])
    shards.down = set()
    shards.rows["user", here] = b"of another writer, since"
    second = PushProgress(PushTarget(model="ranker", table=""), "trainer-3", 1, resumes=True)
    for number, (table, keys, rows) in enumerate(pushes, 2):
        second.add(table, KeyedRows.of(keys, rows), number)
    while (found := second.next()) is not None:
        try:
            second.ended(found[0], shards.send(found[1]))
        except StaleNumber as exc:
            second.ended(found[0], exc)
    second.check()
    assert second.lanes.acknowledged == 4
    assert shards.rows["user", here] == b"of another writer, since"
    assert {key for _, key, _ in shards.applied} == {there, here, more}
    assert len(shards.applied) == 3


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize("acknowledged", range(5))
def test_rows_of_a_push_are_all_for_the_lineage_of_its_first_message(acknowledged: int, *, resumes: bool) -> None:
    """Another lineage goes live after any number of messages: half of a push in each is not acknowledged."""
    shards = FakeShards()
    life = PushProgress(PushTarget(model="ranker", table=""), 77, 0, resumes=resumes)
    life.add("user", KeyedRows.of(np.arange(40_000), np.ones((40_000, 16), np.float32)), 1)
    out = [life.next()]
    assert life.next() is None
    lineages = set()
    for _ in range(acknowledged):
        found = out.pop()
        assert found is not None
        answer = shards.send(found[1])
        lineages.add(answer.lineage)
        life.ended(found[0], answer)
        while (more := life.next()) is not None:
            out.insert(0, more)
    shards.lineage = "0" * 15 + "8"
    while out and (found := out.pop()) is not None:
        ended: PushAnswer | RingpullError
        try:
            ended = shards.send(found[1])
            lineages.add(ended.lineage)
        except RingpullError as exc:
            ended = exc
        life.ended(found[0], ended)
        while (more := life.next()) is not None:
            out.append(more)
    assert len(lineages) == 1
    assert isinstance(life.error, StaleLineage) is (0 < acknowledged < 4)
    assert life.lanes.idle is (life.error is None)
