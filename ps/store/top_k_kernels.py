"""The compiled scan of top-k: scores rows of a table against queries, and keeps the best of each query in a heap.

Rows go in blocks of `BLOCK`: all scores of a block first, then those that reach the bound of their query are offered
to its heap. A heap has its worst row at the root: of the lowest score and, among those, of the largest key. While it is
full its bound is that score; a NaN reaches none.

Few queries score rows as they are stored. From `TILED` on a block is decoded, and goes through tiles of queries
(`ringpull.ps.store.dots`); scores are the same bits either way. Kernels take addresses, as those of
`ringpull.ps.store.kernels` do: `ringpull.ps.store.top_k` checks all sizes, and keeps the arrays alive.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba
import numpy as np

from ringpull.ps.compiled import kernel
from ringpull.ps.hash_kernels import unfmix64
from ringpull.ps.spec import RowType
from ringpull.ps.store.dots import DOTS, GROUP, LANES, TILE_QUERIES, TILE_ROWS, reached, reached_one, tile
from ringpull.ps.store.intrinsics import LINE_BYTES, lowest_bit, prefetch_near, put_int64, u64
from ringpull.ps.store.reducers import ROW_TYPES

TILED: Final = 6
"""Queries from which on they go in tiles: a tile costs as much as some five queries one by one."""
BLOCK: Final = 32
"""Rows of a block; a multiple of `TILE_ROWS`. Decoded ones of 64 numbers take 8 KiB, of the first cache level."""
AHEAD_BYTES: Final = 2048
"""Distance at which rows are prefetched: across the border of a page, where the processor's own prefetching ends."""

_MIN_SQUARES: Final = np.float32(1e-30)
_MAX_SQUARES: Final = np.float32(1e30)
"""Bounds of a sum of squares that float32 has without loss; beyond them a cosine is computed in float64."""


@numba.njit
def _is_worse(score, key, other_score, other_key):  # type: ignore[no-untyped-def]
    return score < other_score or (score == other_score and key > other_key)


@numba.njit
def _add(scores, keys, count, score, key):  # type: ignore[no-untyped-def]
    """Add a row to a heap that has `count`, which is not full."""
    at = count
    while at > 0:
        parent = (at - 1) >> 1
        if not _is_worse(score, key, scores[parent], keys[parent]):
            break
        scores[at], keys[at] = scores[parent], keys[parent]
        at = parent
    scores[at], keys[at] = score, key


