"""Pushes by the clients through a head to real shards: what is acknowledged is what everyone reads from then on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples import live_rows
from ringpull import AsyncClient, Client, TableOptions, export_tables
from ringpull.ps.errors import UnmetCondition
from ringpull.ps.spec import RowType, TableSpec
from ringpull.ps.store.row_codec import decode, encode
from tests.integration.local import local_cluster

pytestmark = [pytest.mark.net, pytest.mark.medium]

DIM = 5
LIVE = TableOptions(live=True)


def export(folder: Path, version: int = 1) -> Path:
    rng = np.random.default_rng(version)
    rows = rng.normal(size=(200, DIM)).astype(np.float32)
    tables: dict[str, Any] = {
        "user": (np.arange(200), rows),
        "small": (np.arange(200), rows),
        "texts": ([f"t{n}" for n in range(200)], rows),
        "blobs": (np.arange(200), [b"x" * n for n in range(200)]),
        "fixed": (np.arange(200), rows),
    }
    small = TableOptions(live=True, row_type="int8")
    options = {"user": LIVE, "small": small, "texts": LIVE, "blobs": LIVE}
    return export_tables(tables, folder / "feed", version, options=options, quiet=True).path


def as_stored(rows: np.ndarray, table: str) -> np.ndarray:
    """What a table makes of rows: those of int8 are rounded."""
    spec = TableSpec(name=table, dim=DIM, row_type=RowType.INT8 if table == "small" else RowType.FLOAT32)
    return decode(encode(rows, spec), spec)


@pytest.mark.parametrize("shards", [1, 3])
def test_pushed_rows_are_read_by_key_and_by_score(tmp_path: Path, shards: int) -> None:
    rng = np.random.default_rng(9)
    keys = np.r_[5:25, 1000:1030]
    rows = (10 * rng.normal(size=(len(keys), DIM))).astype(np.float32)
    with (
        local_cluster([export(tmp_path)], shards=shards, data_dir=tmp_path / "data") as cluster,
        cluster.client() as client,
    ):
        before = client.lookup("feed", "user", np.arange(200)).rows
        for table in ("user", "small", "texts"):
            sent: Any = [f"t{key}" for key in keys] if table == "texts" else keys
            done = client.push("feed", table, sent, rows)
            assert (done.rows, done.new_keys, done.repeated, done.copies) == (50, 50, 0, 1)
            assert set(done.stamp.by_shard) == set(range(shards))
            answer = client.lookup("feed", table, sent)
            np.testing.assert_array_equal(answer.rows, as_stored(rows, table))
            assert answer.missing == 0
        expected = before.copy()
        expected[5:25] = rows[:20]
        np.testing.assert_array_equal(client.lookup("feed", "user", np.arange(200)).rows, expected)
        best = client.top_k("feed", "user", rows[40], k=3)
        scores = np.r_[expected @ rows[40], rows[20:] @ rows[40]]
        all_keys = np.r_[0:200, 1000:1030]
        np.testing.assert_array_equal(best.keys[0], all_keys[np.argsort(-scores)[:3]])
        client.push("feed", "blobs", [3, 2000], [b"three", b""])
        assert list(client.lookup("feed", "blobs", [3, 2000, 4]).rows) == [b"three", b"", b"xxxx"]
        for table in ("user", "blobs"):
            client.push("feed", table, [3, 1000], remove=True)
            gone = client.lookup("feed", table, [3, 1000, 4])
            assert gone.found is not None
            assert gone.found.tolist() == [False, False, True]


def test_a_table_that_is_not_live_and_another_lineage_are_refused(tmp_path: Path) -> None:
    with local_cluster([export(tmp_path)], data_dir=tmp_path / "data") as cluster, cluster.client() as client:
        lineage = client.model("feed").lineage
        rows = np.zeros((1, DIM), np.float32)
        client.push("feed", "user", [1], rows, lineage=lineage)
        with pytest.raises(UnmetCondition, match="table fixed of feed/1 takes no pushes"):
            client.push("feed", "fixed", [1], rows)
        with pytest.raises(
            UnmetCondition, match=f"lineage {'0' * 16} of model feed is not open here: feed/1.*{lineage}"
        ):
            client.push("feed", "user", [1], rows, lineage="0" * 16)


def test_many_rows_and_a_pusher(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    keys = rng.permutation(60_000)
    rows = rng.normal(size=(len(keys), DIM)).astype(np.float32)
    with local_cluster([export(tmp_path)], shards=2, data_dir=tmp_path / "data") as cluster, cluster.client() as client:
        assert client.push("feed", "user", keys, rows).rows == len(keys)
        some = rng.integers(0, 60_000, 500)
        place = np.argsort(keys)
        np.testing.assert_array_equal(client.lookup("feed", "user", some).rows, rows[place[some]])
        with client.pusher("feed", writer="trainer") as pusher:
            last: dict[int, float] = {}
            for step in range(60):
                changed = rng.integers(0, 300, 40)
                pusher.push("user", changed, np.full((40, DIM), step, np.float32))
                last |= dict.fromkeys(changed.tolist(), float(step))
            pusher.flush()
            read = client.lookup("feed", "user", list(last)).rows
            assert read[:, 0].tolist() == list(last.values())
            known = pusher.acknowledged
        # The same trainer once more: what it sends again is applied no more.
        client.push("feed", "user", list(last), np.full((len(last), DIM), 99, np.float32))
        with client.pusher("feed", writer="trainer", number=known - 1) as again:
            again.push("user", changed, np.full((40, DIM), 59, np.float32), number=known)
            done = again.flush()
            assert (done.rows, done.repeated) == (0, 40)
        assert (client.lookup("feed", "user", list(last)).rows == 99).all()


async def test_pushes_in_asyncio_are_read_at_once(tmp_path: Path) -> None:
    def bring_up() -> Any:
        return local_cluster([export(tmp_path)], shards=2, data_dir=tmp_path / "data")

    with bring_up() as cluster:
        async with AsyncClient(cluster.target, timeout_s=60) as client:

            async def write(key: int) -> None:
                for value in range(15):
                    await client.push("feed", "user", [key], np.full((1, DIM), value, np.float32))
                    rows, _ = await client.lookup("feed", "user", [key])
                    assert rows[0, 0] == value

            await asyncio.gather(*[write(key) for key in range(500, 512)])


def test_the_example_learns_while_it_is_served(tmp_path: Path) -> None:
    with (
        local_cluster([live_rows.write(tmp_path)], data_dir=tmp_path / "data") as cluster,
        Client(cluster.target, timeout_s=60) as client,
    ):
        off = live_rows.learn(client, 200)
    assert off[0] > 0.2
    assert off[-1] < 0.75 * off[0]
