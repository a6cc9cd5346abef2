"""How the coordinator starts and stops shards over Ray, without Ray: who waits for whom, and who is killed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ringpull.deploy.cluster import coordinator
from ringpull.deploy.cluster.calls import ActorGone
from ringpull.deploy.cluster.coordinator import ANSWERS_S, MembersOverRay
from ringpull.ps.errors import Superseded, Unavailable
from ringpull.ps.fence import Order
from tests.deploy.actor_specs import make_actor_spec

PATIENCE_S = 600.0


@pytest.fixture
def members() -> MembersOverRay:
    return MembersOverRay(make_actor_spec())


def started(monkeypatch: pytest.MonkeyPatch, await_up: Callable[[str], None]) -> None:
    handle = SimpleNamespace(pid=SimpleNamespace(remote=lambda: None))
    monkeypatch.setattr(coordinator, "make_shard", lambda *_, **__: handle)
    monkeypatch.setattr(coordinator, "await_up", lambda who, *_: await_up(who))


def test_shards_that_died_together_are_started_side_by_side(
    members: MembersOverRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is up only when all of them have begun: one after the other, none would ever be."""
    together = threading.Barrier(4, timeout=PATIENCE_S)
    started(monkeypatch, lambda _: together.wait() and None)
    threads = [threading.Thread(target=members.start_shard, args=(shard, None), daemon=True) for shard in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not together.broken
    assert not any(thread.is_alive() for thread in threads)


def test_new_shards_of_a_node_are_started_one_after_the_other(
    members: MembersOverRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, most, lock = 0, 0, threading.Lock()
    one_waits = threading.Event()

    def await_up(_: str) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        one_waits.wait(0.05)
        with lock:
            at_once -= 1

    started(monkeypatch, await_up)
    threads = [threading.Thread(target=members.start_shard, args=(shard, "node"), daemon=True) for shard in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert most == 1


class Leaving:
    """Ray as far as a shard that is stopped needs it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Exception | None) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.killed: list[str] = []
        invoke = SimpleNamespace(remote=lambda method, order: self.asked.append((method, order)))

        def result(_: object, *, timeout_s: float) -> None:
            if answer is not None:
                raise answer

        monkeypatch.setattr(coordinator, "find", lambda _: SimpleNamespace(invoke=invoke))
        monkeypatch.setattr(coordinator, "result", result)
        monkeypatch.setattr(coordinator, "end", self.killed.extend)


ORDER = Order("mine", 3, "a", 1)


@pytest.mark.parametrize("answer", [ActorGone("it has ended"), TimeoutError(), None])
def test_a_shard_ends_itself_and_is_killed_where_it_does_not_answer(
    members: MembersOverRay, monkeypatch: pytest.MonkeyPatch, answer: Exception | None
) -> None:
    ray = Leaving(monkeypatch, answer)
    members.stop_shard(2, ORDER)
    assert ray.asked == [("leave", ORDER)]
    assert [name.rpartition("/")[2] for name in ray.killed] == ["shard-2"]


@pytest.mark.parametrize("answer", [Superseded("term 3 is over: term 4 leads"), Unavailable("this one is b")])
def test_a_shard_that_refuses_lives_on(
    members: MembersOverRay, monkeypatch: pytest.MonkeyPatch, answer: Exception
) -> None:
    ray = Leaving(monkeypatch, answer)
    with pytest.raises(type(answer)):
        members.stop_shard(2, ORDER)
    assert ray.killed == []


def test_one_that_is_not_seen_is_killed_at_once(members: MembersOverRay, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Leaving(monkeypatch, None)
    members.stop_shard(2, Order("mine", 3, "", 1))
    assert (ray.asked, len(ray.killed)) == ([], 1)


def test_answers_leave_before_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr("time.sleep", done.append)
    monkeypatch.setattr("os._exit", lambda status: done.append(f"exit {status}"))
    coordinator._end_process()
    assert done == [ANSWERS_S, "exit 1"]
