"""The columns of a request as the head works on them: in one buffer, checked once, still bytes.

Requests whose columns are of the same names and types share a `Layout`, so that those of a micro-batch are joined by
one kernel and prepared as one. A front-end either has columns in this form already and has them checked (`checked`),
or has arrays, which are packed first (`of_columns`).

Sizes, offsets, rows and limits are checked per request, here; what the values mean is for the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.degrade.levels import Degradation
from ringpull.inference.head.request import kernels
from ringpull.inference.schema.columns import (
    Column,
    Ragged,
    bad_offsets,
    no_rows,
    no_text_in_row,
    not_one_row,
    other_rows,
)
from ringpull.inference.wire.column_codec import (
    LENGTHS,
    NUMBERS,
    DataType,
    check_shape,
    decode_strings,
    encode_column,
    unknown_type,
)
from ringpull.inference.wire.packing import LAYOUTS_KEPT, ColumnKind, PackedColumns, pack, short_names
from ringpull.ps.errors import InvalidInput, LimitExceeded, NoText, RingpullError

AT_ONCE_BYTES: Final = 1 << 20
"""Bytes of the largest request that is checked without letting another thread have the interpreter's lock."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest request that is taken."""

    max_candidates: int
    """Candidate rows."""
    max_values_per_row: int
    """Values in one row of one column."""
    max_columns: int = 4_096
    """Columns, features and context together."""
    max_message_bytes: int = 64 << 20
    """Bytes of its message, where the head receives that itself; gRPC has its own."""


def check_count(columns: int, max_columns: int) -> None:
    """Check the number of columns, before anything is done for each: in Python that would hold up other requests.

    Raises:
        LimitExceeded: There are more than `max_columns`.
    """
    if columns > max_columns:
        raise LimitExceeded(f"the request has {columns} columns; max_columns is {max_columns}")


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Layout:
    """The names and types of a request's C columns. Requests of one layout usually share one object."""

    names: tuple[str, ...]
    dtypes: tuple[np.dtype[Any] | None, ...]
    """Numpy types; None for strings."""
    descriptions: NDArray[np.int64]
    """(C, 5): what the kernels take (`ringpull.inference.head.request.kernels`)."""
    widths: tuple[int, ...]
    """Values per row; 0 where there is one, or where rows are ragged."""

    @classmethod
    def of(cls, kinds: tuple[ColumnKind, ...]) -> Layout:
        """Return the layout of these columns.

        Raises:
            InvalidInput: A column cannot be as it says; the message names the feature. Or none is of candidates.
        """
        return (_known_layout if short_names(kinds) else _layout)(kinds)


def _layout(kinds: tuple[ColumnKind, ...]) -> Layout:
    descriptions, dtypes = [], []
    seen: set[tuple[str, bool]] = set()
    for name, number, context, ragged, weighted, width in kinds:
        if (name, context) in seen:
            raise InvalidInput(f"feature {name}: is twice among the columns")
        seen.add((name, context))
        if number != DataType.STRING and number not in NUMBERS:
            raise unknown_type(name, "dtype", number)
        check_shape(name, ragged=ragged, weighted=weighted, width=width)
        dtype = NUMBERS.get(number)
        item = kernels.STRINGS if dtype is None else dtype.itemsize
        descriptions.append((item, ragged, weighted, width or 1, context))
        dtypes.append(dtype)
    if all(context for _, _, context, *_ in kinds):
        raise InvalidInput("features: there are no candidate columns; send at least one, with a row per candidate")
    return Layout(
        tuple(name for name, *_ in kinds),
        tuple(dtypes),
        np.array(descriptions, np.int64),
        tuple(width for *_, width in kinds),
    )


_known_layout: Final = lru_cache(LAYOUTS_KEPT)(_layout)


