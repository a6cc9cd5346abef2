"""Rows that are not finite are refused by the shard itself, whoever sent them, and nothing of their push is applied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput
from ringpull.ps.live import commit, finite_rows
from ringpull.ps.live.finite_rows import first_not_finite
from ringpull.ps.spec import VECTOR_TYPES, RowType, TableSpec
from ringpull.ps.store.row_codec import decode, encode
from ringpull.ps.wire.connection import Connection
from ringpull.ps.wire.push_messages import PushReply, PushRequest
from ringpull.ps.wire.server import ShardServer
from tests.ps.live.pushing import done, push_of
from tests.ps.live.served import DIM, Served
from tests.ps.tables import write_table
from tests.ps.wire.fake_shard import soon

KEYS = [7, 8, 9, 10]
ROWS = np.arange(len(KEYS) * DIM, dtype=np.float32).reshape(len(KEYS), DIM)


def spec_of(row_type: RowType, dim: int = DIM) -> TableSpec:
    return TableSpec(name="users", dim=dim, row_type=row_type)


def damaged(rows: NDArray[np.uint8], row_type: RowType, row: int, number: float, place: int = -1) -> NDArray[np.uint8]:
    """Return stored rows, one of which has a number that is not finite; of int8 its scale, or at place 1 its offset."""
    changed = rows.copy()
    if row_type is RowType.INT8:
        changed[row, :8].view(np.float32)[1 if place == 1 else 0] = number
    else:
        only = encode(np.full((1, 1), number, np.float32), spec_of(row_type, 1))[0]
        size = only.size
        place %= rows.shape[1] // size
        changed[row, place * size : (place + 1) * size] = only
    return changed


def first_by_numpy(rows: NDArray[np.uint8], spec: TableSpec) -> int | None:
    with np.errstate(over="ignore", invalid="ignore"):
        bad = np.flatnonzero(~np.isfinite(decode(rows, spec)).all(axis=1))
    return int(bad[0]) if bad.size else None


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row_type", VECTOR_TYPES)
@pytest.mark.parametrize("dim", [1, 3, 64])
def test_the_first_such_row_is_found_wherever_it_is(
    row_type: RowType, number: float, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite_rows, "_BYTES_AT_ONCE", 300)
    spec = spec_of(row_type, dim)
    rows = encode(np.random.default_rng(dim).normal(size=(50, dim)).astype(np.float32), spec)
    assert first_not_finite(rows, row_type) is None
    for row in (0, 1, 24, 48, 49):
        for place in (0, 1, -1):
            one = damaged(rows, row_type, row, number, place)
            assert first_not_finite(one, row_type) == row == first_by_numpy(one, spec)
            assert first_not_finite(damaged(one, row_type, 49, number), row_type) == row


@pytest.mark.parametrize("row_type", [RowType.FLOAT32, RowType.FLOAT16, RowType.BFLOAT16])
@given(content=st.binary(min_size=24, max_size=240))
def test_of_any_bytes_it_says_what_decoding_says(row_type: RowType, content: bytes) -> None:
    spec = spec_of(row_type, 3)
    count = len(content) // spec.row_bytes
    rows = np.frombuffer(content, np.uint8)[: count * spec.row_bytes].reshape(count, spec.row_bytes).copy()
    assert first_not_finite(rows, row_type) == first_by_numpy(rows, spec)


@pytest.mark.parametrize("scale", [0.0, 1.0, -1.0, 1e36, 1.3e36, -1.3e36, 3e38])
@pytest.mark.parametrize("offset", [0.0, 1e38, 3.4e38, -3.4e38])
def test_a_row_of_int8_is_refused_where_some_code_would_not_be_finite(scale: float, offset: float) -> None:
    spec = spec_of(RowType.INT8, 256)
    rows = np.zeros((1, spec.row_bytes), np.uint8)
    rows[0, :8].view(np.float32)[:] = scale, offset
    rows[0, 8:] = np.arange(256)
    assert first_not_finite(rows, RowType.INT8) == first_by_numpy(rows, spec)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row_type", VECTOR_TYPES)
def test_a_push_with_one_is_refused_whole_and_others_of_its_group_are_not(
    tmp_path: Path, row_type: RowType, number: float
) -> None:
    shard = Served(write_table(tmp_path / "users", rows=20, dim=DIM, row_type=row_type), tmp_path / "live")
    try:
        stored = encode(ROWS, spec_of(row_type))
        exported = shard.rows(KEYS)

        def push(rows: NDArray[np.uint8], number: int, writer: int = 5) -> PushRequest:
            return push_of(KEYS, ROWS, writer=writer, number=number)._replace(rows=rows.reshape(-1))

        bad = damaged(stored, row_type, 2, number)
        why = f"users: row 2, of key {KEYS[2]}, has a number that is NaN or infinite"
        with pytest.raises(InvalidInput, match=why):  # also the first push of all
            shard.push(push(bad, 1))
        np.testing.assert_array_equal(shard.rows(KEYS), exported)
        after = push_of([11], ROWS[:1], writer=6, number=1)._replace(rows=stored[0])
        answers = shard.live._commits.commit([push(stored, 1), push(bad, 2), after])
        assert [type(each) for each in answers] == [PushReply, InvalidInput, PushReply]
        np.testing.assert_array_equal(shard.rows([*KEYS, 11]), decode(stored, spec_of(row_type))[[0, 1, 2, 3, 0]])
        assert done(shard.push(push(stored, 2))).rows == len(KEYS), "its number was not taken"
    finally:
        shard.live.close()


def test_rows_of_bytes_are_anything(tmp_path: Path) -> None:
    shard = Served(write_table(tmp_path / "users", rows=20, row_type=RowType.BYTES), tmp_path / "live")
    try:
        assert shard.push(push_of([1], [np.full(5, np.nan, np.float32).tobytes()])).rows == 1
    finally:
        shard.live.close()


def test_what_an_older_build_took_is_read_again(served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    shard = served()
    rows = ROWS.copy()
    rows[1, 2] = np.nan
    with monkeypatch.context() as older:
        older.setattr(commit, "first_not_finite", lambda rows, row_type: None)
        shard.push(push_of(KEYS, rows))
    again = served()
    np.testing.assert_array_equal(again.rows(KEYS), rows)
    with pytest.raises(InvalidInput, match="row 1, of key 8"):
        again.push(push_of(KEYS, rows))


def test_a_push_that_an_older_build_took_is_acknowledged_again_and_what_is_new_of_it_is_refused(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = served()
    rows = ROWS.copy()
    rows[1:3, 2] = np.nan
    with monkeypatch.context() as older:
        older.setattr(commit, "first_not_finite", lambda rows, row_type: None)
        shard.push(push_of(KEYS[:2], rows[:2], writer=5, number=1))
    again = served()
    assert again.push(push_of(KEYS[:2], rows[:2], writer=5, number=1)).repeated == 2
    with pytest.raises(InvalidInput, match="row 2, of key 9, "):
        again.push(push_of(KEYS, rows, writer=5, number=1))
    assert again.push(push_of([*KEYS[:2], KEYS[3]], rows[[0, 1, 3]], writer=5, number=1)).repeated == 2
    np.testing.assert_array_equal(again.rows([*KEYS[:2], KEYS[3]]), rows[[0, 1, 3]])


def test_of_a_type_that_it_does_not_know_it_says_nothing() -> None:
    with pytest.raises(KeyError):
        first_not_finite(np.zeros((2, 16), np.uint8), RowType.BYTES)


def test_a_raw_frame_with_one_is_answered_with_why(served: Callable[..., Served]) -> None:
    shard = served()
    shard.push(push_of(KEYS, ROWS))

    async def pushed(rows: NDArray[np.float32]) -> object:
        with ThreadPoolExecutor(1) as threads:
            server = ShardServer(shard.shard, threads, pushes=shard.live.pushes)
            connection = await Connection.connect(*await server.start())
            try:
                return await connection.request(push_of(KEYS, rows), deadline_s=soon())
            finally:
                await connection.close()
                await server.close()

    assert done(asyncio.run(pushed(ROWS))).rows == len(KEYS)
    with pytest.raises(InvalidInput, match="row 3, of key 10, has a number that is NaN or infinite"):
        asyncio.run(pushed(np.where(ROWS[3, 0] == ROWS, np.inf, ROWS + 1).astype(np.float32)))
    np.testing.assert_array_equal(shard.rows(KEYS), ROWS)
