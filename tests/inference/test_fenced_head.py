"""The fence around a head's process: what waited for its turn is checked again."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ringpull.inference.head.fenced import FencedHead
from ringpull.inference.head.process import HeadProcess
from ringpull.ps.errors import Superseded
from ringpull.ps.fence import Order
from ringpull.router.shard_map import ShardMap


def order(term: int, number: int = 0) -> Order:
    return Order("mine", term, "a", number)


@pytest.mark.parametrize("verb", ["load", "route"])
def test_what_waited_for_its_turn_is_not_begun_for_a_leader_that_is_over(verb: str) -> None:
    done: list[str] = []

    class Slow:
        def heartbeat(self) -> Any:
            return SimpleNamespace(incarnation="a")

        def load(self, *_: object) -> None:
            done.append("load")

        def route(self, *_: object) -> None:
            done.append("route")

    head = FencedHead(cast("HeadProcess", Slow()), "mine")
    head.obey(order(3))
    shard_map = cast("ShardMap", None)

    class Turn:
        """Somebody else's turn, in which another one begins to lead."""

        def __enter__(self) -> None:
            head.obey(order(4))

        def __exit__(self, *_: object) -> None:
            return None

    head._turn = cast("threading.Lock", Turn())
    with pytest.raises(Superseded):
        head.load(order(3, 1), [], shard_map) if verb == "load" else head.route(order(3, 1), shard_map, {}, [])
    assert done == []
