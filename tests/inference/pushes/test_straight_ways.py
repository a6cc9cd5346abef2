"""Whether pushes go straight, and when a head is asked: decisions, by a clock that tests move."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringpull.inference.client.retry import LATER_BY
from ringpull.inference.client.straight import pushed_rows
from ringpull.inference.client.straight_ways import (
    ASK_S,
    LONG_PAUSE_S,
    MAX_S,
    OLDEST_S,
    PAUSE_S,
    RENEW_S,
    StraightWays,
    ask_s,
    left_of,
    pause_after,
    pause_before_head_s,
    route_request,
    straight_until_s,
    tell,
)
from ringpull.inference.proto import writer_pb2 as pb
from ringpull.inference.push_route import PushRoute
from ringpull.inference.wire.keyed_rows import KeyedRows
from ringpull.inference.wire.push_codec import PushTarget, SinglePush
from ringpull.ps.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotFound,
    NotOwner,
    ProtocolError,
    RingpullError,
    StaleLineage,
    StaleNumber,
    Unavailable,
)
from ringpull.ps.ring import Ring
from ringpull.ps.spec import KeyType, TableSpec
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.clock import Clock

LINEAGE = "00000000000000aa"
LIVE = PushTarget(model="m", table="user")
MAP = ShardMap(7, (ShardAddress(0, "10.0.0.1", 5, "i1"),), Ring.even([0]), {}, deployment="d", term=3)
ROUTE = PushRoute(
    model="m",
    version=4,
    lineage=LINEAGE,
    specs={"user": TableSpec(name="user", dim=3), "texts": TableSpec(name="texts", dim=2, key_type=KeyType.STRING)},
    shard_map=MAP,
)


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def ways(clock: Clock) -> StraightWays:
    made = StraightWays(clock=clock)
    assert made.to_ask(LIVE)
    made.told("m", ROUTE)
    return made


def test_one_asks_and_the_others_go_through_a_head_meanwhile(clock: Clock) -> None:
    ways = StraightWays(clock=clock)
    assert ways.route(LIVE) is None
    assert ways.to_ask(LIVE)
    assert not ways.to_ask(LIVE)
    assert ways.route(LIVE) is None
    ways.told("m", ROUTE)
    assert ways.route(LIVE) is ROUTE
    assert not ways.to_ask(LIVE)
    assert ways.to_ask(PushTarget(model="other", table="user"))


def test_only_what_is_for_the_live_lineage_goes_straight(ways: StraightWays) -> None:
    def goes(**changes: object) -> bool:
        return ways.route(PushTarget(**{"model": "m", "table": "user", **changes})) is not None  # type: ignore[arg-type]

    assert goes()
    assert goes(table="texts")
    assert goes(lineage=LINEAGE)
    assert goes(lineage=LINEAGE, only_live=True)
    assert not goes(lineage="00000000000000bb")
    assert not goes(lineage="00000000000000bb", only_live=True)
    assert not goes(version=4)
    assert not goes(label="best")
    assert not goes(table="other")
    assert not goes(model="other")
    assert not ways.to_ask(PushTarget(model="new", table="user", version=4))


def test_a_route_is_asked_for_again_and_is_sure_for_some_seconds_only(clock: Clock, ways: StraightWays) -> None:
    clock.now_s += RENEW_S
    assert ways.to_ask(LIVE)
    assert ways.route(LIVE) is ROUTE  # the others go on by it
    clock.now_s += OLDEST_S - RENEW_S
    assert ways.route(LIVE) is None
    ways.told("m", ROUTE)
    assert ways.route(LIVE) is ROUTE
    clock.now_s += RENEW_S
    assert ways.to_ask(LIVE)
    ways.not_told("m")
    assert ways.route(LIVE) is None
    assert not ways.to_ask(LIVE)
    clock.now_s += PAUSE_S
    assert ways.to_ask(LIVE)


@pytest.mark.parametrize(
    "error", [ConnectionLost("x"), Unavailable("x"), NotOwner("x"), StaleLineage("x"), DeadlineExceeded("x")]
)
def test_after_a_failure_all_go_through_heads_for_longer_and_longer(
    clock: Clock, ways: StraightWays, error: RingpullError
) -> None:
    pauses = []
    for _ in range(8):
        ways.failed("m", error, reached=True)
        began_s = clock.now_s
        while not ways.to_ask(LIVE):
            assert ways.route(LIVE) is None
            clock.now_s += 0.5
        pauses.append(clock.now_s - began_s)
        ways.told("m", ROUTE)
        assert ways.route(LIVE) is ROUTE
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    ways.worked("m")
    ways.failed("m", error, reached=True)
    clock.now_s += PAUSE_S
    assert ways.to_ask(LIVE)


def test_failures_of_pushes_in_flight_together_are_one(clock: Clock, ways: StraightWays) -> None:
    for _ in range(6):  # the connection that all of them were on broke
        ways.failed("m", ConnectionLost("x"), reached=True)
        clock.now_s += PAUSE_S / 8
    clock.now_s += PAUSE_S / 4
    assert ways.to_ask(LIVE)
    ways.told("m", ROUTE)
    ways.failed("m", ConnectionLost("x"), reached=True)
    clock.now_s += 2 * PAUSE_S
    assert ways.to_ask(LIVE)


def test_a_rest_is_not_cut_short(clock: Clock, ways: StraightWays) -> None:
    clock.now_s += RENEW_S
    assert ways.to_ask(LIVE)  # one asks, and goes on by its route;
    ways.failed_of("m")(Unavailable("x"), False)  # another one finds a silent shard,
    ways.failed("m", ConnectionLost("x"), reached=True)  # whose connection was closed,
    ways.not_told("m", PAUSE_S)  # and the head that was asked is slow
    clock.now_s += LONG_PAUSE_S - 1
    assert not ways.to_ask(LIVE)
    clock.now_s += 1
    assert ways.to_ask(LIVE)


@pytest.mark.parametrize(("error", "reached"), [(Unavailable("x"), False), (ProtocolError("PUSH: 1 field"), True)])
def test_where_there_is_no_way_it_is_tried_again_after_half_a_minute(
    clock: Clock, ways: StraightWays, error: RingpullError, reached: bool
) -> None:
    """Shards that cannot be reached from here, or that are of an older build."""
    ways.failed("m", error, reached=reached)
    clock.now_s += LONG_PAUSE_S - 0.1
    assert not ways.to_ask(LIVE)
    assert ways.route(LIVE) is None
    clock.now_s += 0.2
    assert ways.to_ask(LIVE)


@pytest.mark.parametrize(
    "error", [InvalidInput("x"), NotFound("x"), StaleNumber("x"), LimitExceeded("x", retry_after_s=1.0)]
)
def test_what_is_wrong_with_one_push_is_no_fault_of_the_way(
    clock: Clock, ways: StraightWays, error: RingpullError
) -> None:
    ways.failed("m", error, reached=True)
    assert ways.to_ask(LIVE)  # the table may be another one by now
    assert ways.route(LIVE) is ROUTE


def test_a_forked_process_asks_anew(ways: StraightWays, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ways.to_ask(LIVE)
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    assert ways.to_ask(LIVE)


class Interrupted(int):
    """Number of a process; when it is looked up, the time that it is told, another thread comes in between."""

    def __new__(cls, process: int, at: int, other: Callable[[], None]) -> Interrupted:
        made = super().__new__(cls, process)
        made._left, made._other = at, other
        return made

    def __hash__(self) -> int:
        self._left -= 1
        if self._left == 0:
            self._other()
        return super().__hash__()


@pytest.mark.parametrize("at", [1, 2])
def test_of_the_threads_of_a_forked_process_one_asks(
    ways: StraightWays, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Also where another one comes in between while the first finds that it is in another process."""
    process, asks = os.getpid() + 1, list[bool]()

    def other() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: process)
            asks.append(ways.to_ask(LIVE))
            ways.told("m", ROUTE)

    interrupted = Interrupted(process, at, other)
    monkeypatch.setattr(os, "getpid", lambda: interrupted)
    asks.append(ways.to_ask(LIVE))
    assert asks == [True, False]
    assert ways.route(LIVE) is ROUTE