@dataclass(frozen=True, slots=True, eq=False)
class ReceivedColumns:
    """The columns of one request, or of several end to end; all buffers are known to fit."""

    layout: Layout
    row_counts: tuple[int, ...]
    """Candidate rows of each request; context columns have a row for each of them."""
    words: NDArray[np.uint64]
    """Buffers of the columns, each beginning at a word."""
    sizes: NDArray[np.int64]
    """(C, 2): rows and values of each column."""
    places: NDArray[np.int64]
    """(C, 4): where the buffers of each column begin, as the kernels take it."""
    degradation: Degradation | None = None
    """Degradation of the columns when they are prepared; None: nothing is left out."""

    @classmethod
    def checked(cls, layout: Layout, sizes: NDArray[np.int64], data: bytes, limits: Limits) -> ReceivedColumns:
        """Check the columns of one request; the result is read-only views of `data`.

        Args:
            layout: Layout of C columns.
            sizes: (C, 2): rows and values of each.
            data: Their buffers, packed; a multiple of 8 bytes.

        Raises:
            InvalidInput: Sizes, offsets or rows do not fit; the message names the feature.
            LimitExceeded: Too many rows, or values in a row.
        """
        words = np.frombuffer(data, np.uint64)
        measure = kernels.measure_at_once if words.nbytes <= AT_ONCE_BYTES else kernels.measure
        wrong, column, number, places = measure(
            words, sizes, layout.descriptions, limits.max_candidates, limits.max_values_per_row
        )
        if wrong != kernels.FITS:
            raise _refusal(layout, words, sizes, places, limits, wrong, column, number)
        return cls(layout, (number,), words, sizes, places)

    @classmethod
    def of(cls, packed: PackedColumns, limits: Limits) -> ReceivedColumns:
        """Check columns that were packed here.

        Raises:
            InvalidInput: They do not fit each other; the message names the feature.
            LimitExceeded: Too many columns, rows, or values in a row.
        """
        check_count(len(packed.kinds), limits.max_columns)
        return cls.checked(Layout.of(packed.kinds), packed.sizes, packed.data, limits)

    @classmethod
    def of_columns(
        cls, features: Mapping[str, Column], context: Mapping[str, Column], limits: Limits
    ) -> ReceivedColumns:
        """Pack and check columns that a front-end holds as arrays.

        Args:
            features: Columns with a row per candidate.
            context: Columns of one row, which stands for all candidates.

        Raises:
            InvalidInput: A column cannot be packed, or they do not fit each other; the message names the feature.
            LimitExceeded: Too many columns, rows, or values in a row.
        """
        check_count(len(features) + len(context), limits.max_columns)
        candidates, once = (
            {name: encode_column(name, column) for name, column in part.items()} for part in (features, context)
        )
        return cls.of(pack(candidates, once), limits)

    @classmethod
    def joined(cls, requests: Sequence[ReceivedColumns]) -> ReceivedColumns:
        """Return requests of one layout and one degradation end to end."""
        if len(requests) == 1:
            return requests[0]
        layout = requests[0].layout
        starts = np.array([0, *accumulate(request.words.size for request in requests[:-1])])
        words, sizes, places = kernels.gather(
            np.concatenate([request.words for request in requests]),
            starts,
            np.concatenate([request.sizes for request in requests]).reshape(len(requests), -1, 2),
            np.concatenate([request.places for request in requests]).reshape(len(requests), -1, 4),
            layout.descriptions,
        )
        row_counts = tuple(rows for request in requests for rows in request.row_counts)
        return cls(layout, row_counts, words, sizes, places, requests[0].degradation)

    @property
    def rows(self) -> int:
        """Number of candidate rows of all requests."""
        return sum(self.row_counts)

    @property
    def rows_left(self) -> int:
        """Number of rows that are scored."""
        degradation = self.degradation
        return self.rows if degradation is None else sum(map(degradation.rows, self.row_counts))

    def columns(self, chosen: Sequence[int] | None = None) -> tuple[dict[str, Column], dict[str, Column]]:
        """Return the columns of candidates and of context, views of the words where they are not strings.

        Args:
            chosen: Columns that are wanted; None: all.

        Raises:
            InvalidInput: A string is not UTF-8; the message names its feature.
        """
        parts: tuple[dict[str, Column], dict[str, Column]] = {}, {}
        layout, words = self.layout, self.words
        signed, halves = words.view(np.int64), words.view(np.float32)
        wanted = list(range(len(layout.names)) if chosen is None else chosen)
        descriptions, sizes, places = (each[wanted].tolist() for each in (layout.descriptions, self.sizes, self.places))
        for number, description, (rows, count), place in zip(wanted, descriptions, sizes, places, strict=True):
            name, dtype, width = layout.names[number], layout.dtypes[number], layout.widths[number]
            numbers, text_bytes, offsets, weights = place
            _, ragged, weighted, _, context = description
            values: NDArray[Any]
            if dtype is None:
                begin = 8 * (numbers + (count + 1) // 2)
                text = words.view(np.uint8)[begin : begin + text_bytes].tobytes()
                starts = signed[offsets : offsets + rows + 1] if ragged else None
                try:
                    values = decode_strings(name, text, words.view(LENGTHS)[2 * numbers : 2 * numbers + count])
                except NoText as exc:
                    raise no_text_in_row(name, exc, starts, width or 1) from exc
            elif dtype.itemsize == 4:
                values = halves[2 * numbers : 2 * numbers + count]
            else:
                values = words[numbers : numbers + count].view(dtype)
            column: Column = values
            if ragged:
                own_weights = halves[2 * weights : 2 * weights + count] if weighted else None
                column = Ragged.known_to_fit(values, signed[offsets : offsets + rows + 1], own_weights)
            elif width:
                column = values.reshape(-1, width)
            parts[context][name] = column
        return parts


def _refusal(
    layout: Layout,
    words: NDArray[np.uint64],
    sizes: NDArray[np.int64],
    places: NDArray[np.int64],
    limits: Limits,
    wrong: int,
    column: int,
    number: int,
) -> RingpullError:
    """Return the error for what `measure` found."""
    if wrong == kernels.LEFT_OVER:
        return InvalidInput(f"packed: its columns take less than its {words.nbytes} bytes of data")
    if wrong == kernels.NO_ROWS:
        return no_rows()
    if wrong == kernels.MANY_ROWS:
        return LimitExceeded(f"the request has {number} rows; max_candidates is {limits.max_candidates}")
    name = layout.names[column]
    rows, values = sizes[column].tolist()
    if wrong == kernels.LONG_ROW:
        return LimitExceeded(
            f"feature {name}: a row has {number} values; max_values_per_row is {limits.max_values_per_row}"
        )
    if wrong == kernels.OTHER_ROWS:
        return other_rows(name, rows, number)
    if wrong == kernels.CONTEXT_ROWS:
        return not_one_row(name, rows)
    if wrong == kernels.BAD_OFFSETS:
        begin = int(places[column, kernels.OFFSETS])
        return bad_offsets(name, words.view(np.int64)[begin : begin + rows + 1], values)
    if wrong == kernels.BAD_SHAPE:
        width = layout.widths[column] or 1
        return InvalidInput(f"feature {name}: {values} values are not {rows} rows of {width}")
    return InvalidInput(f"feature {name}: {rows} rows and {values} values are more than the data holds")