@numba.njit
def _replace_root(scores, keys, count, score, key):  # type: ignore[no-untyped-def]
    """Put a row in place of the worst one of a heap."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        if child + 1 < count and _is_worse(scores[child + 1], keys[child + 1], scores[child], keys[child]):
            child += 1
        if not _is_worse(scores[child], keys[child], score, key):
            break
        scores[at], keys[at] = scores[child], keys[child]
        at = child
    scores[at], keys[at] = score, key


@numba.njit
def _is_listed(positions, begin, end, position):  # type: ignore[no-untyped-def]
    while begin < end:
        middle = (begin + end) >> 1
        if positions[middle] < position:
            begin = middle + 1
        else:
            end = middle
    return begin < len(positions) and positions[begin] == position


@numba.njit
def _offer(heap, lists, query, score, position):  # type: ignore[no-untyped-def]
    """Take a row whose score reaches the bound of a query, unless it is left out or comes after all that are there."""
    scores, keys, counts, bounds = heap
    excluded, offsets, replaced = lists
    begin, end = offsets[query], offsets[query + 1]
    if begin < end and _is_listed(excluded[:end], begin, end, position):
        return
    if len(replaced) and _is_listed(replaced, 0, len(replaced), position):
        return
    key = unfmix64(position)
    count, k = counts[query], scores.shape[1]
    if count < k:
        _add(scores[query], keys[query], count, score, key)
        counts[query] = count + 1
        if count + 1 == k:
            bounds[query] = scores[query, 0]
    elif _is_worse(scores[query, 0], keys[query, 0], score, key):
        _replace_root(scores[query], keys[query], k, score, key)
        bounds[query] = scores[query, 0]


class _Blocks(NamedTuple):
    """What is computed of a block of rows of one type, whose addresses are int64 (count,)."""

    dots: Any
    """`dots(ats_at, count, dim, queries_at, query_bytes, count_queries, scores_at)` writes `scores[query, i]`; up to a
    multiple of `GROUP`."""
    norms: Any
    """`norms(ats, count, dim, norms)` writes lengths of rows; -1 where float32 does not do."""
    decode: Any
    """`decode(ats, count, dim, decoded)` writes rows as float32."""


def _blocks(row_type: RowType) -> _Blocks:
    dots, squares, decode = DOTS[row_type]

    @numba.njit
    def block_dots(ats_at, count, dim, queries_at, query_bytes, count_queries, scores_at):  # type: ignore[no-untyped-def]
        for i in range(0, count, GROUP):
            for query in range(count_queries):
                out_at = scores_at + 4 * (BLOCK * query + i)
                dots(ats_at + 8 * i, queries_at + query * query_bytes, dim, out_at)

    @numba.njit
    def block_norms(ats, count, dim, norms):  # type: ignore[no-untyped-def]
        for i in range(count):
            total = squares(ats[i], dim)
            norms[i] = np.sqrt(total) if _MIN_SQUARES < total < _MAX_SQUARES else np.float32(-1.0)

    @numba.njit
    def block_decode(ats, count, dim, decoded):  # type: ignore[no-untyped-def]
        at, row_bytes = np.int64(decoded.ctypes.data), 4 * decoded.shape[1]
        for i in range(count):
            decode(ats[i], at + i * row_bytes, dim)

    return _Blocks(block_dots, block_norms, block_decode)


_FLOAT32, _FLOAT16, _BFLOAT16 = (ROW_TYPES[each] for each in (RowType.FLOAT32, RowType.FLOAT16, RowType.BFLOAT16))
_float32_dots, _float32_norms, _float32_decode = _blocks(RowType.FLOAT32)
_float16_dots, _float16_norms, _float16_decode = _blocks(RowType.FLOAT16)
_bfloat16_dots, _bfloat16_norms, _bfloat16_decode = _blocks(RowType.BFLOAT16)
_int8_dots, _int8_norms, _int8_decode = _blocks(RowType.INT8)


@numba.njit
def _dots(row_type, ats_at, count, dim, queries_at, query_bytes, count_queries, scores_at):  # type: ignore[no-untyped-def]
    if row_type == _FLOAT32:
        _float32_dots(ats_at, count, dim, queries_at, query_bytes, count_queries, scores_at)
    elif row_type == _FLOAT16:
        _float16_dots(ats_at, count, dim, queries_at, query_bytes, count_queries, scores_at)
    elif row_type == _BFLOAT16:
        _bfloat16_dots(ats_at, count, dim, queries_at, query_bytes, count_queries, scores_at)
    else:
        _int8_dots(ats_at, count, dim, queries_at, query_bytes, count_queries, scores_at)


@numba.njit
def _norms(row_type, ats, count, dim, norms):  # type: ignore[no-untyped-def]
    if row_type == _FLOAT32:
        _float32_norms(ats, count, dim, norms)
    elif row_type == _FLOAT16:
        _float16_norms(ats, count, dim, norms)
    elif row_type == _BFLOAT16:
        _bfloat16_norms(ats, count, dim, norms)
    else:
        _int8_norms(ats, count, dim, norms)


@numba.njit
def _decode(row_type, ats, count, dim, decoded):  # type: ignore[no-untyped-def]
    if row_type == _FLOAT32:
        _float32_decode(ats, count, dim, decoded)
    elif row_type == _FLOAT16:
        _float16_decode(ats, count, dim, decoded)
    elif row_type == _BFLOAT16:
        _bfloat16_decode(ats, count, dim, decoded)
    else:
        _int8_decode(ats, count, dim, decoded)


@numba.njit
def _tiles(block_at, row_bytes, count, tiles, scores):  # type: ignore[no-untyped-def]
    """Write the scores of float32 rows; the last tile may have more, which do not count."""
    width = tiles.shape[1]
    out = np.empty((TILE_ROWS, TILE_QUERIES), np.float32)
    tiles_at, out_at = np.int64(tiles.ctypes.data), np.int64(out.ctypes.data)
    for number in range(len(tiles)):
        tile_at, first = tiles_at + 4 * number * width * TILE_QUERIES, number * TILE_QUERIES
        for row in range(0, count, TILE_ROWS):
            tile(block_at + row * row_bytes, row_bytes, tile_at, width >> 4, out_at)
            for part in range(TILE_ROWS):
                for lane in range(TILE_QUERIES):
                    scores[row + part, first + lane] = out[part, lane]


@numba.njit
def _careful_cosine(row, query):  # type: ignore[no-untyped-def]
    product = total = 0.0
    for column in range(len(row)):
        number = np.float64(row[column])
        product += number * np.float64(query[column])
        total += number * number
    return np.float32(product / np.sqrt(total)) if total != 0.0 else np.float32(0.0)


@numba.njit
def _divide(row_type, ats, count, dim, queries, norms, decoded, scores, across):  # type: ignore[no-untyped-def]
    """Make cosines of dot products, which lie `across` queries, by row, or by query."""
    _norms(row_type, ats, count, dim, norms)
    for i in range(count):
        if norms[i] < 0.0:
            _decode(row_type, ats[i:], 1, dim, decoded)
        for query in range(len(queries)):
            score = scores[i, query] if across else scores[query, i]
            score = score / norms[i] if norms[i] >= 0.0 else _careful_cosine(decoded[0], queries[query])
            if across:
                scores[i, query] = score
            else:
                scores[query, i] = score


@numba.njit
def _aim(ats_at, count, listed_at, first_at, row_bytes):  # type: ignore[no-untyped-def]
    """Note where the rows of a block are, and start loading later ones, or these if they lie apart.

    Those are told by numbers at `listed_at`, from `first_at` on; 0: they are adjacent. Addresses beyond the last row
    repeat it, up to a multiple of `GROUP`.
    """
    at = first_at
    for i in range(count):
        if listed_at:
            at = first_at + np.int64(u64(listed_at + 8 * i)) * row_bytes
            for line in range(0, row_bytes, LINE_BYTES):
                prefetch_near(at + line)
        else:
            at = first_at + i * row_bytes
        put_int64(ats_at + 8 * i, at)
    if not listed_at:
        for line in range(0, count * row_bytes, LINE_BYTES):
            prefetch_near(first_at + AHEAD_BYTES + line)
    for i in range(count, (count + GROUP - 1) // GROUP * GROUP):
        put_int64(ats_at + 8 * i, at)


@numba.njit
def _reached_of(scores_at, count, bound):  # type: ignore[no-untyped-def]
    """Return which of the scores of a block reach a bound, as bits."""
    bits = 0
    for first in range(0, count, LANES):
        bits |= reached_one(scores_at + 4 * first, bound) << first
    return bits & ((1 << count) - 1)


@numba.njit
def _offer_some(heap, lists, query, scores, bits, rows, begin, positions_at):  # type: ignore[no-untyped-def]
    """Offer rows of a block to the heap of a query: those that are told by bits."""
    while bits != 0:
        i = lowest_bit(bits)
        bits &= bits - 1
        row = rows[begin + i] if len(rows) else begin + i
        _offer(heap, lists, query, scores[query, i], u64(positions_at + 8 * row))


@numba.njit
def _offer_tiles(heap, lists, scores, count, positions_at):  # type: ignore[no-untyped-def]
    bounds_at, scores_at, width = np.int64(heap[3].ctypes.data), np.int64(scores.ctypes.data), scores.shape[1]
    for i in range(count):
        for first in range(0, width, TILE_QUERIES):
            bits = reached(scores_at + 4 * (i * width + first), bounds_at + 4 * first)
            while bits != 0:
                query = first + lowest_bit(bits)
                bits &= bits - 1
                _offer(heap, lists, query, scores[i, query], u64(positions_at + 8 * i))


@kernel()
def scan(row_type, row_bytes, dim, rows_at, positions_at, count, rows, queries, tiles, cosine, heap, lists):  # type: ignore[no-untyped-def]
    """Offer rows to the heaps of all queries.

    Args:
        row_type: Its number in `reducers.ROW_TYPES`.
        row_bytes: Bytes from one row to the next.
        dim: Numbers per row.
        rows_at: Address of the first row; `dots.OVERREAD` numbers after the last one can be read, too.
        positions_at: Address of their uint64 positions.
        count: Number of rows.
        rows: int64 (count,) numbers of the rows, from `rows_at` on; (0,): they are adjacent. Not with tiles.
        queries: float32 (Q, W): zeros from `dim` on; W is a multiple of `dots.LANES`.
        tiles: float32 (T, W, TILE_QUERIES): the same queries, and zeros for those that are missing in the last tile;
            (0, W, TILE_QUERIES) to go without tiles.
        cosine: Whether the score is a cosine; then queries have the length 1, or 0.
        heap: float32 (Q, k) scores, uint64 (Q, k) keys, int64 (Q,) counts, float32 (T x TILE_QUERIES or more,) bounds:
            -inf at first, and inf beyond Q. Changed.
        lists: uint64 (N,) positions of rows to leave out, ascending in each list, and int64 (Q+1,) starts of the lists;
            uint64 (M,) positions, ascending, of rows that every query is to leave out.
    """
    width, across = queries.shape[1], len(tiles) > 0
    ats, norms = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.float32)
    shape = (BLOCK, len(tiles) * TILE_QUERIES) if across else (len(queries), BLOCK)
    scores, decoded = np.zeros(shape, np.float32), np.zeros((BLOCK, width), np.float32)
    # Numbers for what is called for each block: to hand over an array takes longer than to score a row. All of these
    # arrays are handed over as such somewhere in the loop, and so kept.
    ats_at, scores_at = np.int64(ats.ctypes.data), np.int64(scores.ctypes.data)
    queries_at = np.int64(queries.ctypes.data)
    listed_at, step = (np.int64(rows.ctypes.data), 0) if len(rows) else (np.int64(0), row_bytes)
    bounds = heap[3]
    for begin in range(0, count, BLOCK):
        block = min(BLOCK, count - begin)
        _aim(ats_at, block, listed_at + 8 * begin if listed_at else 0, rows_at + begin * step, row_bytes)
        if not across:
            _dots(row_type, ats_at, block, dim, queries_at, 4 * width, len(queries), scores_at)
        elif row_type == _FLOAT32 and dim == width and block == BLOCK:
            _tiles(ats[0], row_bytes, block, tiles, scores)
        else:
            _decode(row_type, ats, block, dim, decoded)
            _tiles(np.int64(decoded.ctypes.data), 4 * width, block, tiles, scores)
        if cosine:
            _divide(row_type, ats, block, dim, queries, norms, decoded, scores, across)
        if across:
            _offer_tiles(heap, lists, scores, block, positions_at + 8 * begin)
        else:
            for query in range(len(queries)):
                bits = _reached_of(scores_at + 4 * BLOCK * query, block, bounds[query])
                if bits != 0:
                    _offer_some(heap, lists, query, scores, bits, rows, begin, positions_at)
