"""Top-k of one table: takes a request, checks every count against its array, and scans the rows that it asks for.

It scans in slices of a millisecond or two, between which the caller may end it. The last rows of a table are scanned in
a copy: kernels read a little beyond a row, and there the map ends. Newer rows are copied together, slice by slice, and
the rows of the base that they replace left out, as it was when the scan began. The frame comes from the network:
nothing in it is believed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.bytes_rows import BytesRows
from ringpull.ps.errors import InvalidInput
from ringpull.ps.hashing import POSITION_BYTES, positions_of
from ringpull.ps.ring import SlotRange
from ringpull.ps.slot_mask import SlotMask
from ringpull.ps.spec import Float32Array, UInt64Array
from ringpull.ps.store import top_k_kernels
from ringpull.ps.store.dots import LANES, OVERREAD, TILE_QUERIES
from ringpull.ps.store.kernels import address
from ringpull.ps.store.newer.newer import Newer
from ringpull.ps.store.pull import SlotNotAnswered, SlotNotOwned
from ringpull.ps.store.reducers import ROW_TYPES
from ringpull.ps.store.table import Table
from ringpull.ps.top_k_messages import TopKReply, TopKRequest, scan_cost

SLICE_PRODUCTS: Final = 4 << 20
"""Multiplications of one slice of a scan, which ends between two of them: some 2 ms."""

_OVERREAD_BYTES: Final = 4 * OVERREAD

Int64Array = NDArray[np.int64]

_NO_ROWS: Final[Int64Array] = np.empty(0, np.int64)
_NO_POSITIONS: Final[UInt64Array] = np.empty(0, np.uint64)


def scan_table(table: Table, mask: SlotMask | None, request: TopKRequest, go_on: Callable[[], None]) -> TopKReply:
    """Return the rows of a table that score highest; the GIL is released meanwhile.

    Args:
        mask: Which slots may be asked for; None for all.
        request: As decoded. Its arrays are read, not kept.
        go_on: Called before each slice; what it raises ends the scan.

    Raises:
        InvalidInput: The queries do not fit the table, or it has rows of bytes.
        SlotNotOwned: A slot lies outside the mask. Nothing was scanned.
        SlotNotAnswered: A slot is not held, or is quarantined. Nothing was scanned.
    """
    spec = table.spec
    if spec.is_bytes:
        raise InvalidInput(f"top_k: table {spec.name} has rows of bytes, which are no vectors and have no score")
    if len(request.vectors) != request.count * spec.dim:
        raise InvalidInput(
            f"top_k: table {spec.name}: {len(request.vectors)} numbers are not {request.count} queries of"
            f" {spec.dim} each"
        )
    lists = np.split(request.positions, np.cumsum(request.lengths.astype(np.int64)))
    excluded, among = lists[: request.count], lists[request.count : 2 * request.count]
    check_slots(table, mask, request)
    scan = _Scan(table, request, excluded)
    if request.among:
        for query, each in enumerate(among):
            positions = np.unique(each)
            if table.newer is not None:
                words = table.newer.directory.get(positions)
                there = words != 0
                scan.newer(table.newer, positions[there], words[there], query, go_on)
                positions = positions[~there]
            rows = table.base.find(positions)
            scan.listed(query, rows[rows >= 0], go_on)
    elif request.count:
        ranges = request.ranges.reshape(-1, 2).tolist()
        if table.newer is not None:
            walked = [table.newer.directory.walk(SlotRange(begin, end)) for begin, end in ranges if begin < end]
            for positions, words in walked:
                scan.newer(table.newer, positions, words, None, go_on)
            scan.leave_out([positions for positions, _ in walked])
        for first, last in _joined([table.base.row_range(begin, end) for begin, end in ranges]):
            scan.adjacent(first, last, go_on)
    return scan.reply()


def check_slots(table: Table, mask: SlotMask | None, request: TopKRequest) -> None:
    """Check that all slots which a request asks for can be answered.

    Raises:
        SlotNotOwned: One is outside the mask.
        SlotNotAnswered: One is not held, or is quarantined, or rows cannot be told by slots as keys are damaged.
    """
    asked = request.slots()
    name = table.spec.name
    if mask is not None and (strange := np.flatnonzero(asked & (mask ^ np.uint8(1)))).size:
        raise SlotNotOwned(name, int(strange[0]))
    if table.keys_damaged and asked.any() and not request.among:
        slots = tuple((begin, end) for begin, end in request.ranges.reshape(-1, 2).tolist())
        raise SlotNotAnswered(f"table {name}: keys are damaged here, so rows cannot be told", table=name, slots=slots)
    missing = [each for each in table.unanswered(mask) if asked[each.begin : each.end].any()]
    if missing:
        raise SlotNotAnswered(
            f"table {name}: slot {missing[0].begin} is not held here, or quarantined because its rows are damaged",
            table=name,
            slots=tuple((each.begin, each.end) for each in missing),
        )


def request_cost(table: Table, request: TopKRequest) -> float:
    """Return what a request costs, in the unit of `scan_cost`."""
    if request.among:
        return scan_cost(float(request.lengths[request.count :].sum(dtype=np.int64)), table.spec, 1)
    slots = int((request.ranges[1::2].astype(np.int64) - request.ranges[::2]).sum())
    rows = (table.rows + table.newer_rows) * slots / max(1, sum(end - begin for begin, end in table.base.held))
    return scan_cost(rows, table.spec, request.count)


def _joined(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ascending intervals of rows with adjacent ones made one, empty ones left out."""
    joined: list[tuple[int, int]] = []
    for first, last in intervals:
        if first == last:
            continue
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


