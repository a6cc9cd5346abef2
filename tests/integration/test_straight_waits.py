"""Straight pushes to shards that say nothing, or have no room now: what a push waits for, and where it goes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ringpull import AsyncClient, Client
from ringpull.inference.client import push as push_module
from ringpull.inference.client import straight_hosts
from ringpull.ps.errors import ConnectionLost, DeadlineExceeded, LimitExceeded
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.messages import Reply, Request
from ringpull.ps.wire.push_messages import PushRequest
from tests.integration.test_straight_pushes import ROW, counted, serving

pytestmark = [pytest.mark.net, pytest.mark.medium]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no reason to go through a head."""
    monkeypatch.setattr("ringpull.inference.client.straight_ways.ASK_S", 60.0)
    monkeypatch.setattr("ringpull.inference.client.straight.CONNECT_S", 60.0)
    monkeypatch.setattr(straight_hosts, "SILENT_S", 60.0)


def test_a_shard_that_applies_and_says_nothing_leaves_time_for_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, 1) as cluster, cluster.client() as client:
        client.push("feed", "user", [1], ROW)
        asked = Connection.request

        async def silent(self: Connection, message: Request, *, deadline_s: float) -> Reply:
            reply = await asked(self, message, deadline_s=deadline_s)
            if isinstance(message, PushRequest) and message.only_live:
                try:
                    await asyncio.wait_for(asyncio.shield(self._ended), deadline_s - time.monotonic())
                except TimeoutError as exc:
                    raise DeadlineExceeded("no reply in time") from exc
                raise ConnectionLost("the connection was closed")
            return reply

        monkeypatch.setattr(Connection, "request", silent)
        monkeypatch.setattr(straight_hosts, "SILENT_S", 0.05)
        through = counted(client)
        done = client.push("feed", "user", [1], 2 * ROW)
        assert (done.rows, done.repeated, len(through)) == (0, 1, 1)
        assert client._ways is not None
        assert client._ways._here().by_model["feed"].next_s > client._ways.clock() + 20
        assert client.push("feed", "user", [1], 3 * ROW).rows == 1
        assert len(through) == 2
        assert (client.lookup("feed", "user", [1]).rows == 3).all()


class Refusing:
    """What has shards refuse straight pushes for want of room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = Connection.request

        async def refused(connection: Connection, message: Request, *, deadline_s: float) -> Reply:
            if isinstance(message, PushRequest) and message.only_live:
                raise LimitExceeded("the log is full", retry_after_s=3.0)
            return await asked(connection, message, deadline_s=deadline_s)

        monkeypatch.setattr(Connection, "request", refused)


def test_a_shard_without_room_is_asked_again_when_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[tuple[float, int]] = []
    with (
        serving(tmp_path) as cluster,
        Client(cluster.target, timeout_s=60) as client,
        cluster.client() as impatient,
    ):
        for each in (client, impatient):
            each.push("feed", "user", [1], ROW)
        through, others = counted(client), counted(impatient)
        Refusing(monkeypatch)
        sleep = SimpleNamespace(sleep=lambda pause_s: slept.append((pause_s, len(through))))
        monkeypatch.setattr(push_module, "time", sleep)
        assert client.push("feed", "user", [1], 2 * ROW).rows == 1
        [(pause_s, before)] = slept
        assert 3.0 <= pause_s <= 3.5
        assert (before, len(through)) == (0, 1)
        for pushes, timeout_s in ((client, 2.0), (impatient, 60.0)):  # no time for that, or no retries wanted
            with pytest.raises(LimitExceeded, match="the log is full") as raised:
                pushes.push("feed", "user", [1], 3 * ROW, timeout_s=timeout_s)
            assert raised.value.retry_after_s == 3.0
        assert (len(slept), len(through), len(others)) == (1, 1, 0)


async def test_in_asyncio_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(pause_s: float) -> None:
        slept.append(pause_s)

    with serving(tmp_path) as cluster:
        async with AsyncClient(cluster.target, timeout_s=60) as client:
            await client.push("feed", "user", [1], ROW)
            through = counted(client)
            Refusing(monkeypatch)
            monkeypatch.setattr(push_module, "asyncio", SimpleNamespace(sleep=sleep))
            assert (await client.push("feed", "user", [1], 2 * ROW)).rows == 1
            [pause_s] = slept
            assert 3.0 <= pause_s <= 3.5
            assert len(through) == 1
