"""What the head makes of a Predict message: its columns in one buffer, checked once, still bytes.

Requests whose columns are of the same names and types share a `Layout`, so that those of a micro-batch are joined by
one kernel and prepared as one. Columns that came one by one are packed here first: after this there is one form.

Everything about sizes, offsets, rows and limits is checked per request, here; what the values mean is for the schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ringpull.inference.degrade.levels import Degradation
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.request import kernels
from ringpull.inference.request.column_codec import (
    LENGTHS,
    NUMBERS,
    check_shape,
    decode_strings,
    read_column,
    unknown_type,
)
from ringpull.inference.request.packing import pack
from ringpull.inference.schema.columns import Column, Ragged, bad_offsets, no_rows, not_one_row, other_rows
from ringpull.ps.errors import InvalidInput, LimitExceeded, RingpullError

_LAYOUTS_KEPT: Final = 256
_KEPT_LAYOUT_BYTES: Final = 1 << 16
"""A layout of more bytes is read anew each time: what strangers send must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may hold at most."""

    max_candidates: int
    """Rows."""
    max_values_per_row: int
    """Of one column."""
    max_columns: int = 4_096
    """Of features and context together."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What the columns of a request are. Requests of one layout usually share one object."""

    names: tuple[str, ...]
    dtypes: tuple[np.dtype[Any] | None, ...]
    """None: strings."""
    facts: NDArray[np.int64]
    """As the kernels take it."""
    widths: tuple[int, ...]
    """0: one value per row, or ragged."""

    @classmethod
    def of(cls, layout: bytes, max_columns: int) -> Layout:
        """Return the layout in a serialized `PackedLayout`.

        Raises:
            InvalidInput: It is none, or a column cannot be as it says; the message names the feature.
            LimitExceeded: It has more columns.
        """
        return (_known_layout if len(layout) <= _KEPT_LAYOUT_BYTES else _read_layout)(layout, max_columns)


