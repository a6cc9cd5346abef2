"""What a foreground `serve` warns of while it serves; its heads are faked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ringpull.deploy.cluster import calls, control_store
from ringpull.deploy.cluster.cluster import Cluster, _Actors, _Addresses
from ringpull.inference.head.leadership import LeaderView
from ringpull.ps.errors import StartupError, Unavailable

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


def cluster(*views: LeaderView | Exception | None) -> Cluster:
    """A cluster whose heads hear the coordinator so."""

    def head(view: LeaderView | Exception | None) -> Any:
        call = raising(view) if isinstance(view, Exception) else lambda: view
        remote = {"pid": lambda: lambda: 1, "invoke": lambda method: call}
        return SimpleNamespace(**{name: SimpleNamespace(remote=answer) for name, answer in remote.items()})

    config = SimpleNamespace(private=True, shards=1, model_names=("ranker/1",))
    actors = _Actors({}, dict(enumerate(map(head, views))), None)
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
