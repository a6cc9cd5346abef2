"""What a foreground `serve` warns of while it serves, and how it drains; its heads and shards are faked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ringpull.deploy.cluster import calls, control_store, members
from ringpull.deploy.cluster import cluster as cluster_module
from ringpull.deploy.cluster.cluster import Cluster, _Actors, _Addresses, stop_joined
from ringpull.inference.head.leadership import LeaderView
from ringpull.ps.errors import StartupError, Unavailable
from tests.patience import PATIENCE_S

LED, NOT_LED, NOBODYS = LeaderView(3, 0.2), LeaderView(3, 3.5), None


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of the fakes are their answers."""

    def result(call: Callable[[], Any], *, timeout_s: float) -> Any:
        return call()

    monkeypatch.setattr(calls, "result", result)
    monkeypatch.setattr(control_store, "is_there", lambda: True)


def raising(error: Exception) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


def cluster(*views: LeaderView | Exception | None, shards: dict[int, Any] | None = None) -> Cluster:
    """A cluster whose heads hear the coordinator so."""

    def head(view: LeaderView | Exception | None) -> Any:
        call = raising(view) if isinstance(view, Exception) else lambda: view
        remote = {"pid": lambda: lambda: 1, "invoke": lambda method, *_: call}
        return SimpleNamespace(**{name: SimpleNamespace(remote=answer) for name, answer in remote.items()})

    config = SimpleNamespace(private=True, shards=1, model_names=("ranker/1",), name="ringpull", drain_timeout_s=1.0)
    actors = _Actors(shards or {}, dict(enumerate(map(head, views))), None)
    return Cluster(
        cast("Any", config),
        actors,
        _Addresses("127.0.0.1:8500", "127.0.0.1:8501", ""),
        owned=cast("Any", None),
        ray_folder=None,
        kills=ExitStack(),
        cleanup=ExitStack(),
    )


@pytest.mark.parametrize(
    ("views", "warned"),
    [
        ((LED,), False),
        ((NOT_LED,), True),
        ((NOT_LED, LED), False),
        ((NOT_LED, NOT_LED), True),
        ((Unavailable("it is restarted"), NOT_LED), True),
        ((Unavailable("it is restarted"),), False),
        ((StartupError("it does not know"), TimeoutError()), False),
        ((NOBODYS,), False),
    ],
)
def test_nobody_leads_where_no_head_that_tells_hears_a_coordinator(views: tuple[Any, ...], warned: bool) -> None:
    trouble = cluster(*views).check()
    assert trouble.startswith("nobody leads: predictions go on") is warned
    assert bool(trouble) is warned


def test_of_two_troubles_both_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_store, "is_there", lambda: False)
    first, second = cluster(NOT_LED).check().rsplit("; ", 1)
    assert first.startswith("Ray's control store (GCS) is gone")
    assert second.startswith("nobody leads")


class Shard:
    """A shard's handle, and what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.invoke = SimpleNamespace(remote=self._invoke)

    def _invoke(self, method: str) -> Callable[[], Any]:
        self.asked.append(method)
        return lambda: None


def test_a_drain_ends_pushes_at_shards_of_the_start_and_at_those_made_since(monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, later, head = (Shard() for _ in range(4))
    found = {"ringpull/shard-0": again, "ringpull/shard-1": later, "ringpull/head-0": head}
    monkeypatch.setattr(members, "actors_of", lambda name: found)
    cluster(LED, shards={0: first}).drain()
    assert [each.asked for each in (first, again, later, head)] == [[], ["end_pushes"], ["end_pushes"], []]


def test_a_drain_does_without_a_control_store_that_fails_or_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts connections in both: the shards of the start are told, and nothing is raised."""
    over = threading.Event()
    monkeypatch.setattr(cluster_module, "FIND_S", 0.1)
    for actors_of in (lambda name: raising(RuntimeError("RpcError: it is gone"))(), lambda name: over.wait()):
        shard = Shard()
        monkeypatch.setattr(members, "actors_of", actors_of)
        cluster(LED, shards={0: shard}).drain()
        assert shard.asked == ["end_pushes"]
    over.set()


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """What is asked of a joined Ray whose control store accepts connections, and answers nothing."""
    over = threading.Event()
    monkeypatch.setattr(cluster_module, "RaySession", lambda address: nullcontext())
    monkeypatch.setattr(members, "FIND_TIMEOUT_S", 0.1)
    monkeypatch.setattr(members, "KILL_TIMEOUT_S", 0.1)
    yield lambda *_: over.wait(PATIENCE_S)
    over.set()


def test_a_stop_does_not_wait_for_ever_for_a_joined_ray_that_hangs(
    monkeypatch: pytest.MonkeyPatch, hangs: Callable[..., Any]
) -> None:
    monkeypatch.setattr(members, "actors_of", hangs)
    with pytest.raises(Unavailable, match=r"has not said within 0.1 s which actors ringpull has: it hangs"):
        stop_joined("127.0.0.1:6379", "ringpull", drain_timeout_s=1.0)


def test_nor_for_one_that_hangs_once_it_has_said_which_actors_there_are(
    monkeypatch: pytest.MonkeyPatch, hangs: Callable[..., Any]
) -> None:
    """Whoever asks the coordinator to stop, and later to release the folder, first asks where it is."""
    asked: list[str] = []
    monkeypatch.setattr(cluster_module, "FIND_S", 0.05)
    monkeypatch.setattr(cluster_module, "RELEASE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(members, "actors_of", lambda name: {})
    monkeypatch.setattr(calls, "find", lambda name: (asked.append(name), hangs()))
    monkeypatch.setattr(control_store, "is_there", lambda: True)
    monkeypatch.setattr(control_store, "address", lambda: "127.0.0.1:6379")
    assert stop_joined("127.0.0.1:6379", "ringpull", drain_timeout_s=1.0) == (0, "127.0.0.1:6379")
    assert asked == ["ringpull/coordinator"]


def test_a_timeout_of_what_is_asked_is_none_of_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_store, "check", lambda: None)
    with pytest.raises(Unavailable, match="does not say which actors: TimeoutError: of its own"):
        members.in_time(raising(TimeoutError("of its own")), "which actors", PATIENCE_S)


def test_nor_for_one_that_hangs_once_actors_were_killed(
    monkeypatch: pytest.MonkeyPatch, hangs: Callable[..., Any]
) -> None:
    killed: list[object] = []
    monkeypatch.setattr(members.ray, "kill", killed.append)
    monkeypatch.setattr(members, "_is_named", hangs)
    with pytest.raises(Unavailable, match=r"has not said within 0.2 s that what was killed has ended: it hangs"):
        members.end({"ringpull/shard-0": "handle"})
    assert killed == ["handle"]


def test_a_joined_ray_that_is_gone_or_fails_is_told_of(
    monkeypatch: pytest.MonkeyPatch, hangs: Callable[..., Any]
) -> None:
    monkeypatch.setattr(members, "actors_of", lambda name: raising(RuntimeError("RpcError: it dies"))())
    with pytest.raises(Unavailable, match="does not say which actors ringpull has: RuntimeError: RpcError: it dies"):
        stop_joined("127.0.0.1:6379", "ringpull", drain_timeout_s=1.0)
    monkeypatch.setattr(control_store, "is_there", lambda: False)
    monkeypatch.setattr(members, "actors_of", hangs)
    with pytest.raises(Unavailable, match="is gone: predictions go on"):
        stop_joined("127.0.0.1:6379", "ringpull", drain_timeout_s=1.0)
