"""Top-k of one table against the slow reference, to the last bit: every row type, width, and way through the kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.errors import DeadlineExceeded, InvalidInput, NotAnswered
from ringpull.ps.hashing import SLOTS, keys_of, positions_of
from ringpull.ps.spec import VECTOR_TYPES, RowType, TableSpec
from ringpull.ps.store.base import BadBlock, Base
from ringpull.ps.store.pull import SlotNotOwned
from ringpull.ps.store.table import Table
from ringpull.ps.store.top_k import SLICE_PRODUCTS, request_cost, scan_table
from ringpull.ps.store.writer import TableWriter
from ringpull.ps.top_k_messages import TopKReply, TopKRequest
from tests.ps.tables import MODEL, VERSION, write_table
from tests.reference import ReferenceTable, assert_close, row_scores

pytestmark = pytest.mark.medium

DIMS = (1, 3, 16, 64, 100, 257)
NOTHING = np.empty(0, np.uint64)
EVERYTHING = ((0, SLOTS),)


def top_k_request(
    vectors: np.ndarray,
    k: int = 10,
    *,
    cosine: bool = False,
    exclude: Sequence[np.ndarray] = (),
    among: Sequence[np.ndarray] | None = None,
    ranges: Sequence[tuple[int, int]] = EVERYTHING,
) -> TopKRequest:
    excluded = [*exclude, *[NOTHING] * len(vectors)][: len(vectors)]
    lists = [*excluded, *([NOTHING] * len(vectors) if among is None else among)]
    return TopKRequest(
        model=MODEL,
        version=VERSION,
        epoch=1,
        table="table",
        k=k,
        cosine=cosine,
        count=len(vectors),
        among=among is not None,
        vectors=vectors.reshape(-1),
        ranges=np.array(ranges if among is None else [], np.uint32).reshape(-1),
        lengths=np.array([len(each) for each in lists], np.uint32),
        positions=positions_of(np.concatenate([NOTHING, *lists])),
    )


def found(reply: TopKReply) -> list[list[tuple[int, float]]]:
    """Keys and scores of each query."""
    rows = list(zip(keys_of(reply.positions).tolist(), reply.scores.tolist(), strict=True))
    ends = np.cumsum(reply.counts.astype(int)).tolist()
    return [rows[end - count : end] for end, count in zip(ends, reply.counts.tolist(), strict=True)]


def go_on() -> None:
    pass


def table_of(folder: Path, keys: np.ndarray, rows: np.ndarray) -> Table:
    with TableWriter(folder, TableSpec(name=folder.name, dim=rows.shape[1])) as writer:
        writer.add(keys, rows.astype(np.float32))
        writer.finish()
    return Table(Base.open(folder))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("row_type", VECTOR_TYPES)
def test_every_row_type_and_width_equals_the_reference(tmp_path: Path, row_type: RowType, dim: int) -> None:
    written = write_table(tmp_path / "table", rows=203, dim=dim, row_type=row_type)
    reference = written.reference
    assert isinstance(reference, ReferenceTable)
    vectors = np.random.default_rng(2).normal(size=(19, dim)).astype(np.float32)
    table = Table(Base.open(tmp_path / "table"))
    for cosine in (False, True):
        expected = [reference.top_k(vector, 10, cosine=cosine) for vector in vectors]
        for queries in (1, 2, 19):  # one by one, and in tiles, of which the last is not full
            some = vectors[:queries]
            assert found(scan_table(table, None, top_k_request(some, cosine=cosine), go_on)) == expected[:queries]


def test_the_order_of_sums_is_as_good_as_any() -> None:
    rng = np.random.default_rng(3)
    rows, query = rng.normal(size=(50, 100)).astype(np.float32), rng.normal(size=100).astype(np.float32)
    exact = rows.astype(np.float64) @ query
    assert_close(row_scores(rows, query), exact, largest=50.0)
    lengths = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1)) * np.sqrt((query.astype(np.float64) ** 2).sum())
    assert_close(row_scores(rows, query, cosine=True), exact / lengths)


def test_the_score_of_a_row_is_the_same_whatever_else_is_asked(tmp_path: Path) -> None:
    """In one scan or in many ranges, by itself, among listed ones, and at the end of the map."""
    written = write_table(tmp_path / "table", rows=300, dim=33)
    table = Table(Base.open(tmp_path / "table"))
    vectors = np.random.default_rng(4).normal(size=(6, 33)).astype(np.float32)
    whole = found(scan_table(table, None, top_k_request(vectors, 300), go_on))
    assert [len(each) for each in whole] == [300] * 6
    for pieces in (2, 7, 61):
        cuts = np.linspace(0, SLOTS, pieces + 1).astype(int).tolist()
        parts = [
            found(scan_table(table, None, top_k_request(vectors, 300, ranges=[each]), go_on)) for each in pairwise(cuts)
        ]
        for query, expected in enumerate(whole):
            together = [row for part in parts for row in part[query]]
            assert sorted(together, key=lambda row: (-row[1], row[0])) == expected
    listed = [np.array([key], np.uint64) for key, _ in whole[0][:6]]
    for query, [row] in enumerate(found(scan_table(table, None, top_k_request(vectors, among=listed), go_on))):
        assert row in whole[query]
    assert set(written.keys.tolist()) == {key for key, _ in whole[0]}


def test_rows_are_left_out_and_picked_by_key(tmp_path: Path) -> None:
    written = write_table(tmp_path / "table", rows=300, dim=8)
    reference, table = written.reference, Table(Base.open(tmp_path / "table"))
    assert isinstance(reference, ReferenceTable)
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(7, 8)).astype(np.float32)
    unknown = np.array([1, 2, 3], np.uint64)
    exclude = [np.concatenate([rng.choice(written.keys, 60), unknown]) for _ in vectors]
    among = [np.concatenate([rng.choice(written.keys, count), unknown]) for count in (0, 1, 5, 40, 100, 200, 300)]
    for excluded, only in ((exclude, None), ((), among), (exclude, among)):
        for cosine in (False, True):
            request = top_k_request(vectors, 20, cosine=cosine, exclude=excluded, among=only)
            assert found(scan_table(table, None, request, go_on)) == [
                reference.top_k(
                    vector,
                    20,
                    cosine=cosine,
                    exclude=excluded[i].tolist() if len(excluded) else (),
                    among=None if only is None else only[i].tolist(),
                )
                for i, vector in enumerate(vectors)
            ]


@pytest.mark.parametrize("queries", [1, 9])
def test_equal_scores_go_by_key_and_nan_never_wins(tmp_path: Path, queries: int) -> None:
    keys = np.arange(-40, 40).astype(np.int64)
    rows = np.ones((80, 2))
    rows[::5] = np.nan
    rows[1] = np.inf
    rows[2] = -np.inf
    rows[3] = 0.0
    table = table_of(tmp_path / "table", keys, rows)
    reference = ReferenceTable.from_arrays(keys, rows.astype(np.float32))
    for vector in ([1.0, 1.0], [1.0, -1.0], [0.0, 0.0]):
        vectors = np.array([vector] * queries, np.float32)
        for k in (1, 5, 63, 64, 200):
            for cosine in (False, True):
                expected = reference.top_k(vectors[0], k, cosine=cosine)
                assert found(scan_table(table, None, top_k_request(vectors, k, cosine=cosine), go_on)) == (
                    [expected] * queries
                )


def test_a_cosine_of_tiny_and_huge_rows_is_one(tmp_path: Path) -> None:
    rows = np.array([[1e-25, 1e-25], [3e30, 3e30], [1.0, 1.0], [-1e-40, -1e-40]])
    table = table_of(tmp_path / "table", np.arange(4), rows)
    for queries in (1, 8):
        request = top_k_request(np.full((queries, 2), 1e20, np.float32), cosine=True)
        for row in found(scan_table(table, None, request, go_on)):
            assert sorted(key for key, _ in row) == [0, 1, 2, 3]
            np.testing.assert_allclose([score for _, score in row], [1, 1, 1, -1], rtol=1e-6)


def test_a_table_of_few_or_no_rows_is_read_no_further(tmp_path: Path) -> None:
    for count in (0, 1, 5):
        table = table_of(tmp_path / f"table-{count}", np.arange(count), np.ones((count, 3)))
        for queries in (0, 1, 8):
            reply = scan_table(table, None, top_k_request(np.ones((queries, 3), np.float32)), go_on)
            assert found(reply) == [[(key, 3.0) for key in range(count)]] * queries


def test_many_rows_are_wanted_in_any_order_they_come(tmp_path: Path) -> None:
    """Scores that rise with the position have every row replace another."""
    keys = np.arange(3000, dtype=np.uint64)
    order = np.argsort(positions_of(keys))
    rows = np.empty((3000, 1))
    rows[order, 0] = np.arange(3000)
    table = table_of(tmp_path / "table", keys, rows)
    reference = ReferenceTable.from_arrays(keys, rows.astype(np.float32))
    for sign in (1.0, -1.0):
        vectors = np.full((1, 1), sign, np.float32)
        for k in (1, 100, 2999):
            assert found(scan_table(table, None, top_k_request(vectors, k), go_on)) == [reference.top_k(vectors[0], k)]


def test_a_scan_goes_in_slices_and_ends_between_them(tmp_path: Path) -> None:
    rows = 4 * SLICE_PRODUCTS // (1024 * 64)
    table = table_of(tmp_path / "table", np.arange(rows), np.ones((rows, 1024)))
    request = top_k_request(np.ones((64, 1024), np.float32), 1)
    slices: list[None] = []
    scan_table(table, None, request, lambda: slices.append(None))
    assert len(slices) == 4
    slices.clear()

    def until_second() -> None:
        slices.append(None)
        if len(slices) == 2:
            raise DeadlineExceeded("time is up")

    with pytest.raises(DeadlineExceeded, match="time is up"):
        scan_table(table, None, request, until_second)
    assert len(slices) == 2
    assert request_cost(table, request) == rows * 1024 * (4 + 64 / 2)
    half = top_k_request(np.ones((64, 1024), np.float32), 1, ranges=[(0, SLOTS // 2)])
    assert request_cost(table, half) == request_cost(table, request) / 2


def test_slots_that_are_not_owned_or_damaged_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "table", rows=300, dim=4)
    table = Table(Base.open(tmp_path / "table"))
    vectors = np.ones((1, 4), np.float32)
    mask = np.ones(SLOTS, np.uint8)
    mask[700:] = 0
    with pytest.raises(SlotNotOwned, match="slot 700 "):
        scan_table(table, mask, top_k_request(vectors, ranges=[(0, 100), (600, 900)]), go_on)
    scan_table(table, mask, top_k_request(vectors, ranges=[(0, 700)]), go_on)
    damaged = table.with_quarantine(range(50, 60))
    with pytest.raises(NotAnswered, match="slot 50 ") as caught:
        scan_table(damaged, mask, top_k_request(vectors, ranges=[(0, 55)]), go_on)
    assert caught.value.slots == ((50, 60),)
    scan_table(damaged, mask, top_k_request(vectors, ranges=[(0, 50), (60, 700)]), go_on)
    one = keys_of(np.array([55 << 48], np.uint64))
    with pytest.raises(NotAnswered):
        scan_table(damaged, None, top_k_request(vectors, among=[one]), go_on)
    keys_gone = Table.without(table.base, [BadBlock(0, 0, 10, (3, 5), "positions")])
    with pytest.raises(NotAnswered, match="keys are damaged") as caught:
        scan_table(keys_gone, None, top_k_request(vectors, ranges=[(10, 20)]), go_on)
    assert caught.value.slots == ((10, 20),)


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (lambda: np.ones((2, 5), np.float32), "10 numbers are not 2 queries of 4 each"),
        (lambda: np.array([[1, 2, np.nan, 4]], np.float32), "must be finite"),
    ],
)
def test_queries_that_do_not_fit_are_refused(tmp_path: Path, vectors: Callable[[], np.ndarray], reason: str) -> None:
    write_table(tmp_path / "table", rows=30, dim=4)
    with pytest.raises(InvalidInput, match=reason):
        scan_table(Table(Base.open(tmp_path / "table")), None, top_k_request(vectors()), go_on)


def test_rows_of_bytes_have_no_score(tmp_path: Path) -> None:
    write_table(tmp_path / "table", rows=30, dim=4, row_type=RowType.BYTES)
    with pytest.raises(InvalidInput, match="rows of bytes"):
        scan_table(Table(Base.open(tmp_path / "table")), None, top_k_request(np.ones((1, 4), np.float32)), go_on)