@dataclass(frozen=True, slots=True, eq=False)
class ReceivedColumns:
    """The columns of one request, or of several end to end; all buffers are known to fit."""

    layout: Layout
    row_counts: tuple[int, ...]
    """Candidate rows of each request; context columns have a row for each of them."""
    words: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    places: NDArray[np.int64]
    degradation: Degradation | None = None
    """What is left out of them when they are prepared; None: nothing."""

    @classmethod
    def of(cls, message: pb.PackedColumns, limits: Limits) -> ReceivedColumns:
        """Read and check the packed columns of one request.

        Raises:
            InvalidInput: Sizes, offsets or rows do not fit; the message names the feature.
            LimitExceeded: Too many columns, rows, or values in a row.
        """
        layout, data, sizes = Layout.of(message.layout, limits.max_columns), message.data, message.sizes
        if len(data) % 8 or len(sizes) != 16 * len(layout.names):
            raise InvalidInput(
                f"packed: {len(sizes)} bytes of sizes for {len(layout.names)} columns, and {len(data)} bytes of data;"
                " there must be 16 for each column, and a multiple of 8"
            )
        words, own_sizes = np.frombuffer(data, np.uint64), np.frombuffer(sizes, np.int64).reshape(-1, 2)
        wrong, column, number, places = kernels.measure(
            words, own_sizes, layout.facts, limits.max_candidates, limits.max_values_per_row
        )
        if wrong != kernels.FITS:
            raise _refusal(layout, words, own_sizes, places, limits, wrong, column, number)
        return cls(layout, (number,), words, own_sizes, places)

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
            np.stack([request.sizes for request in requests]),
            np.stack([request.places for request in requests]),
            layout.facts,
        )
        row_counts = tuple(rows for request in requests for rows in request.row_counts)
        return cls(layout, row_counts, words, sizes, places, requests[0].degradation)

    @property
    def rows(self) -> int:
        """Candidate rows of all requests."""
        return sum(self.row_counts)

    @property
    def rows_left(self) -> int:
        """Those of them that are scored."""
        degradation = self.degradation
        return self.rows if degradation is None else sum(map(degradation.rows, self.row_counts))

    def columns(self) -> tuple[dict[str, Column], dict[str, Column]]:
        """Return the columns of candidates and of context, views of the words where they are not strings.

        Raises:
            InvalidInput: A string is not UTF-8; the message names its feature.
        """
        parts: tuple[dict[str, Column], dict[str, Column]] = {}, {}
        layout, words = self.layout, self.words
        signed, halves = words.view(np.int64), words.view(np.float32)
        columns = zip(
            layout.names,
            layout.dtypes,
            layout.widths,
            layout.facts.tolist(),
            self.sizes.tolist(),
            self.places.tolist(),
            strict=True,
        )
        for name, dtype, width, facts, (rows, count), (numbers, text_bytes, offsets, weights) in columns:
            _, ragged, weighted, _, context = facts
            values: NDArray[Any]
            if dtype is None:
                begin = 8 * (numbers + (count + 1) // 2)
                text = words.view(np.uint8)[begin : begin + text_bytes].tobytes()
                values = decode_strings(name, text, words.view(LENGTHS)[2 * numbers : 2 * numbers + count])
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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ReceivedCall:
    """A Predict call as the head takes it."""

    model: str
    version: int
    """0: the live one."""
    columns: ReceivedColumns
    outputs: tuple[str, ...]
    """Empty: all."""
    with_timings: bool
    request_id: str
    typed: bool
    """All columns were typed fields, so the reply's tensors are too."""


def decode_request(message: pb.PredictRequest, limits: Limits) -> ReceivedCall:
    """Return a message's call. Its arrays are read-only views of the message's bytes where those are packed.

    Raises:
        InvalidInput: A column's buffers do not fit; the message names the feature. Or the version is negative.
        LimitExceeded: The request is larger than `limits`.
    """
    version = message.version
    if version < 0:
        raise InvalidInput(f"version is {version}; it must be 1 or more, or 0 for the live one")
    packed = message.HasField("packed")
    if packed and (message.features or message.context):
        raise InvalidInput("packed: the request has columns in features or context too; send all of them in one place")
    return ReceivedCall(
        model=message.model,
        version=version,
        columns=ReceivedColumns.of(message.packed if packed else _packed(message, limits), limits),
        outputs=tuple(message.outputs),
        with_timings=message.with_timings,
        request_id=message.request_id,
        typed=not packed and not any(column.HasField("raw") for column in _columns(message)),
    )


def _packed(message: pb.PredictRequest, limits: Limits) -> pb.PackedColumns:
    """Return columns that came one by one as one buffer."""
    _check_count(len(message.features) + len(message.context), limits.max_columns)
    return pack(
        {name: read_column(name, column) for name, column in message.features.items()},
        {name: read_column(name, column) for name, column in message.context.items()},
    )


def _columns(message: pb.PredictRequest) -> list[pb.Column]:
    return [*message.features.values(), *message.context.values()]


def _check_count(columns: int, most: int) -> None:
    # Before anything is done per column: that is Python's work, and it would hold up all other requests.
    if columns > most:
        raise LimitExceeded(f"the request has {columns} columns; max_columns is {most}")


def _read_layout(layout: bytes, max_columns: int) -> Layout:
    try:
        message = pb.PackedLayout.FromString(layout)
    except DecodeError as exc:
        raise InvalidInput(f"packed: its layout is not a valid {pb.PackedLayout.DESCRIPTOR.full_name}: {exc}") from exc
    _check_count(len(message.columns), max_columns)
    facts, dtypes = [], []
    seen: set[tuple[str, bool]] = set()
    for column in message.columns:
        name = column.name
        if (name, column.context) in seen:
            raise InvalidInput(f"feature {name}: is twice among the columns")
        seen.add((name, column.context))
        if column.dtype != pb.STRING and column.dtype not in NUMBERS:
            raise unknown_type(name, "dtype", column.dtype)
        check_shape(name, ragged=column.ragged, weighted=column.weighted, width=column.width)
        dtype = NUMBERS.get(column.dtype)
        item = kernels.STRINGS if dtype is None else dtype.itemsize
        facts.append((item, column.ragged, column.weighted, column.width or 1, column.context))
        dtypes.append(dtype)
    if all(column.context for column in message.columns):
        raise InvalidInput("features: there are no candidate columns; send at least one, with a row per candidate")
    return Layout(
        tuple(column.name for column in message.columns),
        tuple(dtypes),
        np.array(facts, np.int64),
        tuple(column.width for column in message.columns),
    )


_known_layout = lru_cache(_LAYOUTS_KEPT)(_read_layout)


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