class _Scan:
    """Scan of one table by the queries of a request."""

    def __init__(self, table: Table, request: TopKRequest, excluded: list[UInt64Array]) -> None:
        base, spec, count = table.base, table.spec, request.count
        self._spec, self._cosine, self._count = spec, request.cosine, count
        self._sections = base.sections  # as long as they are referred to, they stay mapped
        self._rows_at, self._positions_at = address(self._sections.rows), address(self._sections.positions)
        self._queries = _queries(request, spec.dim)
        self._tiles = _tiles(self._queries)
        # Rows before this one are followed by as many bytes as kernels read beyond them; the others are copied.
        self._safe = max(0, base.rows - -(-_OVERREAD_BYTES // spec.row_bytes))
        tail = self._sections.rows[self._safe :].reshape(-1)
        self._tail = np.zeros(tail.size + _OVERREAD_BYTES, np.uint8)
        self._tail[: tail.size] = tail
        bounds = np.full(max(count, len(self._tiles) * TILE_QUERIES), np.inf, np.float32)
        bounds[:count] = -np.inf
        scores, keys = np.empty((count, request.k), np.float32), np.empty((count, request.k), np.uint64)
        self._heap = (scores, keys, np.zeros(count, np.int64), bounds)
        lists = [np.unique(each) for each in excluded]
        starts = np.zeros(count + 1, np.int64)
        np.cumsum([len(each) for each in lists], out=starts[1:])
        self._excluded = (np.concatenate([_NO_POSITIONS, *lists]), starts)
        self._replaced = _NO_POSITIONS
        self._slice_rows = max(top_k_kernels.BLOCK, SLICE_PRODUCTS // (spec.dim * max(1, count)))

    def newer(
        self, newer: Newer, positions: UInt64Array, words: UInt64Array, query: int | None, go_on: Callable[[], None]
    ) -> None:
        """Scan copies of newer rows, but for those that are gone, by one query; None: by all."""
        queries, tiles = slice(0, self._count), self._tiles
        if query is not None:
            queries, tiles = slice(query, query + 1), self._tiles[:0]
        there = ~newer.segments.is_gone(words)
        positions, words = positions[there], words[there]
        for begin in range(0, len(words), self._slice_rows):
            go_on()
            some = slice(begin, begin + self._slice_rows)
            rows = newer.segments.rows(words[some])
            assert not isinstance(rows, BytesRows), "rows of bytes have no scores"
            copies = np.zeros(rows.size + _OVERREAD_BYTES, np.uint8)
            copies[: rows.size] = rows.reshape(-1)
            ats = address(copies), address(positions) + POSITION_BYTES * begin
            self._scan(ats, len(rows), _NO_ROWS, queries, tiles, _NO_POSITIONS)

    def leave_out(self, lists: list[UInt64Array]) -> None:
        """Have the base's rows at these positions left out of what is scanned from now on."""
        self._replaced = np.unique(np.concatenate([_NO_POSITIONS, *lists]))

    def adjacent(self, first: int, last: int, go_on: Callable[[], None]) -> None:
        """Scan rows [first, last) by all queries."""
        for begin in range(first, last, self._slice_rows):
            go_on()
            end = min(last, begin + self._slice_rows)
            for one, other in ((begin, min(end, self._safe)), (max(begin, self._safe), end)):
                if one < other:
                    self._offer(one, other - one, _NO_ROWS, slice(0, self._count), self._tiles)

    def listed(self, query: int, rows: Int64Array, go_on: Callable[[], None]) -> None:
        """Scan these rows by one query."""
        for begin in range(0, len(rows), self._slice_rows):
            go_on()
            some = rows[begin : begin + self._slice_rows]
            for first, part in ((0, some[some < self._safe]), (self._safe, some[some >= self._safe])):
                if len(part):
                    self._offer(first, len(part), part - first, slice(query, query + 1), self._tiles[:0])

    def _offer(self, first: int, count: int, rows: Int64Array, queries: slice, tiles: Float32Array) -> None:
        """Scan `count` rows from `first` on, or those of `rows`, counted from there; all on one side of the border."""
        row_bytes, before = self._spec.row_bytes, first - self._safe
        ats = (
            address(self._tail) + before * row_bytes if before >= 0 else self._rows_at + first * row_bytes,
            self._positions_at + POSITION_BYTES * first,
        )
        self._scan(ats, count, rows, queries, tiles, self._replaced)

    def _scan(
        self,
        ats: tuple[int, int],
        count: int,
        rows: Int64Array,
        queries: slice,
        tiles: Float32Array,
        replaced: UInt64Array,
    ) -> None:
        """Scan rows, given where they and their positions are."""
        scores, keys, counts, bounds = self._heap
        excluded, starts = self._excluded
        top_k_kernels.scan(
            ROW_TYPES[self._spec.row_type],
            self._spec.row_bytes,
            self._spec.dim,
            *ats,
            count,
            rows,
            self._queries[queries],
            tiles,
            self._cosine,
            (scores[queries], keys[queries], counts[queries], bounds[queries.start :]),
            (excluded, starts[queries.start : queries.stop + 1], replaced),
        )

    def reply(self) -> TopKReply:
        """Return the best rows of all queries."""
        scores, keys, counts, _ = self._heap
        orders = [
            np.lexsort((keys[query, :count], -scores[query, :count])) for query, count in enumerate(counts.tolist())
        ]
        best_keys = [keys[query][order] for query, order in enumerate(orders)]
        best_scores = [scores[query][order] for query, order in enumerate(orders)]
        return TopKReply(
            counts.astype(np.uint32),
            positions_of(np.concatenate([_NO_POSITIONS, *best_keys])),
            np.concatenate([np.empty(0, np.float32), *best_scores]),
        )


def _queries(request: TopKRequest, dim: int) -> Float32Array:
    """Return the queries as kernels take them: with zeros up to a multiple of `LANES`; for cosines of length 1."""
    vectors = request.vectors.reshape(request.count, dim)
    if not np.isfinite(vectors).all():
        raise InvalidInput("top_k: queries must be finite; one holds NaN or an infinity")
    queries = np.zeros((request.count, -(-dim // LANES) * LANES), np.float32)
    queries[:, :dim] = vectors
    if request.cosine:
        exact = vectors.astype(np.float64)
        lengths = np.sqrt((exact * exact).sum(axis=1, keepdims=True))
        queries[:, :dim] = exact / np.where(lengths > 0, lengths, 1.0)
    return queries


def _tiles(queries: Float32Array) -> Float32Array:
    """Return queries in tiles, the number of the query last; no tiles of few queries."""
    count, width = queries.shape
    tiles = -(-count // TILE_QUERIES) if count >= top_k_kernels.TILED else 0
    padded = np.zeros((tiles * TILE_QUERIES, width), np.float32)
    padded[: count if tiles else 0] = queries[: count if tiles else 0]
    return np.ascontiguousarray(padded.reshape(tiles, TILE_QUERIES, width).transpose(0, 2, 1))
