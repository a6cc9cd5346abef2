"""The kernels of packed columns: one pass to check a request, one to lay the columns of several end to end, and one to
make keys of ids that are sent as such, and a few for what goes with those.

They walk a request as `ringpull.proto` lays it out (`PackedColumns`). `descriptions` says what each column is, `sizes`
how many rows and values it has, and `places` where its buffers begin: int64 (C, 5), (C, 2) and (C, 4), columns named
below. `words` are the data's bytes as uint64, which is how buffers are aligned. `measure` trusts nothing and makes
places; `gather` relies on them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.request.key_rules import ADD, CLIP, FROM_END
from ringpull.ps.compiled import kernel

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]
AnyArray = NDArray[Any]

# Columns of `descriptions`.
ITEM: Final = 0
"""Bytes of a value: 8, 4, or `STRINGS`."""
RAGGED: Final = 1
WEIGHTED: Final = 2
WIDTH: Final = 3
"""Values per row when not ragged, at least 1."""
CONTEXT: Final = 4

STRINGS: Final = 0

# Columns of `sizes`.
ROWS: Final = 0
VALUES: Final = 1

# Columns of `places`: the word at which a buffer begins.
NUMBERS: Final = 0
"""Values, or the lengths of strings; their text begins where these end."""
TEXT_BYTES: Final = 1
"""Number of them; 0 for numbers."""
OFFSETS: Final = 2
WEIGHTS: Final = 3

# What `measure` finds wrong.
FITS: Final = 0
OUT_OF_DATA: Final = 1
BAD_SHAPE: Final = 2
BAD_OFFSETS: Final = 3
MANY_ROWS: Final = 4
LONG_ROW: Final = 5
NO_ROWS: Final = 6
OTHER_ROWS: Final = 7
CONTEXT_ROWS: Final = 8
LEFT_OVER: Final = 9


@kernel()
def _longest_row(words: UInt64Array, begin: np.int64, rows: np.int64, values: np.int64) -> np.int64:
    """Return the most values in a row by the `rows + 1` offsets from `begin` on; -1 when those are no offsets."""
    # Neighbours are compared, not subtracted: differences of hostile offsets can wrap around to look right.
    longest = np.int64(0)
    before = np.int64(words[begin])
    if before != 0:
        return np.int64(-1)
    for i in range(begin + 1, begin + rows + 1):
        offset = np.int64(words[i])
        if offset < before or offset > values:
            return np.int64(-1)
        longest = max(longest, offset - before)
        before = offset
    return longest if before == values else np.int64(-1)


@kernel()
def measure(
    words: UInt64Array, sizes: Int64Array, descriptions: Int64Array, max_rows: int, max_values: int
) -> tuple[int, int, int, Int64Array]:
    """Find the buffers of a request, and what is wrong with them.

    Nothing is read beyond `words`, whatever the sizes say, and nothing of their size is allocated.

    Returns:
        What is wrong first, or `FITS`; the index of the column that is; its longest row when that is wrong, else the
        rows of the candidate columns; places.
    """
    room = words.size
    halves = words.view(np.uint32)
    places = np.zeros((sizes.shape[0], 4), np.int64)
    candidates = -1
    at = np.int64(0)
    for column in range(sizes.shape[0]):
        rows, values = sizes[column, ROWS], sizes[column, VALUES]
        # Bounds first: later sums and products of sizes within the data cannot overflow.
        if rows < 0 or values < 0 or values > 2 * room:
            return OUT_OF_DATA, column, candidates, places
        longest = descriptions[column, WIDTH]
        places[column, NUMBERS] = at
        item = descriptions[column, ITEM]
        taken = values if item == 8 else (values + 1) // 2
        if taken > room - at:
            return OUT_OF_DATA, column, candidates, places
        if item == STRINGS:
            text = np.int64(0)
            for i in range(2 * at, 2 * at + values):
                text += np.int64(halves[i])
            places[column, TEXT_BYTES] = text
            taken += (text + 7) // 8
            if taken > room - at:
                return OUT_OF_DATA, column, candidates, places
        at += taken
        if descriptions[column, RAGGED]:
            places[column, OFFSETS] = at
            if rows >= room - at:
                return OUT_OF_DATA, column, candidates, places
            longest = _longest_row(words, at, rows, values)
            if longest < 0:
                return BAD_OFFSETS, column, candidates, places
            at += rows + 1
            if descriptions[column, WEIGHTED]:
                places[column, WEIGHTS] = at
                if (values + 1) // 2 > room - at:
                    return OUT_OF_DATA, column, candidates, places
                at += (values + 1) // 2
        elif values % longest != 0 or values // longest != rows:
            return BAD_SHAPE, column, candidates, places
        if descriptions[column, CONTEXT]:
            if rows != 1:
                return CONTEXT_ROWS, column, candidates, places
        elif candidates < 0:
            candidates = int(rows)
            if rows > max_rows:
                return MANY_ROWS, column, candidates, places
            if rows == 0:
                return NO_ROWS, column, candidates, places
        elif rows != candidates:
            return OTHER_ROWS, column, candidates, places
        if longest > max_values:
            return LONG_ROW, column, int(longest), places
    if at != room:
        return LEFT_OVER, -1, candidates, places
    return FITS, -1, candidates, places


@kernel(nogil=False)
def measure_at_once(
    words: UInt64Array, sizes: Int64Array, descriptions: Int64Array, max_rows: int, max_values: int
) -> tuple[int, int, int, Int64Array]:
    """Return what `measure` does, and keep the GIL: for requests that are not large.

    They take a few microseconds. Whoever lets go of the lock for that gets it back when another thread is through.
    """
    result: tuple[int, int, int, Int64Array] = measure(words, sizes, descriptions, max_rows, max_values)
    return result


@kernel()
def _end_to_end(
    sizes: Int64Array, places: Int64Array, descriptions: Int64Array
) -> tuple[Int64Array, Int64Array, np.int64]:
    """Return sizes (C, 2) and places (C, 4) of R requests end to end, and the number of words that they take."""
    requests, columns = sizes.shape[0], sizes.shape[1]
    all_sizes = np.zeros((columns, 2), np.int64)
    all_places = np.zeros((columns, 4), np.int64)
    end = np.int64(0)
    for column in range(columns):
        rows = values = text = np.int64(0)
        for r in range(requests):
            rows += sizes[r, column, ROWS]
            values += sizes[r, column, VALUES]
            text += places[r, column, TEXT_BYTES]
        all_sizes[column, ROWS], all_sizes[column, VALUES] = rows, values
        all_places[column, NUMBERS], all_places[column, TEXT_BYTES] = end, text
        end += values if descriptions[column, ITEM] == 8 else (values + 1) // 2
        end += (text + 7) // 8
        if descriptions[column, RAGGED]:
            all_places[column, OFFSETS] = end
            end += rows + 1
            if descriptions[column, WEIGHTED]:
                all_places[column, WEIGHTS] = end
                end += (values + 1) // 2
    return all_sizes, all_places, end


@kernel()
def _copy(source: AnyArray, begin: int, to: AnyArray, at: int, count: int) -> None:
    """Copy `count` items from `begin` on to `at` and on: both within their arrays."""
    # Unsigned indexes: numba lets a negative one count from the end, and to test for that keeps loops from being
    # vectorised.
    first, first_to = np.uint64(begin), np.uint64(at)
    for i in range(np.uint64(count)):
        to[first_to + i] = source[first + i]


@kernel()
def gather(
    words: UInt64Array, starts: Int64Array, sizes: Int64Array, places: Int64Array, descriptions: Int64Array
) -> tuple[UInt64Array, Int64Array, Int64Array]:
    """Lay the columns of R requests of one layout end to end, as if one request had all their rows.

    Args:
        words: The requests' words, end to end.
        starts: (R,): where those of each begin.
        sizes: (R, C, 2).
        places: (R, C, 4): as `measure` found them, counted from the request's own first word.
        descriptions: (C, 5).

    Returns:
        Words, sizes (C, 2) and places (C, 4) of the whole.
    """
    requests, columns = sizes.shape[0], sizes.shape[1]
    all_sizes, all_places, end = _end_to_end(sizes, places, descriptions)
    out = np.empty(end, np.uint64)
    from_halves, to_halves = words.view(np.uint32), out.view(np.uint32)
    from_bytes, to_bytes = words.view(np.uint8), out.view(np.uint8)
    for column in range(columns):
        item = descriptions[column, ITEM]
        numbers = all_places[column, NUMBERS]
        texts = 8 * (numbers + (all_sizes[column, VALUES] + 1) // 2)
        offsets, weights = all_places[column, OFFSETS], all_places[column, WEIGHTS]
        row = value = text = np.int64(0)
        if descriptions[column, RAGGED]:
            out[offsets] = 0
        for r in range(requests):
            start, values = starts[r], sizes[r, column, VALUES]
            source = start + places[r, column, NUMBERS]
            if item == 8:
                _copy(words, source, out, numbers + value, values)
            else:
                _copy(from_halves, 2 * source, to_halves, 2 * numbers + value, values)
            if item == STRINGS:
                size = places[r, column, TEXT_BYTES]
                source = 8 * (source + (values + 1) // 2)
                _copy(from_bytes, source, to_bytes, texts + text, size)
                text += size
            if descriptions[column, RAGGED]:
                source, to = np.uint64(start + places[r, column, OFFSETS] + 1), np.uint64(offsets + row + 1)
                for i in range(np.uint64(sizes[r, column, ROWS])):
                    out[to + i] = words[source + i] + np.uint64(value)
                if descriptions[column, WEIGHTED]:
                    source = 2 * (start + places[r, column, WEIGHTS])
                    _copy(from_halves, source, to_halves, 2 * weights + value, values)
            row += sizes[r, column, ROWS]
            value += values
    return out, all_sizes, all_places


@kernel()
def direct_keys(words: UInt64Array, begins: Int64Array, counts: Int64Array, rules: Int64Array) -> UInt64Array:
    """Return the keys of F columns of ids end to end: of each, `counts` words from `begins` on, by its rule.

    Args:
        rules: (F, 3): a `KeyRule` each.
    """
    keys = np.empty(counts.sum(), np.uint64)
    end = np.uint64(0)
    for column in range(counts.size):
        begin, count = np.uint64(begins[column]), np.uint64(counts[column])
        kind, first, second = rules[column, 0], rules[column, 1], rules[column, 2]
        if kind == ADD:
            for i in range(count):
                keys[end + i] = words[begin + i] + np.uint64(first)
        elif kind == FROM_END:
            for i in range(count):
                id_ = np.int64(words[begin + i])
                keys[end + i] = np.uint64(id_ + first if id_ < 0 else id_)
        elif kind == CLIP:
            for i in range(count):
                keys[end + i] = np.uint64(min(max(np.int64(words[begin + i]), first), second))
        else:
            for i in range(count):
                rest = np.int64(words[begin + i]) % first
                keys[end + i] = np.uint64(rest + first if rest < 0 else rest)
        end += count
    return keys


@kernel()
def direct_offsets(words: UInt64Array, begins: Int64Array, counts: Int64Array) -> Int64Array:
    """Return the offsets of columns of bags end to end: of each, `counts` words from `begins` on."""
    offsets = np.empty(counts.sum(), np.int64)
    signed, end = words.view(np.int64), 0
    for column in range(counts.size):
        _copy(signed, begins[column], offsets, end, counts[column])
        end += counts[column]
    return offsets


@kernel()
def all_within(words: UInt64Array, begins: Int64Array, counts: Int64Array, lows: Int64Array, highs: Int64Array) -> bool:
    """Return whether all ids of some columns are at least their `lows`, and below their `highs`."""
    for column in range(counts.size):
        low, high, begin = lows[column], highs[column], np.uint64(begins[column])
        beyond = np.int64(0)
        for i in range(np.uint64(counts[column])):
            id_ = np.int64(words[begin + i])
            beyond += np.int64(id_ < low) + np.int64(id_ >= high)
        if beyond:
            return False
    return True
