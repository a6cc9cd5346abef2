"""Probing of a graph: it is run on ids that were made up, every tensor seen, for several numbers of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.onnx.binding import FRONT, Bound
from ringpull.inference.importers.onnx.elements import Elements
from ringpull.inference.importers.onnx.layout import READ_ROWS
from ringpull.inference.importers.onnx.one_hots import gathered
from ringpull.inference.importers.onnx.reading import Fed, Reading, read_graph, tell_apart
from ringpull.inference.importers.onnx.sessions import GraphFailed, GraphNotLoaded
from ringpull.inference.importers.onnx.source import SourceGraph
from ringpull.inference.schema.arguments import Argument, sequence_mask
from ringpull.inference.schema.kinds import Dense, IdSequence
from ringpull.inference.schema.schema import Schema

Array = NDArray[Any]

_SEVERAL_IDS: Final = 2
"""Ids that are drawn first; where a graph has no rows for them, all are 0, or 1."""

_SMALL_CONSTANT: Final = 16
"""Numbers of a constant near which ids are tried."""
_MAX_TRIES: Final = 20

RAGGED_IDS: Final = (13, 18, 27, 16)
"""Ids that features of many have in each reading."""


@dataclass(frozen=True, slots=True, eq=False)
class Probed:
    """Readings of a graph for different numbers of rows, and the elements of them all."""

    readings: tuple[Reading, ...]
    elements: Elements
    ids: tuple[int, int]
    """Bounds of the ids that it was read with."""


def probe_lookups(source: SourceGraph, bound: Bound, schema: Schema) -> tuple[SourceGraph, Probed]:
    """Read a graph whose inputs are the schema's arguments, and return it with all its look-ups as such.

    Raises:
        GraphFailed: It fails, whatever ids it is given.
    """
    probed = probe(source, bound, schema)
    changed = gathered(source, probed.readings)
    return (source, probed) if changed is None else (changed, probe(changed, bound, schema, probed.ids))


def probe(source: SourceGraph, bound: Bound, schema: Schema, ids: tuple[int, int] | None = None) -> Probed:
    """Read a graph whose inputs are the schema's arguments; `ids` are bounds of some that it may take.

    Raises:
        GraphFailed: It fails, whatever ids it is given.
    """
    elements = Elements()
    ragged = any(each.part == "values" for bound_input in bound.inputs for each in bound_input.members)
    # With the rows of the first and other ids, sizes are seen that are those of ids, not of rows.
    counts = (*READ_ROWS, READ_ROWS[0]) if ragged else READ_ROWS
    failure: GraphFailed | None = None
    for first, last in [*([ids] if ids else []), *_tried_ids(source)]:
        try:
            readings = []
            for number, rows in enumerate(counts):
                random = np.random.default_rng(number)
                maker = _Maker(schema, rows, RAGGED_IDS[number], first, last, random)
                fed = maker.fed(bound, elements)
                readings.append(read_graph(source, fed, rows, elements))
            tell_apart(readings)
            return Probed(tuple(readings), elements, (first, last))
        except GraphNotLoaded:
            raise
        except GraphFailed as exc:
            failure = exc
    assert failure is not None
    raise failure


def _tried_ids(source: SourceGraph) -> list[tuple[int, int]]:
    """Return bounds of ids that a graph may have rows for: small ones, then some near its constants."""
    constants = {
        int(each)
        for array in source.constants().values()
        if array.dtype.kind in "iu" and array.size <= _SMALL_CONSTANT
        for each in array.reshape(-1)
    }
    for node in source.graph.node:
        if node.domain == "ai.onnx.ml":  # encoders, whose constants are attributes
            taken = [own for own in node.attribute if not own.name.startswith("values_")]
            constants.update(each for own in taken for each in own.ints[:_SMALL_CONSTANT])
    near = sorted({sign * each + by for each in constants for by in (0, 1, -1) for sign in (1, -1)}, key=abs)
    fitting = [(each, each + 1) for each in near if abs(each) < 2**31]
    return [(0, _SEVERAL_IDS), (0, 1), (1, 2), *fitting[:_MAX_TRIES]]


@dataclass(frozen=True, slots=True, eq=False)
class _Maker:
    """Maker of arguments of one run."""

    schema: Schema
    rows: int
    ids: int
    """Ids of each feature of many."""
    first: int
    last: int
    """Ids are from the first on, below the last."""
    random: np.random.Generator

    def fed(self, bound: Bound, elements: Elements) -> dict[str, Fed]:
        """Return what each argument is given."""
        made: Mapping[str, Argument] = {each.name: each for bound_input in bound.inputs for each in bound_input.members}
        return {FRONT + name: self._fed(each, elements) for name, each in made.items()}

    def _fed(self, argument: Argument, elements: Elements) -> Fed:
        name, rows = argument.features[0], self.rows
        feature = self.schema[name]
        match argument.part:
            case "id":
                numbers = np.array([elements.sent(name, row) for row in range(rows)], np.int64)
                return Fed(self._ids((rows,)), numbers)
            case "sequence" if isinstance(feature, IdSequence):
                length = feature.length
                places = [elements.sent(name, row, place) for row in range(rows) for place in range(length)]
                ids = self._ids((rows, length))
                mask = sequence_mask(self._lengths(length), feature)
                ids = np.where(mask, ids, feature.pad)
                return Fed(ids, np.array(places, np.int64).reshape(rows, length))
            case "values":
                return Fed(
                    self._ids((self.ids,)), np.array([elements.sent(name, row) for row in range(self.ids)], np.int64)
                )
            case "offsets":
                offsets = np.sort(np.append(np.arange(0, self.ids, -(-self.ids // rows)), [self.ids] * rows))[:rows]
                last = getattr(feature, "include_last_offset", True)
                return Fed(np.append(offsets, self.ids) if last else offsets)
            case "lengths" if isinstance(feature, IdSequence):
                return Fed(self._lengths(feature.length))
            case "weights":
                return Fed(self.random.random(self.ids, np.float32))
        width = feature.width if isinstance(feature, Dense) else 1
        values = self.random.random((rows, width), np.float32)
        return Fed(values[:, 0] if argument.part == "number" else values)

    def _ids(self, shape: tuple[int, ...]) -> Array:
        return self.random.integers(self.first, self.last, shape)

    def _lengths(self, length: int) -> Array:
        return np.maximum(1, length - np.arange(self.rows) % length)