def test_what_a_head_tells_comes_back(ways: StraightWays, clock: Clock) -> None:
    request = route_request("m", ROUTE)
    assert (request.model, request.term, request.epoch, request.version) == ("m", 3, 7, 4)
    told = pb.RouteResponse(lineage=LINEAGE, version=4, tables=ROUTE.tables, shard_map=ROUTE.packed_map)
    tell(ways, "m", told, None)
    found = ways.known("m")
    assert found is not None
    assert (found.lineage, found.version, found.edition) == (LINEAGE, 4, (3, 7, 4))
    assert found.specs == ROUTE.specs
    assert found.shard_map == MAP
    tell(ways, "m", pb.RouteResponse(same=True), ROUTE)
    assert ways.known("m") is ROUTE
    tell(ways, "m", pb.RouteResponse(reason="turned off"), ROUTE)
    assert ways.known("m") is None
    clock.now_s += LONG_PAUSE_S - 1
    assert not ways.to_ask(LIVE)


@pytest.mark.parametrize(
    ("tables", "packed_map"),
    [
        (b"", ROUTE.packed_map),
        (b"\x01", ROUTE.packed_map),
        (b"\x91\x80", ROUTE.packed_map),
        (ROUTE.tables, b"\xc1"),
        (ROUTE.tables, b"\x80"),
        (ROUTE.tables, ROUTE.packed_map[:-3]),
    ],
)
def test_a_route_that_is_none_is_refused(ways: StraightWays, tables: bytes, packed_map: bytes) -> None:
    with pytest.raises(ProtocolError, match="the push route of m cannot be read"):
        tell(ways, "m", pb.RouteResponse(lineage=LINEAGE, version=4, tables=tables, shard_map=packed_map), None)


