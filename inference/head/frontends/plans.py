"""Plans: how tensors that came as bytes become the columns of a request, worked out once for requests that look alike.

A request's columns are one buffer, in which their numbers lie as tensors have them (`ringpull.inference.wire.packing`).
So where all tensors are of types that columns have, there is nothing to convert: the plan says in which order their
bytes go, and what their shapes must be. Requests look alike if their tensors have the same names, types and dimensions
but for the number of rows; and for the values of a bag that is the only row.

A plan gives no errors. What does not fit it takes the long way (`ringpull.inference.head.frontends.tensors`), which
says what is wrong; both give the same columns (tested), but that a bag which is the only row here has offsets, so that
requests whose bags differ in length share a layout, and a micro-batch.

The 27 tensors of 128 candidates take 90 us from message to columns, the long way 490 (2 cores of an Intel Xeon).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.head.frontends.tensors import OFFSETS, WEIGHTS, has_many
from ringpull.inference.head.request.received import Layout, Limits, ReceivedColumns
from ringpull.inference.schema.kinds import Dense, Feature, MadeFeature, SentFeature
from ringpull.inference.wire.column_codec import DataType
from ringpull.inference.wire.packing import LAYOUTS_KEPT, ColumnKind

NAMES_KEPT: Final = 1 << 14
"""Characters of names in a request whose plan is kept: what strangers send must not fill the memory."""

TYPES: Final = {"INT64": (DataType.INT64, 8), "UINT64": (DataType.UINT64, 8), "FP32": (DataType.FLOAT32, 4)}
"""Datatypes that columns have: the column's, and bytes of a value."""

NONE: Final = -1
ONE_BAG: Final = -2
"""Offsets that are made here: all values are the bag of the only row."""
MANY_ROWS: Final = 3
"""Rows from which on tensors look alike; 2 offsets are those of one row."""

_PADDING: Final = tuple(bytes(size) for size in range(8))
_ONE_BAG: Final = Struct("<qq")

TensorKind = tuple[str, str, int, int, int]
"""What is alike of a tensor in requests that look alike: name, datatype, number of dimensions, second dimension (0
where there is none, or where there is one row), rows up to `MANY_ROWS`. A plain tuple, for there are many."""


def kind_of(name: str, datatype: str, shape: Sequence[int]) -> TensorKind:
    """Return the kind of a tensor."""
    dimensions = len(shape)
    rows = shape[0] if dimensions else 0
    return name, datatype, dimensions, shape[1] if dimensions > 1 and rows != 1 else 0, min(rows, MANY_ROWS)


class Source(NamedTuple):
    """Place from which a column comes, in tensors by their number."""

    values: int
    offsets: int
    """`NONE`: rows are of one length. `ONE_BAG`: one row."""
    weights: int
    itemsize: int
    width: int
    """Values per row; 0: as many as the second dimension says."""


class Plan(NamedTuple):
    """Layout of a request, and where its columns come from, in its order."""

    layout: Layout
    sources: tuple[Source, ...]

    def columns(
        self, shapes: Sequence[tuple[int, ...]], raws: Sequence[bytes | memoryview], limits: Limits
    ) -> ReceivedColumns | None:
        """Return the columns of a request; None: it is not what its shapes say.

        Raises:
            InvalidInput: Offsets or rows do not fit; the message names the feature.
            LimitExceeded: Too many rows, or values in a row.
        """
        parts: list[bytes | memoryview] = []
        sizes: list[int] = []
        for values, offsets, weights, itemsize, width in self.sources:
            shape, raw = shapes[values], raws[values]
            rows = shape[0]
            count = rows * (width or shape[1])
            nbytes = len(raw)
            # The width of one row is not part of its kind, so that it is looked at here.
            if nbytes != count * itemsize or (width and shape[1:] not in ((), (width,))):
                return None
            parts.append(raw)
            if nbytes % 8:
                parts.append(_PADDING[-nbytes % 8])
            if offsets >= 0:
                starts = raws[offsets]
                rows = shapes[offsets][0] - 1
                if rows < 0 or len(starts) != 8 * (rows + 1):
                    return None
                parts.append(starts)
            elif offsets == ONE_BAG:
                parts.append(_ONE_BAG.pack(0, count))
            if weights >= 0:
                factors = raws[weights]
                nbytes = len(factors)
                if nbytes != 4 * count or shapes[weights][0] != count:
                    return None
                parts.append(factors)
                if nbytes % 8:
                    parts.append(_PADDING[-nbytes % 8])
            sizes.append(rows)
            sizes.append(count)
        return ReceivedColumns.checked(self.layout, np.array(sizes, np.int64).reshape(-1, 2), b"".join(parts), limits)


