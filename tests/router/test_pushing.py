"""Pushes of a router: one frame a shard, again under the same number, and the worst of what went wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import (
    ConnectionLost,
    CorruptData,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotFound,
    NotOwner,
    RingpullError,
    StaleLineage,
    StaleNumber,
    Unavailable,
    UnmetCondition,
)
from ringpull.ps.hashing import SLOT_SHIFT, positions_of
from ringpull.ps.pull_messages import PullReply
from ringpull.ps.ring import Ring
from ringpull.ps.wire.messages import Reply, Request
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from ringpull.router.client import Router
from ringpull.router.pushed_rows import PushedRows
from ringpull.router.shard_map import ShardAddress, ShardMap


@dataclass
class Shards:
    """Shards that note what is pushed to them, and fail when they are told to."""

    maps: list[ShardMap] = field(default_factory=list)
    pushes: list[tuple[int, PushRequest]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    """Shards that were asked for their last stamp."""
    silent: frozenset[int] = frozenset()
    """Those that do not say it: the last one never answers, others fail."""
    failures: dict[int, list[RingpullError]] = field(default_factory=dict)
    closed = False

    def router(self) -> Router:
        router = Router(self.connect, refresh=self.refresh)
        router.update(self.maps[0])
        return router

    async def refresh(self) -> ShardMap:
        return self.maps[-1]

    async def connect(self, address: ShardAddress) -> Line:
        return Line(self, address.shard)


@dataclass
class Line:
    shards: Shards
    shard: int
    closed: bool = False

    async def request(self, message: Request, *, deadline_s: float) -> Reply:
        if not isinstance(message, PushRequest):
            return PullReply(np.empty(0, np.float32), np.empty(0, np.uint32), np.empty(0, np.uint8))
        if not message.positions.size:
            self.shards.asked.append(self.shard)
            if self.shard in self.shards.silent:
                if self.shard == max(self.shards.silent):
                    await asyncio.sleep(deadline_s)
                raise Unavailable("it is away")
            return PushReply(100 + self.shard, 0, 0, 0)
        self.shards.pushes.append((self.shard, message))
        failures = self.shards.failures.get(self.shard, [])
        if failures:
            error = failures.pop(0)
            self.closed = isinstance(error, ConnectionLost)
            raise error
        return PushReply(100 + self.shard, len(message.positions), 1, 0)

    async def close(self) -> None:
        self.closed = True


def map_of(epoch: int, ids: list[int]) -> ShardMap:
    return ShardMap(epoch, tuple(ShardAddress(each, "fake", each) for each in ids), Ring.even(ids), {})


KEYS = np.arange(1000, dtype=np.uint64)


def pushed(**changes: object) -> PushedRows:
    rows = (np.arange(4000) % 251).astype(np.uint8).reshape(1000, 4)
    fields: dict[str, object] = {
        "model": "m", "table": "t", "lineage": 9, "writer": 5, "number": 7, "keys": KEYS, "rows": rows
    }  # fmt: skip
    return PushedRows(**{**fields, **changes})  # type: ignore[arg-type]


def run(shards: Shards, push: PushedRows, deadline_s: float = 20.0) -> object:
    async def push_once() -> object:
        router = shards.router()
        try:
            return await router.push(push, deadline_s=time.monotonic() + deadline_s)
        finally:
            await router.close()

    return asyncio.run(push_once())


def rows_by_key(shards: Shards) -> dict[int, bytes]:
    """Return what was pushed last of each position, and check that it came to the owner of its slot."""
    found: dict[int, bytes] = {}
    for _, request in shards.pushes:
        size = 0 if not request.positions.size else request.rows.size // request.positions.size
        for at, position in enumerate(request.positions.tolist()):
            found[position] = request.rows[at * size : (at + 1) * size].tobytes()
    return found


def test_each_shard_gets_its_slots_in_one_frame_and_stamps_are_joined() -> None:
    shards = Shards([map_of(3, [0, 1, 2])])
    result = run(shards, push := pushed())
    assert (result.rows, result.new_keys, dict(result.stamp)) == (1000, 3, {0: 100, 1: 101, 2: 102})  # type: ignore[attr-defined]
    assert sorted(shard for shard, _ in shards.pushes) == [0, 1, 2]
    owners = shards.maps[0].ring.owner_table(1)[:, 0]
    for shard, request in shards.pushes:
        assert (owners[(request.positions >> np.uint64(SLOT_SHIFT)).astype(int)] == shard).all()
        assert (request.epoch, request.lineage, request.writer, request.number) == (3, 9, 5, 7)
    rows = push.rows
    assert isinstance(rows, np.ndarray)
    assert rows_by_key(shards) == {
        int(position): row.tobytes() for position, row in zip(positions_of(KEYS), rows, strict=True)
    }


def keys_of(shards: Shards, shard: int) -> np.ndarray:
    owners = shards.maps[0].ring.owner_table(1)[:, 0]
    return KEYS[owners[(positions_of(KEYS) >> np.uint64(SLOT_SHIFT)).astype(int)] == shard]


def test_shards_without_a_part_say_their_last_stamp() -> None:
    shards = Shards([map_of(3, [0, 1, 2])])
    keys = keys_of(shards, 1)[:1]
    result = run(shards, pushed(keys=keys, rows=np.zeros((1, 4), np.uint8)))
    assert dict(result.stamp) == {0: 100, 1: 101, 2: 102}  # type: ignore[attr-defined]
    assert (result.rows, result.new_keys, sorted(shards.asked)) == (1, 1, [0, 2])  # type: ignore[attr-defined]


def test_a_push_does_without_the_stamps_of_shards_that_are_away_and_asks_them_no_more() -> None:
    shards = Shards([map_of(3, [0, 1, 2, 3])], silent=frozenset([2, 3]))
    push = pushed(keys=keys_of(shards, 1)[:1], rows=np.zeros((1, 4), np.uint8))

    async def push_twice() -> None:
        router = shards.router()
        for asked in ([0, 2, 3], [0, 0, 2, 3]):
            result = await router.push(push, deadline_s=time.monotonic() + 20)
            assert dict(result.stamp) == {0: 100, 1: 101}
            assert sorted(shards.asked) == asked
        await router.close()

    asyncio.run(push_twice())


@pytest.mark.parametrize("ids", [[4], [0, 4]])
def test_rows_of_one_shard_are_sent_as_they_are_and_not_copied(ids: list[int]) -> None:
    shards = Shards([map_of(1, ids)])
    owners = shards.maps[0].ring.owner_table(1)[:, 0]
    keys = KEYS[owners[(positions_of(KEYS) >> np.uint64(SLOT_SHIFT)).astype(int)] == 4]
    rows = (np.arange(4 * len(keys)) % 251).astype(np.uint8).reshape(-1, 4)
    run(shards, pushed(keys=keys, rows=rows))
    run(shards, pushed(keys=keys[:2], rows=(of_bytes := BytesRows.of([b"abc", b""]))))
    (shard, request), (other, other_request) = shards.pushes
    assert (shard, other) == (4, 4)
    np.testing.assert_array_equal(request.positions, positions_of(keys))
    np.testing.assert_array_equal(request.rows, rows.reshape(-1))
    assert np.shares_memory(request.rows, rows)
    assert request.lengths.size == 0
    assert np.shares_memory(other_request.rows, of_bytes.data)
    assert other_request.lengths.tolist() == [3, 0]


def test_when_all_parts_failed_all_rows_are_sent_again_in_their_order() -> None:
    shards = Shards([map_of(1, [0, 1]), map_of(2, [0, 1, 2])])
    shards.failures = {0: [NotOwner("moved")], 1: [NotOwner("moved")]}
    push = pushed(keys=np.tile(KEYS[:100], 2), rows=np.arange(200, dtype=np.uint8).reshape(200, 1))
    result = run(shards, push)
    assert result.rows == 200  # type: ignore[attr-defined]
    shards.pushes = [each for each in shards.pushes if each[1].epoch == 2]
    assert rows_by_key(shards) == {
        int(position): bytes([100 + at]) for at, position in enumerate(positions_of(KEYS[:100]))
    }


def test_of_equal_keys_the_last_stays_the_last() -> None:
    shards = Shards([map_of(1, [0, 1])])
    keys = np.tile(KEYS[:10], 3)
    run(shards, pushed(keys=keys, rows=np.arange(30, dtype=np.uint8).reshape(30, 1)))
    assert [rows_by_key(shards)[int(each)] for each in positions_of(KEYS[:10])] == [
        bytes([20 + at]) for at in range(10)
    ]


@pytest.mark.parametrize("ids", [[0], [0, 1]])
def test_rows_of_bytes_and_removals(ids: list[int]) -> None:
    shards = Shards([map_of(1, ids)])
    rows = [b"x" * (key % 5) + str(key).encode() for key in range(1000)]
    run(shards, pushed(rows=BytesRows.of(rows)))
    for _, request in shards.pushes:
        ends = np.cumsum(request.lengths)
        for position, begin, end in zip(request.positions.tolist(), ends - request.lengths, ends, strict=True):
            key = int(np.flatnonzero(positions_of(KEYS) == np.uint64(position))[0])
            assert request.rows[begin:end].tobytes() == rows[key]
    shards.pushes.clear()
    run(shards, pushed(remove=True, rows=np.empty((0, 4), np.uint8)))
    assert all(request.remove and not request.rows.size for _, request in shards.pushes)
    assert run(shards, pushed(keys=KEYS[:0], rows=np.empty((0, 4), np.uint8))).stamp == {}  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match="3 rows come with 1000 keys"):
        run(shards, pushed(rows=np.empty((3, 4), np.uint8)))


@pytest.mark.parametrize("error", [lambda: NotOwner("moved", epoch=2), lambda: ConnectionLost("broke")])
def test_what_reached_no_owner_is_sent_again_by_the_next_map_and_nothing_else_is(
    error: Callable[[], RingpullError],
) -> None:
    shards = Shards([map_of(1, [0, 1]), map_of(2, [0, 1, 2])], failures={1: [error()]})
    result = run(shards, pushed())
    assert result.rows == 1000  # type: ignore[attr-defined]
    again = [request for _, request in shards.pushes[2:]]
    assert {request.epoch for request in again} == {2}
    first = next(request for shard, request in shards.pushes if shard == 1)
    assert sorted(np.concatenate([each.positions for each in again]).tolist()) == sorted(first.positions.tolist())
    assert {request.number for request in again} == {7}


def test_without_a_number_what_may_have_been_applied_is_not_sent_again() -> None:
    shards = Shards([map_of(1, [0, 1])], failures={1: [ConnectionLost("broke")]})
    with pytest.raises(Unavailable, match=r"\d+ of 1000 keys were not acknowledged: shard 1: broke"):
        run(shards, pushed(writer=0, number=0))
    assert len(shards.pushes) == 2


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ({0: StaleNumber("late"), 1: Unavailable("disk full")}, Unavailable),
        ({0: StaleNumber("late"), 1: DeadlineExceeded("slow")}, DeadlineExceeded),
        ({0: StaleNumber("late"), 1: InvalidInput("width")}, InvalidInput),
        ({0: StaleNumber("late"), 1: LimitExceeded("log full", retry_after_s=2)}, LimitExceeded),
        ({0: Unavailable("away"), 1: LimitExceeded("log full", retry_after_s=2)}, Unavailable),
        ({0: StaleNumber("late")}, StaleNumber),
        ({0: Unavailable("away"), 1: UnmetCondition("rows are missing")}, UnmetCondition),
        ({0: UnmetCondition("rows are missing"), 1: DeadlineExceeded("slow"), 2: NotOwner("moved")}, UnmetCondition),
        ({0: LimitExceeded("log full", retry_after_s=2), 1: StaleLineage("another")}, StaleLineage),
        ({0: NotFound("no table"), 1: CorruptData("damaged"), 2: Unavailable("away")}, CorruptData),
    ],
)
def test_all_parts_are_waited_for_and_what_somebody_has_to_act_on_is_raised_first(
    errors: dict[int, RingpullError], kind: type[RingpullError]
) -> None:
    shards = Shards([map_of(1, [0, 1, 2])], failures={shard: [error] for shard, error in errors.items()})
    with pytest.raises(kind) as raised:
        run(shards, pushed())
    assert type(raised.value) is kind
    assert all(str(error) in str(raised.value) for error in errors.values())
    assert len(shards.pushes) == 3


def test_what_no_waiting_helps_says_of_no_pause() -> None:
    errors = {0: [LimitExceeded("log full", retry_after_s=2.0)], 1: [LimitExceeded("over 64 MiB")]}
    with pytest.raises(LimitExceeded, match="shard 0: log full; shard 1: over 64 MiB") as raised:
        run(Shards([map_of(1, [0, 1, 2])], failures=errors), pushed())
    assert raised.value.retry_after_s is None


def test_of_shards_that_have_no_room_the_longest_pause_is_told_with_all_of_them() -> None:
    full = {shard: [LimitExceeded(f"full {shard}", retry_after_s=1.0 + shard)] for shard in (0, 2)}
    with pytest.raises(LimitExceeded, match=r"\d+ of 1000 keys .*shard 0: full 0; shard 2: full 2") as raised:
        run(Shards([map_of(1, [0, 1, 2])], failures=full), pushed())
    assert raised.value.retry_after_s == 3.0