def test_a_route_to_no_lineage_is_refused() -> None:
    with pytest.raises(ProtocolError, match="the push route of m cannot be read"):
        PushRoute.of(model="m", version=4, lineage="none", tables=ROUTE.tables, packed_map=ROUTE.packed_map)


def test_a_push_waits_as_long_as_its_shard_asked_for() -> None:
    full = LimitExceeded("x", retry_after_s=2.0)
    assert 2.0 <= pause_before_head_s(full, 4) <= 2.0 * (1 + LATER_BY)
    assert pause_before_head_s(full, 0) == math.inf  # nobody asks again
    for error in (LimitExceeded("x"), Unavailable("x"), NotOwner("x")):
        assert pause_before_head_s(error, 4) == pause_before_head_s(error, 0) == 0


def test_half_of_the_time_is_left_for_a_head() -> None:
    for given_s, at_most_s in ((0.5, 0.25), (10.0, 5.0), (1e6, MAX_S)):
        before_s = time.monotonic()
        until_s = straight_until_s(given_s)
        assert until_s is not None
        assert before_s + at_most_s <= until_s <= time.monotonic() + at_most_s


def test_times(ways: StraightWays, clock: Clock) -> None:
    assert ask_s(ways, clock.now_s + 60) == ASK_S
    assert ask_s(ways, clock.now_s + 0.5) == 0.25
    assert straight_until_s(0) is None
    for none in (float("nan"), "soon", True):
        with pytest.raises(InvalidInput, match="timeout_s is "):
            straight_until_s(none)  # type: ignore[arg-type]
    for long in (float("inf"), 10**400, np.float32(5)):
        assert straight_until_s(long) is not None  # type: ignore[arg-type]
        assert left_of(long, 1.0, 2.0) > 0  # type: ignore[arg-type]
    assert pause_after(Unavailable("x")) == PAUSE_S
    assert pause_after(RingpullError("UNIMPLEMENTED: Method not found!")) == LONG_PAUSE_S


@pytest.mark.parametrize("keys", [["a", "bad\ud83d"], np.array(["a", "bad\ud83d"])])
@pytest.mark.parametrize("rows", [np.ones((2, 2), np.float32), None])
def test_keys_and_names_with_half_a_character_go_no_way(keys: Any, rows: Any) -> None:
    """Hashed as they are they would end the process, with or without a head."""
    spec = TableSpec(name="texts", dim=2, key_type=KeyType.STRING)
    ring = ShardMap(1, (ShardAddress(0, "h", 1),), Ring.even([0]), {})
    route = PushRoute(model="m", version=1, lineage="0" * 15 + "1", specs={"texts": spec}, shard_map=ring)
    keyed = KeyedRows.of(keys, rows, remove=rows is None)
    for push in (
        SinglePush(target=PushTarget(model="m", table="texts"), keyed=keyed, writer=5, number=1),
        SinglePush(target=PushTarget(model="m", table="texts"), keyed=keyed.at(slice(0, 1)), writer="\ud83d", number=1),
    ):
        with pytest.raises(InvalidInput, match="half a character"):
            pushed_rows(push, route)
        with pytest.raises(InvalidInput, match="half a character"):
            push.message()