class Plans:
    """Plans of the versions that are served, for as long as they are. Owned by the event loop."""

    def __init__(self) -> None:
        self._plans: WeakKeyDictionary[ServedVersion, dict[tuple[TensorKind, ...], Plan | None]] = WeakKeyDictionary()

    def find(self, served: ServedVersion, kinds: tuple[TensorKind, ...]) -> Plan | None:
        """Return the plan of a version's requests of such tensors; None: they have to take the long way."""
        kept = self._plans.setdefault(served, {})
        if kinds in kept:
            return kept[kinds]
        plan = plan_of(kinds, served.loaded.schema.features)
        if sum(len(kind[0]) for kind in kinds) <= NAMES_KEPT:
            if len(kept) >= LAYOUTS_KEPT:
                kept.clear()
            kept[kinds] = plan
        return plan


def plan_of(kinds: Sequence[TensorKind], features: Iterable[Feature]) -> Plan | None:
    """Return the plan for tensors of these kinds; None: there is none, or they fit no request at all."""
    known = {each.name: each for each in features if not isinstance(each, MadeFeature)}
    places = {kind[0]: place for place, kind in enumerate(kinds)}
    if len(places) < len(kinds):
        return None
    columns: dict[str, tuple[ColumnKind, Source, bool]] = {}
    used: set[int] = set()
    for name, place in places.items():
        if name in known:
            column = _column(known, known[name], kinds, place, places)
            if column is None:
                return None
            columns[name] = column
            used.update((column[1].values, column[1].offsets, column[1].weights))
    if not columns or not used >= {*places.values()}:
        return None
    all_of_one_row = all(one for _, _, one in columns.values())
    own: list[tuple[ColumnKind, Source]] = []
    context: list[tuple[ColumnKind, Source]] = []
    for name in sorted(columns):
        (_, dtype, _, ragged, weighted, width), source, one = columns[name]
        in_context = one and not all_of_one_row
        (context if in_context else own).append(((name, dtype, in_context, ragged, weighted, width), source))
    return Plan(Layout.of(tuple(kind for kind, _ in own + context)), tuple(source for _, source in own + context))


def _column(
    known: Mapping[str, SentFeature],
    feature: SentFeature,
    kinds: Sequence[TensorKind],
    place: int,
    places: Mapping[str, int],
) -> tuple[ColumnKind, Source, bool] | None:
    """Return the column of a tensor, where it comes from, and whether it is of one row; None: it needs the long way."""
    name, datatype, dimensions, second, rows = kinds[place]
    if datatype not in TYPES or not 1 <= dimensions <= 2:
        return None
    dtype, itemsize = TYPES[datatype]

    def part(suffix: str, wanted: str) -> int | None:
        """Return the number of a tensor that goes with this one; None: it is not as it has to be."""
        at = NONE if name + suffix in known else places.get(name + suffix, NONE)
        return at if at == NONE or kinds[at][1:3] == (wanted, 1) else None

    offsets, weights = part(OFFSETS, "INT64"), part(WEIGHTS, "FP32")
    if offsets is None or weights is None:
        return None
    many = has_many(feature)
    if many and dimensions == 1 and name + OFFSETS in known:
        return None
    if offsets != NONE:
        fits = many and dimensions == 1
        column = _of(name, dtype, True, weights != NONE, 0), Source(place, offsets, weights, itemsize, 1)
        return (*column, kinds[offsets][4] == 2) if fits else None
    if weights != NONE:
        return None
    if many and dimensions == 2 and rows == 1:
        return _of(name, dtype, True, False, 0), Source(place, ONE_BAG, NONE, itemsize, 0), True
    width = 1
    if many:
        width = second if dimensions == 2 else 1
    elif isinstance(feature, Dense):
        width = feature.width
    if width < 1 or (dimensions == 1 and width > 1) or (dimensions == 2 and rows != 1 and second != width):
        return None
    wide = many or width > 1
    return _of(name, dtype, False, False, width if wide else 0), Source(place, NONE, NONE, itemsize, width), rows == 1


def _of(name: str, dtype: int, ragged: bool, weighted: bool, width: int) -> ColumnKind:
    return name, dtype, False, ragged, weighted, width
