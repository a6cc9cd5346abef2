"""Stamps of pushes through a router, given to deltas: all pushes up to then on every shard, and none after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from ringpull import TableOptions, export_tables
from ringpull.deploy.compaction import CompactOptions, compacted
from ringpull.inference.export.delta.versions import delta_of
from ringpull.ps.identity import number_of
from ringpull.ps.wire.connection import Connection
from ringpull.router.client import Router
from ringpull.router.control.operations import Publish
from ringpull.router.pushed_rows import PushedRows
from tests.integration.deployed import Deployed

pytestmark = pytest.mark.net

KEYS = list(range(60))
BASE = dict.fromkeys(KEYS, 1.0)
SHARDS = 3


def export(folder: Path, version: int, rows: Mapping[int, float]) -> Path:
    keys = np.array(list(rows), np.int64)
    values = np.array(list(rows.values()), np.float32)[:, None].repeat(2, 1)
    return export_tables(
        {"user": (keys, values)}, folder, version, options={"user": TableOptions(live=True)}, quiet=True
    ).path


def pushed(deployed: Deployed, keys: Iterable[int], value: float) -> dict[int, int]:
    """Push a row of each key as a head does, and return the stamp."""
    wanted = np.array(list(keys), np.uint64)
    rows = PushedRows(
        model="feed",
        table="user",
        lineage=number_of(deployed.spec.versions[-1].lineage),
        writer=7,
        number=time.time_ns(),
        keys=wanted,
        rows=np.full((len(wanted), 2), value, np.float32).view(np.uint8),
    )

    async def push() -> dict[int, int]:
        async def refresh() -> object:
            return deployed.shard_map()

        router = Router(lambda address: Connection.connect(address.host, address.port), refresh=refresh)  # type: ignore[arg-type]
        router.update(deployed.shard_map())
        try:
            return dict((await router.push(rows, deadline_s=time.monotonic() + 30)).stamp)
        finally:
            await router.close()

    return asyncio.run(push())


def shown(deployed: Deployed, keys: Iterable[int] = KEYS) -> dict[int, float]:
    wanted = list(keys)
    rows, _ = deployed.rows("user", wanted)
    return {key: float(np.frombuffer(row, np.float32)[0]) for key, row in zip(wanted, rows, strict=True)}


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    export(tmp_path / "models" / "feed", 1, BASE)
    with Deployed(tmp_path / "models" / "feed", tmp_path / "data", SHARDS) as running:
        yield running


def publish(deployed: Deployed, tmp_path: Path, version: int, rows: dict[int, float], **given: object) -> None:
    folder = tmp_path / "models" / "feed"
    whole = export(tmp_path / f"whole-{version}" / "feed", version, {**BASE, **rows})
    delta_of(folder / str(deployed.spec.live["feed"]), whole, folder / str(version), **given)  # type: ignore[arg-type]
    deployed.publish(Publish(model="feed", version=version))


@pytest.mark.medium
def test_a_stamp_means_all_pushes_up_to_it_on_every_shard_and_none_after_it(deployed: Deployed, tmp_path: Path) -> None:
    pushed(deployed, KEYS, 5.0)
    stamp = pushed(deployed, KEYS[:1], 5.0)
    assert sorted(stamp) == list(range(SHARDS)), "also of those that have no part of it"
    pushed(deployed, range(20, 40), 6.0)
    publish(deployed, tmp_path, 2, dict.fromkeys(KEYS, 9.0), includes=stamp)
    assert shown(deployed) == {key: 6.0 if 20 <= key < 40 else 9.0 for key in KEYS}
    for shard in range(SHARDS):
        deployed.restart(shard)
    assert shown(deployed) == {key: 6.0 if 20 <= key < 40 else 9.0 for key in KEYS}


@pytest.mark.medium
def test_a_shard_that_a_stamp_does_not_name_is_as_if_there_were_none(deployed: Deployed, tmp_path: Path) -> None:
    """So those are that an earlier build gave out."""
    stamp = pushed(deployed, KEYS, 5.0)
    publish(deployed, tmp_path, 2, dict.fromkeys(KEYS, 9.0), includes={1: stamp[1]})
    assert shown(deployed) == dict.fromkeys(KEYS, 9.0)
    pushed(deployed, KEYS, 7.0)
    for shard in range(SHARDS):
        deployed.restart(shard)
    assert shown(deployed) == dict.fromkeys(KEYS, 7.0)


@pytest.mark.medium
def test_a_version_that_was_compacted_elsewhere_says_nothing_of_the_pushes_here(
    deployed: Deployed, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "feed"
    for shard in range(SHARDS):
        deployed.restart(shard)  # so that its epoch is past that of the other one
    pushed(deployed, KEYS[:10], 5.0)
    assert compacted(deployed, CompactOptions(model="feed")).manifest.version == 2
    with Deployed(folder.parent / "feed", tmp_path / "other-data", SHARDS) as other:  # which serves 2
        pushed(other, KEYS[5:15], 6.0)
        publish(other, tmp_path, 3, dict.fromkeys(KEYS[:10], 5.0) | {50: 9.0})
        for shard in range(SHARDS):
            other.restart(shard)
        truth = {**BASE, **dict.fromkeys(KEYS[:10], 5.0), **dict.fromkeys(KEYS[5:15], 6.0), 50: 9.0}
        assert shown(other) == truth
        pushed(other, [50], 4.0)
        other.restart(0)
        assert shown(other) == {**truth, 50: 4.0}
    pushed(deployed, [3], 8.0)
    deployed.publish(Publish(model="feed", version=2))
    assert shown(deployed) == {**BASE, **dict.fromkeys(KEYS[:10], 5.0), 3: 8.0}
