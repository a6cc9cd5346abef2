"""Pushes in chaos: the oracle against one that goes through every push, and which runs have pushes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull import AsyncClient
from ringpull.inference.errors import Unavailable
from ringpull.loadtest.chaos.checked_model import ids_of
from ringpull.loadtest.chaos.oracle import Verdict
from ringpull.loadtest.chaos.push_oracle import PushCounts, PushOracle, removes
from ringpull.loadtest.chaos.pushed_load import KEYS as KEYS_OF_WRITER
from ringpull.loadtest.chaos.pushed_load import WRITERS, PushedLoad
from ringpull.loadtest.chaos.pushed_model import DIM as PUSHED_DIM
from ringpull.loadtest.chaos.pushed_model import PUSHED, TABLE, export_pushed
from ringpull.loadtest.chaos.record import Record
from ringpull.loadtest.chaos.run import Options, pushes_rows
from ringpull.loadtest.chaos.schedule import Kind
from tests.integration.local import local_cluster

KEYS = 6
DIM = 3


def allowed(history: list[tuple[int, list[int]]], key: int, floor: int) -> set[int]:
    """Numbers that a key may show by all pushes that were sent, each with its keys, the slow way."""
    mine = [number for number, keys in history if key in keys and number >= floor]
    shown = {0 if removes(number) else number for number in mine}
    return shown | ({0} if floor == 0 else set())


@pytest.mark.parametrize("seed", range(20))
def test_a_row_is_right_if_a_push_between_acknowledged_and_sent_wrote_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    oracle, history = PushOracle(KEYS), list[tuple[int, list[int]]]()
    for number in range(1, 40):
        keys = rng.choice(KEYS, int(rng.integers(1, 4)), replace=False)
        oracle.send(keys, number)
        history.append((number, keys.tolist()))
        if rng.random() < 0.6:
            number_done, keys_done = history[int(rng.integers(max(len(history) - 3, 0), len(history)))]
            oracle.acknowledge(np.array(keys_done), number_done)
        asked = rng.choice(KEYS, 3, replace=False)
        floor = oracle.acknowledged[asked].copy()
        candidates = [0, -number, number + 1, *(int(each) for each in rng.integers(0, number + 1, 4))]
        for shown in candidates:
            wrong = oracle.wrong(asked, floor, np.full((3, DIM), shown, np.float32))
            for key, low, is_wrong in zip(asked.tolist(), floor.tolist(), wrong.tolist(), strict=True):
                if shown in allowed(history, key, low):
                    assert not is_wrong, f"{shown} was pushed to {key} after {low}"
                elif not 0 < low <= shown <= oracle.sent[key]:  # in between it does not know every push
                    assert is_wrong or low <= shown <= oracle.sent[key]


def test_lost_late_foreign_and_half_written_rows_are_wrong() -> None:
    oracle = PushOracle(3)
    keys = np.arange(3)
    for number in (1, 2, 3):
        oracle.send(keys, number)
    oracle.acknowledge(keys, 2)
    floor = oracle.acknowledged.copy()

    def wrong(*row: float) -> bool:
        found = oracle.wrong(keys, floor, np.tile(np.array(row, np.float32), (3, 1)))
        assert found.all() == found.any()
        return bool(found.all())

    assert not wrong(2, 2)
    assert not wrong(3, 3)
    assert wrong(1, 1), "an older one"
    assert wrong(0, 0), "none at all"
    assert wrong(4, 4), "one that was not sent"
    assert wrong(2, 3), "half of one and half of another"
    assert wrong(-2, -2), "what was sent once more"
    assert oracle.lost().all()
    oracle.acknowledge(keys, 3)
    assert not oracle.lost().any()


def test_removed_keys_are_as_if_never_pushed_only_from_their_removal_on() -> None:
    oracle, key = PushOracle(1), np.zeros(1, np.int64)
    zeros = np.zeros((1, DIM), np.float32)
    oracle.send(key, 9)
    oracle.acknowledge(key, 9)
    assert oracle.wrong(key, oracle.acknowledged, zeros)
    oracle.send(key, 10)
    assert not oracle.wrong(key, oracle.acknowledged, zeros)
    assert oracle.wrong(key, oracle.acknowledged, zeros + 10), "it writes no rows"
    oracle.acknowledge(key, 10)
    oracle.send(key, 11)
    assert not oracle.wrong(key, oracle.acknowledged, zeros)
    oracle.acknowledge(key, 11)
    assert oracle.wrong(key, oracle.acknowledged, zeros)


def test_counts_are_good_when_nothing_is_outside_twice_or_lost() -> None:
    assert PushCounts(pushes=5, reads=3, resumed=2).good
    assert not PushCounts(outside=1).good
    assert not PushCounts(twice=1).good
    assert not PushCounts(lost=1).good


def test_a_seed_pushes_or_moves_with_and_without_local_reads() -> None:
    assert [pushes_rows(seed) for seed in range(8)] == [False, False, True, True, False, False, True, True]
    common = {"seconds": 60.0, "rate": 60.0, "heads": 2, "timeout_s": 10.0, "overload_s": 0.0, "without": []}
    assert Options(seed=7, only=[], **common).pushing
    assert not Options(seed=7, only=[Kind.REBALANCE], **common).pushing
    assert not Options(seed=7, only=[], opened=True, **common).pushing, "there is no data folder"
    assert not Options(seed=7, only=[], pushes="off", **common).pushing
    assert Options(seed=1, only=[], pushes="on", **common).pushing


class Flaky:
    """A client whose answers get lost: every few messages of a pusher fail, half of them after they were applied."""

    def __init__(self, client: AsyncClient, every: int) -> None:
        self._client = client
        self._every = every
        self._sent = 0
        self.failed = 0
        self.well = False
        """Set, no answer gets lost any more."""
        self.predict, self.lookup = client.predict, client.lookup

    def pusher(self, *args: Any, **kwargs: Any) -> Any:
        pusher = self._client.pusher(*args, **kwargs)
        send = pusher._send

        async def lossy(request: Any, timeout_s: float | None) -> Any:
            self._sent += 1
            if self.well or self._sent % self._every:
                return await send(request, timeout_s)
            self.failed += 1
            if self.failed % 2:
                await send(request, timeout_s)
            raise Unavailable("the answer was lost")

        pusher._send = lossy
        return pusher


async def pushed_and_read(
    target: str,
    seen: Callable[[PushCounts], bool],
    *,
    every: int = 0,
    beside: Callable[[AsyncClient], Any] | None = None,
) -> tuple[PushedLoad, Record, int]:
    record, begin_s = Record(), time.monotonic()
    async with AsyncClient(target, timeout_s=60) as client:
        asked: Any = Flaky(client, every) if every else client
        load = PushedLoad(asked, asked, record, lambda: time.monotonic() - begin_s, 3)
        load.start()
        others = [] if beside is None else [asyncio.ensure_future(beside(client))]
        tasks = [*load._writing, *load._reading, *others]
        while not (seen(load.counts) and (not every or asked.failed)) and not any(task.done() for task in tasks):
            await asyncio.sleep(0.02)
        if every:
            asked.well = True
            while load.counts.resumed < asked.failed and not any(task.done() for task in tasks):
                await asyncio.sleep(0.02)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await load.stop()
    return load, record, asked.failed if every else 0


@pytest.mark.net
@pytest.mark.medium
def test_pushes_whose_answers_get_lost_are_applied_once(tmp_path: Path) -> None:
    export_pushed(tmp_path / PUSHED)
    with local_cluster([tmp_path / PUSHED / "1"], shards=2, data_dir=tmp_path / "data") as cluster:
        load, record, failed = asyncio.run(
            pushed_and_read(cluster.target, lambda counts: counts.pushes > 10 and counts.repeats > 0, every=67)
        )
        assert load.counts.good, load.counts
        assert load.counts.resumed >= failed > 0
        assert load.counts.pushes > 10
        assert load.counts.repeats > 0
        assert set(record.verdicts) == {Verdict.RIGHT}
        assert len(record.verdicts) == load.counts.reads


@pytest.mark.net
@pytest.mark.medium
def test_a_row_that_nobody_sent_is_outside(tmp_path: Path) -> None:
    async def strange(client: AsyncClient) -> None:
        keys = np.arange(WRITERS * KEYS_OF_WRITER)
        while True:  # Writers go over it at once, so it may go before anybody has read it.
            await client.push(PUSHED, TABLE, ids_of(keys), np.full((len(keys), PUSHED_DIM), 1e6, np.float32))

    export_pushed(tmp_path / PUSHED)
    with local_cluster([tmp_path / PUSHED / "1"], shards=1, data_dir=tmp_path / "data") as cluster:
        load, record, _ = asyncio.run(
            pushed_and_read(cluster.target, lambda counts: counts.outside > 0, beside=strange)
        )
    assert load.counts.outside > 0
    assert not load.counts.good
    assert Verdict.WRONG in record.verdicts
    assert PUSHED in record.troubles[0].text
